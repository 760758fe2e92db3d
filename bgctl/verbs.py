"""How verbs are declared, with the options that all of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import click

from bgctl.common import set_global_options
from bgctl.options import FILE, with_options
from bgd.errors import nearest

F = TypeVar("F", bound=Callable[..., Any])


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

            hint = in_group(" ".join(above), args[0])
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


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value and parameter.name:  # otherwise keep what was given before the verb
        set_global_options(**{parameter.name: value})
    if parameter.name == "color":
        context.color = {"always": True, "never": False}.get(str(value), context.color)  # for click.echo
