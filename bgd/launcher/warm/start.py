"""Starts the process of a warm worker, and says why one did not become ready."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

from bgd.launcher.apart import Apart, Command
from bgd.launcher.problems import CannotStart, one_line
from bgd.launcher.spawn import started
from bgd.launcher.tools import Tools
from bgd.wire.launching import Launch, NotStarted


class FailedStart(CannotStart):
    """The worker ended before it was ready."""

    def __init__(self, problem: str) -> None:
        super().__init__(one_line(NotStarted.OTHER, problem))


class Crashed(FailedStart):
    """It did not say why: it was killed, or ended by what it imported."""


async def start(
    launch: Launch, command: Command, tools: Tools, begun: Callable[[asyncio.subprocess.Process], None]
) -> None:
    """Start the worker that `launch` needs; `begun` is given its process, which may hang before it runs.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError, LostChild: as `bgd.launcher.spawn.spawn`.
    """
    if tools.mounts.that_may_hang(launch) is None:
        begun(await started(launch, command))
        return
    apart = Apart(launch, command, tools.children)
    begun(apart.process)
    await apart.begun()


def end_of(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
