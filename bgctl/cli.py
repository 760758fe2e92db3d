"""Find the verb and parse its words."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

import bgd
from bgctl.common import WrongUsage
from bgctl.verbs import VerbGroup, with_global_options
from bgd.core.job import VERBS

if TYPE_CHECKING:
    from bgctl.plain import Begun


def invoke(arguments: list[str], begun: Begun | None = None) -> int:
    """Run the verb that the arguments name, after what was done for it; return its exit code.

    Raises:
        WrongUsage: the words are not understood.
    """
    try:
        with cli.make_context("bgctl", arguments, obj=begun) as context:
            return cli.invoke(context) or 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        from bgctl.usage import message_of  # noqa: PLC0415 - only for an error

        raise WrongUsage(message_of(error)) from error


# The verbs of each module, in the order of the help
_FAMILIES = {
    "submit call run": "submitting",
    "batch": "batch",
    "list": "listing",
    "watch top": "watching",
    "show explain": "showing",
    "logs": "logs",
    "search": "searching",
    "wait progress": "waiting",
    "inbox": "agents.inbox",
    "attach send": "attaching",
    " ".join(VERBS): "acting",
    "slots pause resume queue": "queues",
    "schedule": "schedules",
    "stats events": "listing",
    "info dashboard config reload": "daemon",
    "completion": "completing",
    "shutdown": "daemon",
    "prune": "acting",
    "backup doctor": "daemon",
    "service": "service",
    "agent": "agents.install",
    "mcp": "agents.mcp",
}
_MODULES = {verb: module for verbs, module in _FAMILIES.items() for verb in verbs.split()}
_ALIASES = {"ls": "list", "status": "list"}


class LazyVerbGroup(VerbGroup):
    """The top-level group; it imports the module of a verb only when the verb is used."""

    def known_words(self) -> list[str]:
        """Return all verbs and their aliases."""
        return [*_MODULES, *_ALIASES]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the help."""
        del ctx
        return list(_MODULES)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; a number alone shows the job, and `help --for-agents` a page."""
        if args == ["help", "--for-agents"]:
            click.echo(import_module("bgctl.agents.install").guide(), nl=False)
            ctx.exit()
        return super().resolve_command(ctx, ["show", *args] if args[0].isdecimal() else args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb; return None if no verb has this name."""
        del ctx
        verb = _ALIASES.get(cmd_name, cmd_name)
        if verb not in _MODULES:
            return None
        command = getattr(import_module(f"bgctl.{_MODULES[verb]}"), f"{verb}_command")
        assert isinstance(command, click.Command)  # noqa: S101 - by convention
        return command


@click.group(
    "bgctl",
    cls=LazyVerbGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB ...",
    epilog="Global options go before or after the verb. The default verb is list. See 'bgctl VERB --help';"
    " 'bgctl help --for-agents' is one page for coding agents.",
)
@click.version_option(bgd.__version__, prog_name="bgctl", message="%(prog)s %(version)s")
@with_global_options(hidden=False)
@click.pass_context
def cli(context: click.Context) -> int:
    """Submit jobs to bgd, watch them and control them."""
    if context.invoked_subcommand is not None:
        return 0
    command = cli.get_command(context, "list")
    assert command is not None  # noqa: S101 - it is in the table
    return context.invoke(command) or 0
