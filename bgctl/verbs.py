"""The verbs: which there are, and where; each family's module is imported when one of it is called."""

from __future__ import annotations

from importlib import import_module

import click

import bgd
from bgctl.common import VerbGroup, with_global_options

_HOME = {
    "submit": "submitting",
    "call": "submitting",
    "run": "submitting",
    "list": "listing",
    "show": "showing",
    "logs": "logs",
    "wait": "waiting",
    "progress": "progress",
    "cancel": "acting",
    "retry": "acting",
    "hold": "acting",
    "release": "acting",
    "edit": "editing",
    "suspend": "acting",
    "continue": "acting",
    "signal": "signalling",
    "remove": "acting",
    "slots": "queues",
    "pause": "queues",
    "resume": "queues",
    "queue": "queues",
    "stats": "stats",
    "events": "events",
    "info": "daemon",
    "dashboard": "daemon",
    "config": "configuring",
    "reload": "daemon",
    "completion": "completing",
    "shutdown": "daemon",
    "prune": "pruning",
    "backup": "backing_up",
    "doctor": "doctor",
}
_ALIASES = {"ls": "list", "status": "show"}
_OTHER_WORDS = {  # as other programs say it; only for a hint
    "add": "submit",
    "clean": "prune",
    "change": "edit",
    "delete": "remove",
    "enqueue": "release",
    "follow": "logs",
    "freeze": "suspend",
    "groups": "queue",
    "jobs": "list",
    "kill": "cancel",
    "parallel": "slots",
    "ps": "list",
    "restart": "retry",
    "rm": "remove",
    "stash": "hold",
    "stop": "cancel",
    "tail": "logs",
    "thaw": "continue",
}


class Verbs(VerbGroup):
    """Finds commands by name without importing the others."""

    other_words = _OTHER_WORDS

    def known_words(self) -> list[str]:
        """Return the verbs, and other names of theirs."""
        return [*_HOME, *_ALIASES]

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


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB ...",
    epilog="Options stand before the verb or after it. No verb means list. 'bgctl VERB --help' has examples.",
)
@click.version_option(bgd.__version__, prog_name="bgctl", message="%(prog)s %(version)s")
@with_global_options(hidden=False)
@click.pass_context
def bgctl(context: click.Context) -> int:
    """Hand jobs to bgd, see what became of them, and steer them."""
    if context.invoked_subcommand is not None:
        return 0
    command = bgctl.get_command(context, "list")
    assert command is not None  # noqa: S101 - it is in the table
    code: int = context.invoke(command)
    return code
