"""All unfinished jobs, sorted by state: queued, waiting, or active."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from bgd.core.conditions import WaitingJobs
from bgd.core.heaps import DueHeap
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
        self.kept_keys: dict[str, float] = {}  # those of finished jobs, and until when they have them
        self._expiring_keys = DueHeap[str](lambda key, until: self.kept_keys.get(key) == until)
        self.queues = ReadyQueues(slots, rules, self.jobs.get, self.jobs.alike_from, resources)
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
            if self.kept_keys.pop(job.conditions.key, None) is not None:  # its time is over, or it runs again
                del self.keys[job.conditions.key]
            self.keys.setdefault(job.conditions.key, job.id)  # the first job with a key keeps it
        elif old is not None and old.conditions.key is not None:
            self.free_key(old)
        if job.conditions is not NO_CONDITIONS and job.state not in ACTIVE:
            self.waiting.begin(job)
        if job.state is State.QUEUED:
            self.queues.push(job)
            if job.conditions.resources:
                self._count_wanting(job, 1)
        elif job.state is State.SCHEDULED:
            self.waiting.schedule(job)

    def add_queued(self, job: Job, count: int) -> None:
        """Add new queued jobs without conditions except a limit; `count` as in PackedJobs.add."""
        self.jobs.add(job, count)
        place = job.queue, job.state
        self.counts[place] = self.counts.get(place, 0) + count
        self.queues.push(job, count)

    def remove(self, job: Job, key_until: float | None) -> None:
        """Forget a job that has finished; it keeps its key until that time on the elapsed clock."""
        old = self.jobs.pop(job.id)
        if old.conditions.key is not None:
            self.free_key(old)
            if key_until is not None and job.conditions.key is not None:
                self.keep_key(job.conditions.key, job.id, key_until)
        self._leave_place(old, was_taken=False)

    def free_key(self, job: Job) -> None:
        """Let another job have the key of this one, if it still has it."""
        key = job.conditions.key
        if key is not None and self.keys.get(key) == job.id:
            del self.keys[key]
            self.kept_keys.pop(key, None)

    def restore_keys(self, keys: Iterable[tuple[str, JobId, float]]) -> None:
        """Restore the keys of finished jobs, and until when they have them, after all unfinished jobs."""
        for key, job_id, until in keys:
            self.keep_key(key, job_id, until)

    def keep_key(self, key: str, job_id: JobId, until: float) -> None:
        """Let a finished job have a key until that time, unless another job has it."""
        if self.keys.setdefault(key, job_id) == job_id and self.jobs.get(job_id) is None:
            self.kept_keys[key] = until
            self._expiring_keys.push(key, until)

    def free_keys(self, elapsed: float) -> None:
        """Free the keys of finished jobs whose time is over."""
        while (key := self._expiring_keys.pop_due(elapsed)) is not None:
            del self.keys[key], self.kept_keys[key]

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
