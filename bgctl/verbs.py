"""How verbs are declared, with the options that all of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, TypeVar

import click

from bgctl.common import begun, client, has_colors, set_global_options
from bgctl.options import FILE, with_options
from bgd.errors import nearest

F = TypeVar("F", bound=Callable[..., Any])


def verb(
    *examples: str, autostart: bool = False, **settings: Any
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Turn a function NAME_command, whose first parameter is a client of the daemon, into a verb.

    Args:
        examples: command lines for the help.
        autostart: start the caller's own daemon if it is down.
        settings: others of `verb_without_daemon`.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @wraps(function)
        def connected(**given: Any) -> int | None:
            with client(autostart=autostart) as daemon:
                if begun().is_lost and begun().job is None:  # `run` says what becomes of its job
                    daemon.reconnect()
                return function(daemon, **given)

        return verb_without_daemon(*examples, **settings)(connected)

    return decorate


def verb_without_daemon(
    *examples: str, ends_options: bool = False, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Turn a function NAME_command into a verb with the global options.

    The function returns an exit code; None means 0.

    Args:
        examples: command lines for the help.
        ends_options: leave everything after the first argument to the program that it names.
        cls: class of the command.
    """
    settings: dict[str, object] = {"allow_interspersed_args": not ends_options}
    epilog = "\n  ".join(["\b\nExamples:", *examples]) + f"\n\n{_SEE_ALSO}"

    def decorate(function: Callable[..., int | None]) -> click.Command:
        with_all = with_global_options(hidden=True)(function)
        return click.command(name_of(function), cls, context_settings=settings, epilog=epilog)(with_all)

    return decorate


def name_of(function: Callable[..., object]) -> str:
    """Return the verb that a function is for."""
    return function.__name__.removesuffix("_command")


_SEE_ALSO = "Global options: --socket, --config, --user, --system, --json, --color; see 'bgctl --help'."


class ProgramVerb(click.Command):
    """A verb that receives a program as `argv`: all words after --, or after its other arguments."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the pieces of the usage line, with the program at its end."""
        return [*super().collect_usage_pieces(ctx), "[-- PROGRAM [ARGS]...]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the program aside, because click would read it as more arguments."""
        numbers = [each.nargs for each in self.params if isinstance(each, click.Argument)]
        most = len(args) if -1 in numbers else sum(numbers)
        end = before_program(self, ctx, args, most)
        ctx.params["argv"] = tuple(args[end:] if args[end : end + 1] != ["--"] else args[end + 1 :])
        return super().parse_args(ctx, args[:end])


def before_program(verb: click.Command, ctx: click.Context, args: list[str], most: int) -> int:
    """Return how many words stand before a program, which follows -- or `most` arguments of the verb."""
    takes_value = {
        name: isinstance(option, click.Option) and not option.is_flag and not option.count
        for option in verb.get_params(ctx)
        for name in option.opts
    }
    names, index = 0, 0
    while index < len(args) and args[index] != "--":
        word = args[index]
        if word.startswith("-") and word != "-":
            index += 1 + takes_value.get(word, False)
            continue
        names += 1
        if names > most - ("--calendar" in args[:index]):  # in place of WHEN
            break
        index += 1
    return min(index, len(args))


def verb_group(name: str, purpose: str, *verbs: click.Command) -> VerbGroup:
    """Return a group of verbs; the first one is the default."""

    def choose() -> int:
        context = click.get_current_context()
        if context.invoked_subcommand is not None:
            return 0
        return context.invoke(verbs[0]) or 0

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
            _, *above = ctx.command_path.split()
            from bgctl.hints import for_missing_verb, in_group  # noqa: PLC0415 - only for an error

            hint = in_group(" ".join(above), args)
            if hint is None:
                known = self.known_words()
                hint = nearest(args[0], known) if above else for_missing_verb(args, known)
            raise click.UsageError(f"no verb {' '.join([*above, args[0]])!r}: {hint}")
        return super().resolve_command(ctx, args)


def with_global_options(*, hidden: bool) -> Callable[[F], F]:
    """Add the global options to a command; `hidden` keeps them out of its help."""
    option = partial(click.option, expose_value=False, callback=_remember, hidden=hidden)
    return with_options(
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
    )


def quiet_option(function: F) -> F:
    """Add --quiet to a verb."""
    help_ = "Print nothing but the output of the job and errors."
    add = click.option("--quiet", is_flag=True, expose_value=False, callback=_remember, help=help_)
    return add(function)


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value and parameter.name:  # otherwise keep what was given before the verb
        set_global_options(**{parameter.name: value})
    if parameter.name == "color":
        context.color = has_colors()  # for click.echo
