"""The verbs: which there are, and where; each family's module is imported when one of it is called."""

from __future__ import annotations

from importlib import import_module

import click

import bgd
from bgctl.common import with_common_options

_HOME = {
    "submit": "submitting",
    "call": "submitting",
    "run": "submitting",
    "list": "listing",
    "show": "showing",
    "logs": "logs",
    "wait": "waiting",
    "cancel": "acting",
    "retry": "acting",
    "info": "daemon",
    "dashboard": "daemon",
    "shutdown": "daemon",
}
_ALIASES = {"ls": "list", "status": "show"}
_OTHER_WORDS = {  # as other programs say it; only for a hint
    "add": "submit",
    "delete": "cancel",
    "jobs": "list",
    "kill": "cancel",
    "ps": "list",
    "remove": "cancel",
    "restart": "retry",
    "rm": "cancel",
    "stop": "cancel",
    "tail": "logs",
}


class Verbs(click.Group):
    """Finds commands by name without importing the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of help."""
        del ctx
        return list(_HOME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb; None if there is none of that name."""
        del ctx
        verb = _ALIASES.get(cmd_name, cmd_name)
        if verb not in _HOME:
            return None
        command = getattr(import_module(f"bgctl.{_HOME[verb]}"), f"{verb}_command")
        assert isinstance(command, click.Command)  # noqa: S101 - ours
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that was typed, or name the nearest."""
        if self.get_command(ctx, args[0]) is None:
            from bgd.settings import nearest  # noqa: PLC0415 - needed only to word an error

            meant = _OTHER_WORDS.get(args[0], args[0])
            raise click.UsageError(f"no verb {args[0]!r}: {nearest(meant, [*_HOME, *_ALIASES])}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB ...",
    epilog="Options stand before the verb or after it. No verb means list. 'bgctl VERB --help' has examples.",
)
@click.version_option(bgd.__version__, prog_name="bgctl", message="%(prog)s %(version)s")
@with_common_options(hidden=False)
@click.pass_context
def bgctl(context: click.Context) -> int:
    """Hand jobs to bgd, see what became of them, and steer them."""
    if context.invoked_subcommand is not None:
        return 0
    command = bgctl.get_command(context, "list")
    assert command is not None  # noqa: S101 - it is in the table
    code: int = context.invoke(command)
    return code
