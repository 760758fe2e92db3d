"""Families: verbs that stand under a common name, as `queue list` and `queue set`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click

from bgctl.common import with_common_options


class Family(click.Group):
    """Finds the verb that was typed, or names the nearest."""

    other_words: Mapping[str, str] = {}  # as other programs say it; only for a hint

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
            meant = self.other_words.get(args[0], args[0])
            raise click.UsageError(
                f"no verb {' '.join([*above, args[0]])!r}: {nearest(meant, self.known_words())}"
            )
        return super().resolve_command(ctx, args)


def family(name: str, purpose: str, *verbs: click.Command) -> Family:
    """Return the family of these verbs, of which the first is meant where none is named."""

    def choose() -> int:
        context = click.get_current_context()
        if context.invoked_subcommand is not None:
            return 0
        code: int = context.invoke(verbs[0])
        return code

    return Family(
        name,
        commands=list(verbs),
        callback=choose,
        help=purpose,
        params=with_common_options(hidden=True)(click.Command(name)).params,
        invoke_without_command=True,
        subcommand_metavar="VERB ...",
        epilog=f"No verb means {verbs[0].name}.",
    )
