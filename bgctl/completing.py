"""completion: what a shell offers while a bgctl command is typed."""

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
_SECONDS = 1.0  # for the daemon to answer: who typed a tab waits for it
_MOST_JOBS = 100  # offered; a longer list is no help
_WIDTH = 60  # characters of a command that help to tell it from others
_SHELLS = ("bash", "zsh", "fish")


@verb(
    "completion",
    'eval "$(bgctl completion bash)"    # in ~/.bashrc',
    'eval "$(bgctl completion zsh)"     # in ~/.zshrc',
    "bgctl completion fish | source    # in ~/.config/fish/config.fish",
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> int:
    """Print what makes a shell complete bgctl commands.

    It offers verbs, options, the ids of jobs to which the verb can be done, and queues.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has all three
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, _PROGRAM, COMPLETION_VARIABLE).source())
    return 0


def complete(command: click.Command, instruction: str) -> int:
    """Answer what a shell asks by the script; return the exit code."""
    with suppress(click.ClickException):  # half a line may be any mistake, and no message is wanted
        return shell_complete(command, {"obj": GlobalOptions()}, _PROGRAM, COMPLETION_VARIABLE, instruction)
    return 1


def jobs_like(
    context: click.Context, beginning: str, states: Collection[State] | None
) -> list[CompletionItem[str]]:
    """Return the ids that begin so of the latest jobs in these states, and what those jobs are."""
    before, comma, word = beginning.rpartition(",")
    with suppress(BgdError, OSError), _client(context) as daemon:
        return [
            CompletionItem(f"{before}{comma}{job.id}", help=_words_for(job))
            for job in daemon.jobs(states=states, limit=_MOST_JOBS)
            if str(job.id).startswith(word)
        ]
    return []


def queues_like(context: click.Context, beginning: str) -> list[CompletionItem[str]]:
    """Return the names of queues that begin so, and how many jobs of each are unfinished."""
    with suppress(BgdError, OSError), _client(context) as daemon:
        return [
            CompletionItem(queue.name, help=f"{sum(queue.counts.values())} jobs")
            for queue in daemon.queues().queues
            if queue.name.startswith(beginning)
        ]
    return []


def _words_for(job: Job) -> str:
    return f"{job.state}  {one_line(job.name or '') or command_line(job.view)}"[:_WIDTH]


def _client(context: click.Context) -> Client:
    """Return the way to the daemon that the words so far name; none is ever started."""
    options = context.find_root().obj
    return Client(
        options.socket,
        timeout=_SECONDS,
        autostart=False,
        config=options.config,
        user=options.user,
        system=options.system,
    )
