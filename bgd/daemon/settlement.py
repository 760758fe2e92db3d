"""A settlement: what one transaction saves, and what is to be done once it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from bgd.core.job import Job, JobId, Move, Now, Outcome
from bgd.core.scheduler import Continue, Effect, Save, Start, Stop, Suspend
from bgd.core.spec import JobSpec
from bgd.daemon.attempts import Attempts
from bgd.daemon.storage.records import (
    AttemptEnd,
    AttemptPid,
    Batch,
    Controls,
    Event,
    NewJob,
    SavedJob,
    StoredSpec,
    Submission,
)
from bgd.wire.launching import Key
from bgd.wire.views import JobProgress

_ENDS = frozenset({Move.SUCCEED, Move.RETRY, Move.GIVE_UP, Move.REQUEUE, Move.SNOOZE, Move.CANCEL})
_REMOVE = "remove"


class Pending(Struct):
    """What has gathered since the last transaction and belongs into the next one, or after it."""

    specs: dict[JobId, StoredSpec] = {}
    edited: dict[JobId, JobSpec] = {}
    removed: list[Job] = []
    cleared: list[JobId] = []
    controls: Controls | None = None
    progress: dict[JobId, JobProgress] = {}
    submissions: list[Submission] = []
    pids: dict[JobId, AttemptPid] = {}
    ends: list[AttemptEnd] = []
    acknowledge: list[Key] = []
    answers: list[Callable[[], object]] = []


class Settlement:
    """Draws up one batch for the store from what is pending and what the Scheduler has decided.

    Args:
        pending: what has gathered.
        at: the instant of the transaction.
        launcher: instance that new attempts are saved for, because they are sent to it.
        job_of: the unfinished job of an id, None for any other.

    Attributes:
        batch: what is to be written.
        launches: jobs whose attempts are to be sent, once it is.
        orders: Stop, Suspend and Continue, for attempts that run, once it is.
    """

    def __init__(
        self, pending: Pending, at: Now, launcher: str, job_of: Callable[[JobId], Job | None]
    ) -> None:
        self.batch = Batch(
            now=at,
            pids=list(pending.pids.values()),
            ends=pending.ends,
            edited=pending.edited,
            removed=[job.id for job in pending.removed],
            cleared=pending.cleared,
            controls=pending.controls,
            progress=pending.progress,
            submissions=pending.submissions,
        )
        self.launches: list[Job] = []
        self.orders: list[Stop | Suspend | Continue] = []
        self._specs = pending.specs
        self._removed = pending.removed
        self._launcher = launcher
        self._job_of = job_of

    def draw_up(self, effects: Iterable[Effect], attempts: Attempts) -> None:
        """Put all of it into the batch, and see which specs have to be read back for the launches."""
        outcomes = {(end.job, end.attempt): end.outcome for end in self.batch.ends}
        for effect in effects:
            self._take(effect, attempts)
            if isinstance(effect, Save):
                self.batch.events.append(_event(effect, outcomes))
        for job in self._removed:
            at = self.batch.now.wall
            self.batch.events.append(Event(at, job.id, _REMOVE, job.state, job.attempt, None, None))
        self._hand_on(attempts)
        self.batch.wanted.extend(job.id for job in self.launches if job.id not in self._specs)

    def _take(self, effect: Effect, attempts: Attempts) -> None:
        match effect:
            case Save(job, at, spec=JobSpec()):
                stored = self._specs[job.id]
                self.batch.new.append(NewJob(job, stored.spec, stored.uid, at))
            case Save(job, at, _, reason):
                self.batch.saves[job.id] = SavedJob(job, at, reason)
            case Start(job, slot):
                self.batch.attempts.append(attempts.start(job, slot, self._launcher, self.batch.now.wall))
                current = self._job_of(job.id)
                if current is not None:
                    self.launches.append(current)
            case Stop() | Suspend() | Continue():
                self.orders.append(effect)

    def _hand_on(self, attempts: Attempts) -> None:
        """Save attempts for this launcher that were saved for another and never sent to it."""
        waiting = [self._job_of(job_id) for job_id in attempts.to_hand_on]
        for job, row in attempts.hand_on(waiting, self._launcher, self.batch.now.wall):
            self.batch.relaunched.append(row)
            self.launches.append(job)


def _event(save: Save, outcomes: dict[tuple[JobId, int], Outcome]) -> Event:
    """Tell what happened; each outcome goes to the one move that follows it, and is taken out of these."""
    job = save.job
    outcome = outcomes.pop((job.id, job.attempt), None) if save.what in _ENDS else None
    return Event(save.at, job.id, save.what, job.state, job.attempt, outcome, save.reason)
