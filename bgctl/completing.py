"""The verb completion, and the answers to a shell that completes a bgctl command."""

from __future__ import annotations

from contextlib import suppress

import click
from click.shell_completion import get_completion_class, shell_complete

from bgctl.cli import cli
from bgctl.common import COMPLETION_VARIABLE, answer
from bgctl.verbs import verb_without_daemon

_PROGRAM = "bgctl"
_SHELLS = ("bash", "zsh", "fish")


@verb_without_daemon(
    'eval "$(bgctl completion bash)"    # in ~/.bashrc',
    'eval "$(bgctl completion zsh)"     # in ~/.zshrc',
    "bgctl completion fish | source    # in ~/.config/fish/config.fish",
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> None:
    """Print a script that makes a shell complete bgctl commands.

    The shell then completes verbs, options, ids of jobs to which the verb applies, and queues.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click supports all three
    script = kind(cli, {}, _PROGRAM, COMPLETION_VARIABLE).source()
    answer({"shell": shell, "script": script}, script)


def complete(instruction: str) -> int:
    """Answer the completion script of a shell; return the exit code."""
    with suppress(click.ClickException):  # an incomplete line may be wrong, and a message would be unwanted
        return shell_complete(cli, {}, _PROGRAM, COMPLETION_VARIABLE, instruction)
    return 1
