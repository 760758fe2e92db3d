"""Finds jobs of schedules that have not finished in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import inf

from bgd import clock
from bgd.core.heaps import DueHeap
from bgd.core.schedule_spec import Result
from bgd.daemon.schedule_definitions import ActiveSchedule
from bgd.daemon.storage.records import NewOccurrence
from bgd.daemon.supervisor import Supervisor

AT_ONCE = 100  # schedules handled in one turn of the loop


class LateJobs:
    """Jobs of schedules that have not finished when `late_after` is over.

    Times are on the elapsed clock, so no job is late because the clock was set. After a restart the
    caller watches what has not finished again.

    Args:
        schedules: those in force, by name.
        ring: asks the caller to look.
    """

    def __init__(
        self, supervisor: Supervisor, schedules: Mapping[str, ActiveSchedule], ring: Callable[[], None]
    ) -> None:
        self._supervisor = supervisor
        self._ring = ring
        self._schedules = schedules
        self._heap = DueHeap[str](lambda name, at: name in schedules and schedules[name].late_at == at)
        self._late: set[str] = set()  # schedules with a late job, as of the last look
        self._alarm = clock.Alarm(asyncio.get_running_loop(), ring)

    def watch(self, name: str) -> None:
        """Watch the runs of a schedule, which have changed."""
        self._wait(name)
        if any(run.is_late for run in self._schedules[name].runs.values()):
            self._late.add(name)

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
        schedule = self._schedules.get(name)
        return schedule is not None and any(
            run.is_late and self._supervisor.is_unfinished(job) for job, run in schedule.runs.items()
        )

    async def look(self, elapsed: float) -> bool:
        """Record jobs that have not finished in time, some schedules at a time; return whether any."""
        found = False
        while (at := self._heap.next_at()) is not None and at <= elapsed:
            for _ in range(AT_ONCE):
                if (name := self._heap.pop_due(elapsed)) is not None:
                    found |= self._note(name, elapsed)
            await asyncio.sleep(0)
        return found

    def _note(self, name: str, elapsed: float) -> bool:
        """Settle for each run of a schedule whose time is over whether it is late."""
        schedule, found = self._schedules[name], False
        late_after = schedule.stored.spec.late_after
        for job, run in schedule.runs.items():
            if run.due is None or late_after is None or run.due + late_after > elapsed:
                continue
            run.due = None
            if self._supervisor.is_unfinished(job):
                run.is_late = found = True
                self._late.add(name)
                late = NewOccurrence(name, run.due_at, Result.RAN, job, late=True)
                self._supervisor.transaction.late.append(late)
        self._wait(name)
        return found

    def _wait(self, name: str) -> None:
        schedule = self._schedules[name]
        late_after = schedule.stored.spec.late_after
        due = min((run.due for run in schedule.runs.values() if run.due is not None), default=inf)
        schedule.late_at = inf if late_after is None else due + late_after
        self._heap.forget()
        if schedule.late_at < inf:
            self._heap.push(name, schedule.late_at)
            self._ring()
