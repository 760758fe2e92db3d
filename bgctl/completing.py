"""The verb completion, and the answers to a shell that completes a bgctl command."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from bgctl.common import COMPLETION_VARIABLE, GlobalOptions, verb
from bgd import BgdError, Client, Job, State
from bgd.escape import one_line
from bgd.formatting import command_line

_PROGRAM = "bgctl"
_TIMEOUT = 1.0  # seconds; the user waits after pressing Tab
_MAX_JOBS = 100  # a longer list does not help
_MAX_WIDTH = 60  # characters of a command
_SHELLS = ("bash", "zsh", "fish")


@verb(
    "completion",
    'eval "$(bgctl completion bash)"    # in ~/.bashrc',
    'eval "$(bgctl completion zsh)"     # in ~/.zshrc',
    "bgctl completion fish | source    # in ~/.config/fish/config.fish",
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> int:
    """Print a script that makes a shell complete bgctl commands.

    The shell then completes verbs, options, ids of jobs to which the verb applies, and queues.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click supports all three
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, _PROGRAM, COMPLETION_VARIABLE).source())
    return 0


def complete(command: click.Command, instruction: str) -> int:
    """Answer the completion script of a shell; return the exit code."""
    with suppress(click.ClickException):  # an incomplete line may be wrong, and nobody wants a message
        return shell_complete(command, {"obj": GlobalOptions()}, _PROGRAM, COMPLETION_VARIABLE, instruction)
    return 1


def complete_job_ids(
    context: click.Context, prefix: str, states: Collection[State] | None
) -> list[CompletionItem[str]]:
    """Return the ids with this prefix among the latest jobs in these states, with their commands."""
    before, comma, word = prefix.rpartition(",")
    with suppress(BgdError, OSError), _client(context) as daemon:
        return [
            CompletionItem(f"{before}{comma}{job.id}", help=_describe(job))
            for job in daemon.jobs(states=states, limit=_MAX_JOBS)
            if str(job.id).startswith(word)
        ]
    return []


def complete_queue_names(context: click.Context, prefix: str) -> list[CompletionItem[str]]:
    """Return the names of queues with this prefix, with their numbers of unfinished jobs."""
    with suppress(BgdError, OSError), _client(context) as daemon:
        return [
            CompletionItem(queue.name, help=f"{sum(queue.counts.values())} jobs")
            for queue in daemon.queues().queues
            if queue.name.startswith(prefix)
        ]
    return []


def _describe(job: Job) -> str:
    return f"{job.state}  {one_line(job.name or '') or command_line(job.view)}"[:_MAX_WIDTH]


def _client(context: click.Context) -> Client:
    """Return a client of the daemon that the line so far selects; never start one."""
    options = context.find_root().obj
    return Client(
        options.socket,
        timeout=_TIMEOUT,
        autostart=False,
        config=options.config,
        user=options.user,
        system=options.system,
    )
