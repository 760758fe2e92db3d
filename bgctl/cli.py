"""Find the verb and parse its words."""

from __future__ import annotations

import re
from importlib import import_module

import click

import bgd
from bgctl.common import WrongUsage
from bgctl.verbs import VerbGroup, with_global_options


def invoke(arguments: list[str]) -> int:
    """Run the verb that the arguments name; return its exit code.

    Raises:
        WrongUsage: the words are not understood.
    """
    try:
        with cli.make_context("bgctl", arguments) as context:
            return cli.invoke(context) or 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        raise WrongUsage(_message_of(error)) from error


_MODULES = {
    "submit": "submitting",
    "call": "submitting",
    "run": "submitting",
    "list": "listing",
    "watch": "watching",
    "show": "showing",
    "logs": "logs",
    "wait": "waiting",
    "progress": "waiting",
    "cancel": "acting",
    "retry": "acting",
    "hold": "acting",
    "release": "acting",
    "edit": "acting",
    "suspend": "acting",
    "continue": "acting",
    "signal": "acting",
    "remove": "acting",
    "slots": "queues",
    "pause": "queues",
    "resume": "queues",
    "queue": "queues",
    "stats": "listing",
    "events": "listing",
    "info": "daemon",
    "dashboard": "daemon",
    "config": "daemon",
    "reload": "daemon",
    "completion": "completing",
    "shutdown": "daemon",
    "prune": "acting",
    "backup": "daemon",
    "doctor": "daemon",
    "service": "service",
}
_ALIASES = {"ls": "list", "status": "show"}


class LazyVerbGroup(VerbGroup):
    """The top-level group; it imports the module of a verb only when the verb is used."""

    def known_words(self) -> list[str]:
        """Return all verbs and their aliases."""
        return [*_MODULES, *_ALIASES]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the help."""
        del ctx
        return list(_MODULES)

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
    epilog="Global options go before or after the verb. The default verb is list. See 'bgctl VERB --help'.",
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
    code: int = context.invoke(command)
    return code


def _message_of(error: click.ClickException) -> str:
    """Return click's message, with a pointer to the help where that helps."""
    if isinstance(error, click.MissingParameter) and error.ctx is not None:
        return f"{error.format_message()} See '{error.ctx.command_path} --help'."
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        option = error.option_name
        other = _hint_for_other_verb(option, error.ctx) or _hint_by_meaning(option, error.ctx.command)
        return other or error.format_message()
    message = error.format_message()
    if isinstance(error, click.BadOptionUsage) and error.option_name == "-q":  # as in `docker ps -q`
        return f"{message} -q NAME chooses a queue; `bgctl list --ids` prints only ids"
    context = error.ctx if isinstance(error, click.UsageError) else None
    if "extra argument" in message and context is not None and context.info_name in _LISTS:
        return f"{message}: --state, --queue, --name and --tag select jobs, `bgctl show ID` shows one"
    return message


def _hint_for_other_verb(option: str, context: click.Context) -> str | None:
    """Name the other verb for new jobs that has this option; None if there is none."""
    own = context.info_name
    if own == "run" and option in _OPTIONS_TO_WAIT:
        return f"{option} is for submit: run always shows the output and waits for the end"
    if own not in _VERBS_FOR_NEW_JOBS:
        return None
    if own == "submit" and option == "-i":
        return "-i is for run: --stdin - passes the input of submit to the job"
    for verb, kind in _VERBS_FOR_NEW_JOBS.items():
        command = cli.get_command(context, verb)
        if command is not None and any(option in each.opts for each in command.params):
            return f"{option} is for {kind}: see 'bgctl {verb} --help'"
    return None


def _hint_by_meaning(option: str, command: click.Command) -> str | None:
    """Name what does the same; None if nothing does, or not for this verb."""
    from bgctl.hints import OPTIONS  # noqa: PLC0415 - only for an error

    hint = OPTIONS.get(option)
    if hint is None:
        return None
    own = {spelling for each in command.params for spelling in each.opts}
    named = set() if "`bgctl" in hint else set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", hint))
    return f"no option {option}: {hint}" if named <= own else None


_VERBS_FOR_NEW_JOBS = {"submit": "commands", "call": "class jobs", "run": "commands"}
_LISTS = ("list", "ls", "watch")
_OPTIONS_TO_WAIT = ("--wait", "--follow", "-f")
