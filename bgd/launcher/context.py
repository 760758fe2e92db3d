"""The context: what every attempt works with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from msgspec import Struct

from bgd.launcher.cgroup import Delegation, own_oom_kills
from bgd.launcher.children import Children, Readers
from bgd.launcher.deadlines import Deadlines
from bgd.launcher.journal import Journal
from bgd.launcher.log_file import LogFile, LogFolder
from bgd.launcher.outbox import Outbox
from bgd.launcher.output import AttemptOutput
from bgd.launcher.pid_journal import PidJournal
from bgd.launcher.problems import shortage
from bgd.launcher.scan import Scanner
from bgd.system.clock import doubling, elapsed
from bgd.system.mounts import Mounts
from bgd.wire.launching import Launch, log_name

log = logging.getLogger(__name__)

T = TypeVar("T")


class Context(Struct, frozen=True, kw_only=True):
    """One per launcher. `group` owns every task; `state`, `logs` are folders; `null` is open on /dev/null.

    `outbox`: a pilot's, which has no logs. `forking`: held by a fork for a turn of the loop, because many
    forks in one turn would delay local jobs.
    """

    group: asyncio.TaskGroup
    deadlines: Deadlines
    readers: Readers
    scanner: Scanner
    mounts: Mounts
    children: Children
    journal: Journal
    pid_journal: PidJournal
    delegation: Delegation
    state: str
    logs: str
    log_folder: LogFolder
    null: int
    forking: asyncio.Lock
    outbox: Outbox | None = None

    def oom_kills(self) -> int:
        """Return how many processes in a pilot's allocation were killed for lack of memory; elsewhere 0."""
        return 0 if self.outbox is None else own_oom_kills()

    def log_path(self, launch: Launch) -> str:
        """Return the path of an attempt's log."""
        return f"{self.logs}/{log_name(launch.key.job, launch.key.attempt)}"

    async def retry(
        self,
        what: str,
        action: Callable[[], Awaitable[T]],
        stop_asked: asyncio.Future[None] | None = None,
        waits: Callable[[str], None] = lambda _: None,
    ) -> T:
        """Return what `action` returns; repeat it while the machine lacks something (OSError).

        For descriptors, processes, memory and disk space, which become free again. Once `stop_asked` is
        done, it is repeated at once, to notice that. `waits` is called with what the machine lacks.
        """
        pauses = doubling(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            pause = next(pauses)
            try:
                return await action()
            except OSError as error:
                problem = shortage(error, (self.state, self.logs))
                _complain(what, problem, pause)
                waits(problem)
            await self.deadlines.wait(pause, *([stop_asked] if stop_asked else []))

    def begin(self, action: Coroutine[None, None, None], whose: str) -> asyncio.Task[None]:
        """Start a task for `whose`. An error ends it alone, and not the group with all jobs."""
        return self.group.create_task(_logged(action, whose))

    def new_output(self, launch: Launch, *, continues: bool = False) -> AttemptOutput:
        """Return the output of an attempt, which goes to its log, or to the launcher that has the logs.

        `continues`: go on with the log that a launcher has left that died.

        Raises:
            CannotStart, OSError: as AttemptOutput.
        """
        if self.outbox is not None:
            unstored = self.outbox.open(launch.key)
            output = AttemptOutput(unstored, self.readers, with_terminal=launch.pty)
            unstored.go_on = output.go_on
            return output
        path, keeps = self.log_path(launch), not launch.log_kill
        null, folder = self.null, self.log_folder
        log = LogFile(path, launch.log_cap, keeps_tail=keeps, null=null, folder=folder, continues=continues)
        return AttemptOutput(log, self.readers, with_terminal=launch.pty)


# seconds until the next try on a shortage; doubled each time, up to the longest
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_COMPLAINTS_APART = 10.0  # seconds: a shortage must not flood the log with warnings

_complained_at = -_COMPLAINTS_APART


async def _logged(action: Coroutine[None, None, None], whose: str) -> None:
    try:
        await action
    except Exception:
        log.exception("%s: the launcher could not do what was asked", whose)


def _complain(what: str, problem: str, pause: float) -> None:
    global _complained_at  # noqa: PLW0603  one machine has one shortage, whatever it delays
    if elapsed() - _complained_at >= _COMPLAINTS_APART:
        _complained_at = elapsed()
        log.warning("%s: %s; next try in %g s", what, problem, pause)
