"""What all verbs share: declaring verbs, global options, connecting to the daemon, and printing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import Struct
from msgspec.structs import replace

from bgctl.options import FILE
from bgd import Client
from bgd.escape import one_line

if TYPE_CHECKING:
    from bgd import Job

F = TypeVar("F", bound=Callable[..., Any])
COMPLETION_VARIABLE = "_BGCTL_COMPLETE"  # set by the shell; says what to complete
_STATE_COLORS = {
    "running": "blue",
    "stopping": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}


def verb(
    name: str, *examples: str, ends_options: bool = False, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., int]], click.Command]:
    """Turn a function that returns an exit code into a verb with the global options.

    Args:
        name: the verb.
        examples: command lines for the help.
        ends_options: leave everything after the first argument to the program that it names.
        cls: class of the command.
    """
    settings: dict[str, object] = {"allow_interspersed_args": not ends_options}
    epilog = "\n  ".join(["\b\nExamples:", *examples]) + f"\n\n{_SEE_ALSO}"

    def decorate(function: Callable[..., int]) -> click.Command:
        with_all = with_global_options(hidden=True)(function)
        return click.command(name, cls, context_settings=settings, epilog=epilog)(with_all)

    return decorate


_SEE_ALSO = "Global options: --socket, --config, --user, --system, --json, --color; see 'bgctl --help'."


def verb_group(name: str, purpose: str, *verbs: click.Command) -> VerbGroup:
    """Return a group of verbs; the first one is the default."""

    def choose() -> int:
        context = click.get_current_context()
        if context.invoked_subcommand is not None:
            return 0
        code: int = context.invoke(verbs[0])
        return code

    return VerbGroup(
        name,
        commands=list(verbs),
        callback=choose,
        help=purpose,
        params=with_global_options(hidden=True)(click.Command(name)).params,
        invoke_without_command=True,
        subcommand_metavar="VERB ...",
        epilog=f"The default verb is {verbs[0].name}.",
    )


class VerbGroup(click.Group):
    """A group that suggests the nearest verb if there is none of that name."""

    synonyms: Mapping[str, str] = {}  # words of other programs, for hints only

    def known_words(self) -> Iterable[str]:
        """Return the verbs and aliases that a suggestion may name."""
        return self.commands

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; read the verb "help" as the option --help."""
        if not ctx.resilient_parsing and args == ["help"]:
            click.echo(ctx.get_help())
            ctx.exit()
        if args[0] == "help":
            args = [*args[1:], "--help"]
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            from bgd.settings import nearest  # noqa: PLC0415 - only for an error

            _, *above = ctx.command_path.split()
            meant = self.synonyms.get(args[0], args[0])
            raise click.UsageError(
                f"no verb {' '.join([*above, args[0]])!r}: {nearest(meant, self.known_words())}"
            )
        return super().resolve_command(ctx, args)


def with_global_options(*, hidden: bool) -> Callable[[F], F]:
    """Add the global options to a command; `hidden` keeps them out of its help."""
    option = partial(click.option, expose_value=False, callback=_remember, hidden=hidden)
    options = [
        option(
            "--socket",
            type=FILE,
            metavar="PATH",
            help="Socket of the daemon; default: $BGD_SOCKET, then the standard paths.",
        ),
        option("--config", type=FILE, metavar="FILE", help="Configuration file of the daemon."),
        option("--user", is_flag=True, help="Use only your own daemon."),
        option("--system", is_flag=True, help="Use only the system daemon."),
        option(
            "--json",
            is_flag=True,
            help="Print JSON: one document, or one per line for streams.",
        ),
        option("--color", type=click.Choice(["auto", "always", "never"]), help="When to use colors."),
    ]

    def decorate(function: F) -> F:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value and parameter.name:  # otherwise keep what was given before the verb
        root = context.find_root()
        root.obj = replace(root.obj, **{parameter.name: value})
    if parameter.name == "color":
        context.color = {"always": True, "never": False}.get(str(value), context.color)  # for click.echo


class GlobalOptions(Struct, frozen=True, kw_only=True):
    """The global options, from before or after the verb."""

    socket: str | None = None
    config: str | None = None
    user: bool = False
    system: bool = False
    json: bool = False
    color: str = "auto"


def global_options() -> GlobalOptions:
    """Return the global options of this command line."""
    options = click.get_current_context().find_root().obj
    assert isinstance(options, GlobalOptions)  # noqa: S101 - bgctl.program puts it there
    return options


def client(*, autostart: bool = False) -> Client:
    """Return a client of the daemon that the global options select.

    `autostart`: start the caller's own daemon if it is down.
    """
    options = global_options()
    if options.user and options.system:
        raise click.UsageError("--user and --system exclude each other")
    return Client(
        options.socket,
        autostart=autostart,
        config=options.config,
        user=options.user,
        system=options.system,
        on_autostart=lambda pid, log: say(f"started a daemon for you (pid {pid}, log {log})"),
    )


def say(message: str) -> None:
    """Print a message, which is not data, to stderr."""
    click.echo(f"bgctl: {one_line(message)}", err=True)


def print_json(value: object) -> None:
    """Print a JSON document on one line, in ASCII: valid in any locale and safe on a terminal."""
    import json  # noqa: PLC0415 - people and most scripts read text

    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def print_columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns for programs; only the last column may contain blanks."""
    lines = [
        headings,
        *((*(cell.replace(" ", _VISIBLE_BLANK) for cell in row[:-1]), row[-1]) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


_VISIBLE_BLANK = "\N{OPEN BOX}"


def is_terminal() -> bool:
    """Return whether stdout is a terminal: people get tables, programs get columns."""
    return sys.stdout.isatty()


def has_colors() -> bool:
    """Return whether to print colors to stdout."""
    match global_options().color:
        case "always":
            return True
        case "never":
            return False
        case _:
            return is_terminal() and not os.environ.get("NO_COLOR")  # https://no-color.org


def state_color(job: Job) -> str | None:
    """Return the color of a job's state; None if it has none of its own."""
    return _SUSPENDED_COLOR if job.suspended else _STATE_COLORS.get(job.state)


_SUSPENDED_COLOR = "magenta"


def local_time(at: float | None, now: float) -> str:
    """Return an instant for people: local time and distance from `now`; "-" for None."""
    if at is None:
        return "-"
    from bgd.formatting import short_duration  # noqa: PLC0415 - most submits print an id only

    distance = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S} ({distance})"


def excerpt(text: str) -> str:
    """Return untrusted text for use within a sentence: escaped, on one line, and cut if it is long."""
    text = one_line(text)
    return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}..."


_LONGEST_EXCERPT = 300  # characters
