"""What all verbs share: the global options, the connection to the daemon, and ways to print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import click
from msgspec import Struct
from msgspec.structs import replace

from bgctl.options import FILE
from bgd import Client
from bgd.escape import one_line
from bgd.formatting import short_duration

F = TypeVar("F", bound=Callable[..., Any])
COMPLETION_VARIABLE = "_BGCTL_COMPLETE"  # in which a shell says what it wants completed
STATE_COLORS = {
    "running": "blue",
    "stopping": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}


def verb(
    name: str, *examples: str, ends_options: bool = False, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., int]], click.Command]:
    """Make a function a verb: the global options are taken care of, its result is the exit code.

    `ends_options`: what follows the first argument is that program's own, options included.
    """
    settings: dict[str, object] = {"allow_interspersed_args": not ends_options}
    epilog = "\n  ".join(["\b\nExamples:", *examples]) + f"\n\n{_SEE_ALSO}"

    def decorate(function: Callable[..., int]) -> click.Command:
        with_all = with_global_options(hidden=True)(function)
        return click.command(name, cls, context_settings=settings, epilog=epilog)(with_all)

    return decorate


_SEE_ALSO = "Global options too: --socket, --config, --user, --system, --json, --color; see 'bgctl --help'."


def verb_group(name: str, purpose: str, *verbs: click.Command) -> VerbGroup:
    """Return the group of these verbs, of which the first is meant where none is named."""

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
        epilog=f"No verb means {verbs[0].name}.",
    )


class VerbGroup(click.Group):
    """Finds the verb that was typed, or names the nearest."""

    synonyms: Mapping[str, str] = {}  # words of other programs, for hints only

    def known_words(self) -> Iterable[str]:
        """Return what may be typed."""
        return self.commands

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; "help" as a verb stands for the option."""
        if not ctx.resilient_parsing and args == ["help"]:
            click.echo(ctx.get_help())
            ctx.exit()
        if args[0] == "help":
            args = [*args[1:], "--help"]
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            from bgd.settings import nearest  # noqa: PLC0415 - needed only to word an error

            _, *above = ctx.command_path.split()
            meant = self.synonyms.get(args[0], args[0])
            raise click.UsageError(
                f"no verb {' '.join([*above, args[0]])!r}: {nearest(meant, self.known_words())}"
            )
        return super().resolve_command(ctx, args)


def with_global_options(*, hidden: bool) -> Callable[[F], F]:
    """Give a command the global options; `hidden` keeps them out of its help."""
    option = partial(click.option, expose_value=False, callback=_remember, hidden=hidden)
    options = [
        option(
            "--socket",
            type=FILE,
            metavar="PATH",
            help="The daemon's socket; else $BGD_SOCKET, else the usual places.",
        ),
        option("--config", type=FILE, metavar="FILE", help="Configuration that says where the daemon is."),
        option("--user", is_flag=True, help="Only your own daemon."),
        option("--system", is_flag=True, help="Only the system's daemon."),
        option(
            "--json",
            is_flag=True,
            help="JSON on stdout, one document, or one a line where things come in turn.",
        ),
        option("--color", type=click.Choice(["auto", "always", "never"]), help="When to use colours."),
    ]

    def decorate(function: F) -> F:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value and parameter.name:  # not given here: what stood before the verb stays
        root = context.find_root()
        root.obj = replace(root.obj, **{parameter.name: value})


class GlobalOptions(Struct, frozen=True, kw_only=True):
    """The global options as they were given, before the verb or after it."""

    socket: str | None = None
    config: str | None = None
    user: bool = False
    system: bool = False
    json: bool = False
    color: str = "auto"


def global_options() -> GlobalOptions:
    """Return the global options of this call."""
    options = click.get_current_context().find_root().obj
    assert isinstance(options, GlobalOptions)  # noqa: S101 - bgctl.__main__ puts it there
    return options


def client(*, autostart: bool = False) -> Client:
    """Return the way to the daemon that the global options name.

    `autostart`: the caller's own daemon is started if it is down.
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
    """Tell the person something that is no data."""
    click.echo(f"bgctl: {one_line(message)}", err=True)


def print_json(value: object) -> None:
    """Print one JSON document on one line, in ASCII: valid in any locale, and harmless on a terminal."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def print_columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns for programs: split at blanks, all but the last hold none."""
    lines = [
        headings,
        *((*(cell.replace(" ", _VISIBLE_BLANK) for cell in row[:-1]), row[-1]) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


_VISIBLE_BLANK = "\N{OPEN BOX}"


def is_terminal() -> bool:
    """Tell whether a person reads stdout: tables are for people, columns for programs."""
    return sys.stdout.isatty()


def has_colors() -> bool:
    """Tell whether colours may go to stdout."""
    match global_options().color:
        case "always":
            return True
        case "never":
            return False
        case _:
            return is_terminal() and not os.environ.get("NO_COLOR")  # https://no-color.org


def local_time(at: float | None, now: float) -> str:
    """Return an instant for people: local, and how long ago or ahead it is."""
    if at is None:
        return "-"
    distance = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S} ({distance})"


def excerpt(text: str) -> str:
    """Return a text of strangers for a place within a sentence: visible, and cut if it is long."""
    text = one_line(text)
    return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}..."


_LONGEST_EXCERPT = 300  # characters
