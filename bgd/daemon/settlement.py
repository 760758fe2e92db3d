"""A settlement: what one transaction saves, and what is to be done once it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from bgd.core.effects import Effect, Save, Start, Stop
from bgd.core.job import Job, JobId, JobSpec, Now
from bgd.daemon.attempts import Attempts
from bgd.daemon.records import AttemptEnd, AttemptPid, Batch, NewJob, SavedJob, StoredSpec
from bgd.wire.launching import Key


class Pending(Struct):
    """What has gathered since the last transaction and belongs into the next one, or after it."""

    specs: dict[JobId, StoredSpec] = {}
    pids: list[AttemptPid] = []
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
        stops: jobs whose attempts are to be ended, once it is.
    """

    def __init__(
        self, pending: Pending, at: Now, launcher: str, job_of: Callable[[JobId], Job | None]
    ) -> None:
        self.batch = Batch(now=at, pids=pending.pids, ends=pending.ends)
        self.launches: list[Job] = []
        self.stops: list[Job] = []
        self._specs = pending.specs
        self._launcher = launcher
        self._job_of = job_of

    def draw_up(self, effects: Iterable[Effect], attempts: Attempts) -> None:
        """Put all of it into the batch, and see which specs have to be read back for the launches."""
        for effect in effects:
            self._take(effect, attempts)
        self._hand_on(attempts)
        self.batch.wanted.extend(job.id for job in self.launches if job.id not in self._specs)

    def _take(self, effect: Effect, attempts: Attempts) -> None:
        match effect:
            case Save(job, at, _, JobSpec()):
                stored = self._specs[job.id]
                self.batch.new.append(NewJob(job, stored.spec, stored.uid, at))
            case Save(job, at, reason):
                self.batch.saves[job.id] = SavedJob(job, at, reason)
            case Start(job, slot):
                self.batch.attempts.append(attempts.start(job, slot, self._launcher, self.batch.now.wall))
                current = self._job_of(job.id)
                if current is not None:
                    self.launches.append(current)
            case Stop(job):
                self.stops.append(job)

    def _hand_on(self, attempts: Attempts) -> None:
        """Save attempts for this launcher that were saved for another and never sent to it."""
        waiting = [self._job_of(job_id) for job_id in attempts.to_hand_on]
        for job, row in attempts.hand_on(waiting, self._launcher, self.batch.now.wall):
            self.batch.relaunched.append(row)
            self.launches.append(job)
