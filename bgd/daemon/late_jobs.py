"""Notes which jobs of schedules have not finished in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from msgspec import Struct

from bgd import clock
from bgd.core.heaps import DueHeap
from bgd.core.job import JobId
from bgd.core.schedule_spec import Result
from bgd.daemon.storage.records import NewOccurrence
from bgd.daemon.supervisor import Supervisor

AT_ONCE = 100  # schedules handled in one turn of the loop


class Run(Struct, gc=False):
    """A job of a schedule, due at `due_at` on the wall clock.

    `due`: the same on the elapsed clock; None: whether it is late is settled.
    """

    due_at: float
    due: float | None
    is_late: bool = False


class _Watched(Struct, gc=False):
    """A schedule: its runs, how long after it is due each may take, and when the next one may be late."""

    runs: dict[JobId, Run]
    late_after: float | None
    late_at: float = inf


class LateJobs:
    """Jobs of schedules that have not finished when `late_after` is over.

    Times are on the elapsed clock, so no job is late because the clock was set. After a restart the
    caller watches what has not finished again.
    """

    def __init__(self, supervisor: Supervisor, ring: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._ring = ring  # asks the caller to look
        self._watched: dict[str, _Watched] = {}
        self._heap = DueHeap[str](
            lambda name, at: name in self._watched and self._watched[name].late_at == at
        )
        self._late: set[str] = set()  # schedules with a late job, as of the last look
        self._alarm = clock.Alarm(asyncio.get_running_loop(), ring)

    def watch(self, name: str, runs: dict[JobId, Run], late_after: float | None) -> None:
        """Watch the runs of a schedule, in place of those that were watched before."""
        self._watched[name] = watched = _Watched(runs, late_after)
        self._wait(name, watched)
        if any(run.is_late for run in runs.values()):
            self._late.add(name)

    def forget(self, name: str) -> None:
        """Watch a schedule no longer."""
        self._watched.pop(name, None)
        self._late.discard(name)

    def set_alarm(self) -> None:
        """Ring when the next job may be late."""
        self._alarm.set(self._heap.next_at())

    def close(self) -> None:
        self._alarm.close()

    @property
    def count(self) -> int:
        """The number of schedules with a late job that has not finished."""
        self._late = {name for name in self._late if self.is_late(name)}
        return len(self._late)

    def is_late(self, name: str) -> bool:
        """Tell whether a job of a schedule is late and has not finished."""
        watched = self._watched.get(name)
        return watched is not None and any(
            run.is_late and self._supervisor.is_unfinished(job) for job, run in watched.runs.items()
        )

    async def look(self, elapsed: float) -> bool:
        """Note which jobs have not finished in time, some schedules at a time; return whether any has not."""
        found = False
        while (at := self._heap.next_at()) is not None and at <= elapsed:
            for _ in range(AT_ONCE):
                if (name := self._heap.pop_due(elapsed)) is not None:
                    found |= self._note(name, elapsed)
            await asyncio.sleep(0)
        return found

    def _note(self, name: str, elapsed: float) -> bool:
        """Settle for each run of a schedule whose time is over whether it is late."""
        watched, found = self._watched[name], False
        for job, run in watched.runs.items():
            if run.due is None or watched.late_after is None or run.due + watched.late_after > elapsed:
                continue
            run.due = None
            if self._supervisor.is_unfinished(job):
                run.is_late = found = True
                self._late.add(name)
                late = NewOccurrence(name, run.due_at, Result.RAN, job, late=True)
                self._supervisor.transaction.late.append(late)
        self._wait(name, watched)
        return found

    def _wait(self, name: str, watched: _Watched) -> None:
        due = min((run.due for run in watched.runs.values() if run.due is not None), default=inf)
        watched.late_at = inf if watched.late_after is None else due + watched.late_after
        self._heap.forget()
        if watched.late_at < inf:
            self._heap.push(name, watched.late_at)
            self._ring()
