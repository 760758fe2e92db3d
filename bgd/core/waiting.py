"""Waiting: who waits for a time or for other jobs, and who must have started by when."""

from __future__ import annotations

from collections.abc import Callable

from bgd.core.heaps import DueHeap
from bgd.core.job import WAITING, Job, JobId, Now, State


class Waiting:
    """Finds the jobs for which something has come: their time, the end of another job, or too late an hour.

    Args:
        job_of: returns the unfinished job of an id, None for any other.

    Attributes:
        waits: how many times a job waits for another one.
    """

    def __init__(self, job_of: Callable[[JobId], Job | None]) -> None:
        self._job_of = job_of
        self._delayed = DueHeap(self._is_delayed_until)  # on the elapsed clock
        self._dated = DueHeap(self._is_dated)  # on the wall clock
        self._expiring = DueHeap(self._is_expiring)  # on the elapsed clock
        self._dependents: dict[JobId, set[JobId]] = {}
        self.waits = 0

    def begin(self, job: Job) -> None:
        """Take a waiting job that is new, or that was edited, with all that it waits for."""
        if job.terms.expires is not None:
            self._expiring.push(job.id, job.terms.expires)
        for other in {*job.terms.after, *job.terms.after_any}:
            self._dependents.setdefault(other, set()).add(job.id)
            self.waits += 1

    def end(self, job: Job) -> None:
        """Forget a job that starts, is cancelled or is about to be edited."""
        if job.terms.expires is not None:
            self._expiring.forget()
        for other in {*job.terms.after, *job.terms.after_any}:
            self.end_wait(job.id, other)

    def schedule(self, job: Job) -> None:
        """Take a job that is scheduled from now on.

        Raises:
            ValueError: it is scheduled for no time.
        """
        if job.due is not None:
            self._delayed.push(job.id, job.due)
        elif job.terms.at is not None:
            self._dated.push(job.id, job.terms.at)
        else:
            raise ValueError(f"job {job.id} is scheduled for no time")

    def unschedule(self, job: Job) -> None:
        """Note that a scheduled job does not wait for its time any more."""
        (self._dated if job.due is None else self._delayed).forget()

    def take_due(self, now: Now) -> JobId | None:
        """Take a scheduled job whose time has come, None when there is none."""
        job_id = self._delayed.pop_due(now.elapsed)
        return self._dated.pop_due(now.wall) if job_id is None else job_id

    def take_expired(self, now: Now) -> JobId | None:
        """Take a waiting job that should have started by now, None when there is none."""
        return self._expiring.pop_due(now.elapsed)

    def dependents_of(self, job_id: JobId) -> list[JobId]:
        """Return the jobs that wait for this one, in the order of their ids."""
        dependents = self._dependents.get(job_id)
        return [] if dependents is None else sorted(dependents)

    def end_wait(self, job_id: JobId, other: JobId) -> None:
        """Forget that a job waits for another one."""
        dependents = self._dependents.get(other)
        if dependents is None or job_id not in dependents:
            return
        dependents.discard(job_id)
        self.waits -= 1
        if not dependents:
            del self._dependents[other]

    def next_at(self) -> float | None:
        """Return when something comes next, on the elapsed clock; None: nothing does."""
        times = (self._delayed.next_at(), self._expiring.next_at())
        return min((time for time in times if time is not None), default=None)

    def next_wall_at(self) -> float | None:
        """Return when something comes next, on the wall clock; None: nothing does."""
        return self._dated.next_at()

    def __len__(self) -> int:
        """Return how many entries there are, the dead ones that are not yet swept too."""
        entries = len(self._delayed) + len(self._dated) + len(self._expiring)
        return entries + self.waits

    def _is_delayed_until(self, job_id: JobId, due: float) -> bool:
        job = self._job_of(job_id)
        return job is not None and job.state is State.SCHEDULED and job.due == due

    def _is_dated(self, job_id: JobId, at: float) -> bool:
        job = self._job_of(job_id)
        return job is not None and job.state is State.SCHEDULED and job.due is None and job.terms.at == at

    def _is_expiring(self, job_id: JobId, expires: float) -> bool:
        job = self._job_of(job_id)
        return job is not None and job.state in WAITING and job.terms.expires == expires
