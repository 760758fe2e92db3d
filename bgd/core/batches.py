"""Batches: counts the jobs of each batch by state, and decides which jobs follow when they end."""

from __future__ import annotations

from bisect import bisect_right
from enum import StrEnum
from typing import NewType

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import ACTIVE, FINAL, JobId, State

BatchId = NewType("BatchId", int)

_STALE = 1_000  # runs of jobs beyond twice as many as there were, before those of ended batches are dropped


class BatchEvent(StrEnum):
    """What a batch may start a job for, once each."""

    THEN = "then"  # all of its jobs have succeeded
    CATCH = "catch"  # one has failed; others may still run
    FINALLY = "finally"  # all have ended, in any way


class Batch(Struct, kw_only=True):
    """A batch: how many of its jobs are in which state, and what follows.

    * `is_whole`: its client will add no more jobs; a job of the batch may.
    * `is_cancelled`: nothing may be added.
    * `unstarted`: the events whose jobs have not started. `started`: the jobs of the others.
    * `token`: that its client chose for its lines.
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
        """Whether no job of it can be added, wait or run."""
        return self.is_whole and not (self.pending or self.running)

    def add(self, state: State, change: int) -> None:
        """Count one job more or less in a state."""
        name = state.value if state in FINAL else "running" if state in ACTIVE else "pending"
        setattr(self, name, getattr(self, name) + change)

    def take_due(self) -> list[BatchEvent]:
        """Return the events that have come, each once."""
        has_come = {
            BatchEvent.CATCH: self.failed > 0,
            BatchEvent.THEN: self.has_ended and self.succeeded == self.total,
            BatchEvent.FINALLY: self.has_ended,
        }
        due = [event for event in self.unstarted if has_come[event]]
        self.unstarted = tuple(event for event in self.unstarted if event not in due)
        return due


class Batches:
    """All batches that have not ended, and which jobs are of them.

    A batch of a million jobs takes no more memory than its runs of consecutive ids, and the end of a job one
    look-up among them.

    Attributes:
        open: batches by id; a batch that has ended and whose jobs are about to run again is among them.
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
        """Add a new batch, or one that has ended and may go on."""
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
        """Note that a job is of an open batch."""
        if self._runs and self._runs[-1] == (job_id - 1, batch_id):
            self._runs[-1] = job_id, batch_id
        elif self.of_job(job_id) is None:
            self._insert(job_id, job_id, batch_id)

    def moved(self, job_id: JobId, before: State, after: State) -> None:
        """Count the move of a job, whatever it is of."""
        batch = self.of_job(job_id)
        if batch is not None:
            batch.add(before, -1)
            batch.add(after, 1)
            self._changed[batch.id] = batch

    def change(self, batch: Batch, *, is_whole: bool, is_cancelled: bool | None = None) -> None:
        """Let the client of an open batch add no more jobs, or more; if it is cancelled, nobody may."""
        batch.is_whole = is_whole
        batch.is_cancelled = batch.is_cancelled if is_cancelled is None else is_cancelled
        self._changed[batch.id] = batch

    def take_due(self) -> list[tuple[Batch, BatchEvent]]:
        """Return the events of batches that have come since the last call."""
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
