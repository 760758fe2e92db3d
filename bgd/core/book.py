"""The book: every unfinished job, where it stands, and by which key it is known."""

from __future__ import annotations

from collections.abc import Mapping

from bgd.core.job import ACTIVE, USUAL_TERMS, Job, JobId, RetryPolicy, State
from bgd.core.queues import QueueRule
from bgd.core.room import Room
from bgd.core.waiting import Waiting

_MOST_POLICIES = 1000  # a stranger may send a new one with each job


class Book:
    """Unfinished jobs by id; `room` has those in line and at work, `waiting` what others wait for.

    Args:
        slots, rules: as of Room.
    """

    def __init__(self, slots: int, rules: Mapping[str, QueueRule]) -> None:
        self._jobs: dict[JobId, Job] = {}
        self.room = Room(slots, rules, self._jobs.get)
        self.waiting = Waiting(self._jobs.get)
        self._keys: dict[str, JobId] = {}
        self._policies: dict[RetryPolicy, RetryPolicy] = {}

    def get(self, job_id: JobId) -> Job | None:
        return self._jobs.get(job_id)

    def __getitem__(self, job_id: JobId) -> Job:
        """Return an unfinished job.

        Raises:
            KeyError: there is none of this id.
        """
        return self._jobs[job_id]

    def __len__(self) -> int:
        return len(self._jobs)

    def holder_of(self, key: str) -> JobId | None:
        """Return the job that has this key."""
        return self._keys.get(key)

    def active_jobs(self) -> list[Job]:
        """Return the jobs that hold a slot."""
        return [self._jobs[job_id] for job_id in self.room.active]

    def enter(self, job: Job, *, came_up: bool = False) -> None:
        """Take a job that is new or has changed, and let it stand where it belongs now.

        `came_up`: it was taken out of its line just now.
        """
        old = self._jobs.get(job.id)
        self._jobs[job.id] = job
        if old is not None:
            self._leave_place(old, came_up=came_up)
        if job.terms.key is not None:
            self._keys.setdefault(job.terms.key, job.id)  # whoever had it first keeps it
        if job.terms is not USUAL_TERMS and job.state not in ACTIVE:
            self.waiting.begin(job)
        if job.state is State.QUEUED:
            self.room.push(job)
        elif job.state is State.SCHEDULED:
            self.waiting.schedule(job)

    def strike(self, job: Job) -> None:
        """Forget a job that is finished now."""
        old = self._jobs.pop(job.id)
        if old.terms.key is not None and self._keys.get(old.terms.key) == job.id:
            del self._keys[old.terms.key]
        self._leave_place(old, came_up=False)

    def note(self, job: Job) -> None:
        """Take a job of which nothing has changed that decides where it stands."""
        self._jobs[job.id] = job

    def shared(self, policy: RetryPolicy) -> RetryPolicy:
        """Return the one object for all jobs of an equal policy: a million jobs, a handful of policies."""
        if len(self._policies) > _MOST_POLICIES:
            self._policies.clear()
        return self._policies.setdefault(policy, policy)

    def _leave_place(self, job: Job, *, came_up: bool) -> None:
        if job.terms is not USUAL_TERMS:
            self.waiting.end(job)
        if job.state is State.QUEUED and not came_up:
            self.room.forget(job)
        elif job.state is State.SCHEDULED and not came_up:
            self.waiting.unschedule(job)
