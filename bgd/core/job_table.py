"""All unfinished jobs, sorted by state: queued, waiting, or active."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from bgd.core.conditions import WaitingJobs
from bgd.core.job import ACTIVE, NO_CONDITIONS, Job, JobId, RetryPolicy, State
from bgd.core.limits import QueueRule, Resources
from bgd.core.packed_jobs import PackedJobs
from bgd.core.queues import ReadyQueues

_MOST_SHARED = 1000  # limit on shared objects; a client may send a new one with each job

T = TypeVar("T", RetryPolicy, str)


class JobTable:
    """Unfinished jobs by id in `jobs`, and indexes that are kept in step with them.

    Args:
        slots, rules, resources: as in ReadyQueues.
    """

    def __init__(self, slots: int, rules: Mapping[str, QueueRule], resources: Resources) -> None:
        self.jobs = PackedJobs()
        self.keys: dict[str, JobId] = {}  # the job that has each key
        self.queues = ReadyQueues(slots, rules, self.jobs.get, resources)
        self.waiting = WaitingJobs(self.jobs.get)
        self.counts: dict[tuple[str, State], int] = {}  # by queue and state, where there are any
        self.wanting: dict[str, int] = {}  # queued jobs that ask for each resource, where there are any
        self._shared: dict[Any, Any] = {}

    def put(self, job: Job, *, was_taken: bool = False) -> None:
        """Store a new or changed job, by its state.

        `was_taken`: it was just taken from `queues` or `waiting`.
        """
        old = self.jobs.put(job)
        place = job.queue, job.state
        self.counts[place] = self.counts.get(place, 0) + 1
        if old is not None:
            self._leave_place(old, was_taken=was_taken)
        if job.conditions.key is not None:
            self.keys.setdefault(job.conditions.key, job.id)  # the first job with a key keeps it
        if job.conditions is not NO_CONDITIONS and job.state not in ACTIVE:
            self.waiting.begin(job)
        if job.state is State.QUEUED:
            self.queues.push(job)
            if job.conditions.resources:
                self._count_wanting(job, 1)
        elif job.state is State.SCHEDULED:
            self.waiting.schedule(job)

    def add_queued(self, job: Job, count: int) -> None:
        """Add new queued jobs without conditions; `count` as in PackedJobs.add."""
        self.jobs.add(job, count)
        place = job.queue, job.state
        self.counts[place] = self.counts.get(place, 0) + count
        self.queues.push(job, count)

    def remove(self, job: Job) -> None:
        """Forget a job that has finished."""
        old = self.jobs.pop(job.id)
        if old.conditions.key is not None and self.keys.get(old.conditions.key) == job.id:
            del self.keys[old.conditions.key]
        self._leave_place(old, was_taken=False)

    def shared(self, value: T) -> T:
        """Return a shared object equal to this one: a million jobs have few policies and queues."""
        if len(self._shared) > _MOST_SHARED:
            self._shared.clear()
        known: T = self._shared.setdefault(value, value)
        return known

    def _leave_place(self, job: Job, *, was_taken: bool) -> None:
        place = job.queue, job.state
        self.counts[place] -= 1
        if not self.counts[place]:
            del self.counts[place]
        if job.conditions is not NO_CONDITIONS:
            self.waiting.end(job)
        if job.state is State.QUEUED:
            if job.conditions.resources:
                self._count_wanting(job, -1)
            if not was_taken:
                self.queues.forget(job)
        elif job.state is State.SCHEDULED and not was_taken:
            self.waiting.unschedule(job)

    def _count_wanting(self, job: Job, change: int) -> None:
        for name, _ in job.conditions.resources:
            self.wanting[name] = self.wanting.get(name, 0) + change
            if not self.wanting[name]:
                del self.wanting[name]
