"""Batches: count the jobs of each batch by state, and decide when its follow-ups start."""

from __future__ import annotations

from bisect import bisect_right
from enum import StrEnum
from typing import NewType

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import ACTIVE, FINAL, JobId, State

BatchId = NewType("BatchId", int)

_STALE = 1_000  # drop the runs of ended batches once there are twice as many runs as last time, and this many


class BatchEvent(StrEnum):
    """What a batch can have a follow-up job for. Each starts at most once."""

    THEN = "then"  # all of its jobs have succeeded
    CATCH = "catch"  # one has failed; others may still run
    FINALLY = "finally"  # all have ended, in any way


class Batch(Struct, kw_only=True):
    """A batch: how many of its jobs are in each state, and its follow-ups.

    * `is_whole`: its client adds no more jobs; jobs of the batch still can.
    * `is_cancelled`: no jobs can be added.
    * `unstarted`: events whose follow-ups have not started. `started`: the follow-ups that have.
    * `token`: chosen by the client for the lines of the batch.
    """

    id: BatchId
    uid: int
    token: bytes
    created_at: float
    name: str | None = None
    is_whole: bool = False
    is_cancelled: bool = False
    finished_at: float | None = None
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    unstarted: tuple[BatchEvent, ...] = ()
    started: dict[BatchEvent, JobId] = {}

    @property
    def total(self) -> int:
        return self.pending + self.running + self.succeeded + self.failed + self.cancelled

    @property
    def has_ended(self) -> bool:
        """Whether all its jobs have ended and none can be added."""
        return self.is_whole and not (self.pending or self.running)

    def add(self, state: State, change: int) -> None:
        """Count one job more or less in a state."""
        name = state.value if state in FINAL else "running" if state in ACTIVE else "pending"
        setattr(self, name, getattr(self, name) + change)

    def take_due(self) -> list[BatchEvent]:
        """Return the events that have happened, each only once."""
        has_happened = {
            BatchEvent.CATCH: self.failed > 0,
            BatchEvent.THEN: self.has_ended and self.succeeded == self.total,
            BatchEvent.FINALLY: self.has_ended,
        }
        due = [event for event in self.unstarted if has_happened[event]]
        self.unstarted = tuple(event for event in self.unstarted if event not in due)
        return due


class Batches:
    """All batches that have not ended, and the jobs in them.

    A batch takes memory for each run of consecutive job ids, not for each job. To find the batch of a job
    takes one lookup in the runs.

    Attributes:
        open: batches by id, including ended batches whose jobs are about to run again.
        last_id: the highest id ever given to a batch.
    """

    def __init__(self, last_id: int = 0) -> None:
        self.open: dict[BatchId, Batch] = {}
        self.last_id = BatchId(last_id)
        self._joined: list[tuple[JobId, JobId, BatchId]] = []
        self._by_token: dict[bytes, BatchId] = {}
        self._changed: dict[BatchId, Batch] = {}
        self._firsts: list[JobId] = []  # of runs of jobs, ascending
        self._runs: list[tuple[JobId, BatchId]] = []  # the last job of each, and its batch
        self._most_runs = _STALE

    def put(self, batch: Batch) -> None:
        """Add a new batch, or one that has ended and gets jobs again."""
        self.last_id = max(self.last_id, batch.id)
        self.open[batch.id] = batch
        self._by_token[batch.token] = batch.id
        self._changed[batch.id] = batch

    def restore(self, batch: Batch, runs: list[tuple[JobId, JobId]]) -> None:
        """Restore a batch from the database, with its runs of jobs."""
        self.put(batch)
        for first, last in runs:
            self._insert(first, last, batch.id)

    def of_token(self, token: bytes) -> Batch | None:
        """Return the open batch with a token."""
        batch_id = self._by_token.get(token)
        return None if batch_id is None else self.open[batch_id]

    def of_job(self, job_id: JobId) -> Batch | None:
        """Return the open batch of a job, None if it has none."""
        place = bisect_right(self._firsts, job_id) - 1
        if place < 0:
            return None
        last, batch_id = self._runs[place]
        return self.open.get(batch_id) if job_id <= last else None

    def join(self, job_id: JobId, batch_id: BatchId, state: State) -> None:
        """Count a new job."""
        self.recall(job_id, batch_id)
        if self._joined and self._joined[-1][1:] == (job_id - 1, batch_id):
            self._joined[-1] = self._joined[-1][0], job_id, batch_id
        else:
            self._joined.append((job_id, job_id, batch_id))
        batch = self.open[batch_id]
        batch.add(state, 1)
        self._changed[batch_id] = batch

    def recall(self, job_id: JobId, batch_id: BatchId) -> None:
        """Record that a job belongs to an open batch."""
        if self._runs and self._runs[-1] == (job_id - 1, batch_id):
            self._runs[-1] = job_id, batch_id
        elif self.of_job(job_id) is None:
            self._insert(job_id, job_id, batch_id)

    def moved(self, job_id: JobId, before: State, after: State) -> None:
        """Count the move of a job if it belongs to an open batch."""
        batch = self.of_job(job_id)
        if batch is not None:
            batch.add(before, -1)
            batch.add(after, 1)
            self._changed[batch.id] = batch

    def change(self, batch: Batch, *, is_whole: bool, is_cancelled: bool | None = None) -> None:
        """Record whether the client adds no more jobs (`is_whole`), and whether the batch is cancelled."""
        batch.is_whole = is_whole
        batch.is_cancelled = batch.is_cancelled if is_cancelled is None else is_cancelled
        self._changed[batch.id] = batch

    def take_due(self) -> list[tuple[Batch, BatchEvent]]:
        """Return the events of batches that have happened since the last call."""
        return [(batch, event) for batch in self._changed.values() for event in batch.take_due()]

    def take_changed(self, at: float) -> tuple[list[Batch], list[tuple[JobId, JobId, BatchId]]]:
        """Return copies of the batches that have changed since the last call, and the runs of new jobs.

        Forget those that have ended; `at` is the present, in epoch seconds.
        """
        (changed, self._changed), (joined, self._joined) = (self._changed, {}), (self._joined, [])
        for batch in changed.values():
            if not batch.has_ended:
                batch.finished_at = None
                continue
            batch.finished_at = batch.finished_at or at
            del self.open[batch.id], self._by_token[batch.token]
        return [replace(batch, started=dict(batch.started)) for batch in changed.values()], joined

    def _insert(self, first: JobId, last: JobId, batch_id: BatchId) -> None:
        if len(self._firsts) > self._most_runs:
            kept = [each for each in zip(self._firsts, self._runs, strict=True) if each[1][1] in self.open]
            self._firsts, self._runs = [first for first, _ in kept], [run for _, run in kept]
            self._most_runs = 2 * len(kept) + _STALE
        place = bisect_right(self._firsts, first)
        self._firsts.insert(place, first)
        self._runs.insert(place, (last, batch_id))
