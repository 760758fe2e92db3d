"""The book of active attempts: which launcher was given each, and what has yet to be sent to it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from bgd.core.job import Job, JobId, Outcome, State
from bgd.daemon.launching import Snapshot
from bgd.daemon.storage.records import NewAttempt
from bgd.wire.launching import Key

NEVER_STARTED = "stopped before it was started"


class Verdict(Struct, frozen=True):
    """What to do about an active attempt after a launcher has told what it knows.

    `adopt`: it runs there. `outcome`: it is over, for the reason `why`. Neither: it is handed on with the
    next transaction.
    """

    job: Job
    adopt: bool = False
    outcome: Outcome | None = None
    why: str = ""


class Attempts:
    """Active attempts by job, from START to their end.

    An attempt's Launch is sent only to the launcher it was *saved* for (R3): so what the database says
    always suffices to tell later whether it can have been started.
    """

    def __init__(self) -> None:
        self._launcher: dict[JobId, str] = {}  # instance it was saved for
        self._slot: dict[JobId, int] = {}
        self._unsent: set[JobId] = set()
        self._to_hand_on: set[JobId] = set()

    def restore(self, job_id: JobId, slot: int, launcher: str) -> None:
        """Take an attempt as it was written down."""
        self._slot[job_id] = slot
        self._launcher[job_id] = launcher

    def start(self, job: Job, slot: int, launcher: str, at: float) -> NewAttempt:
        """Take a new attempt; the row returned belongs into the next transaction."""
        self._slot[job.id] = slot
        self._unsent.add(job.id)
        return self._saved_for(job, launcher, at)

    def hand_on(self, jobs: Iterable[Job | None], launcher: str, at: float) -> list[tuple[Job, NewAttempt]]:
        """Return the rows of attempts that go to another launcher than the one they were saved for."""
        waiting, self._to_hand_on = self._to_hand_on, set()
        return [
            (job, self._saved_for(job, launcher, at)) for job in jobs if job is not None and job.id in waiting
        ]

    @property
    def to_hand_on(self) -> Iterable[JobId]:
        return self._to_hand_on

    def may_send(self, job: Job, launcher: str) -> bool:
        """Tell whether this launcher is the one the attempt was saved for, and has not been sent it yet."""
        return job.id in self._unsent and self._launcher[job.id] == launcher

    def sent(self, job_id: JobId) -> None:
        self._unsent.discard(job_id)

    def end(self, job_id: JobId) -> None:
        """Forget an attempt that is over."""
        self._launcher.pop(job_id, None)
        self._slot.pop(job_id, None)
        self._unsent.discard(job_id)
        self._to_hand_on.discard(job_id)

    def slot_of(self, job_id: JobId) -> int:
        return self._slot[job_id]

    def compare(self, jobs: Iterable[Job], snapshot: Snapshot, store_id: str, boot_id: str) -> list[Verdict]:
        """Judge every active attempt by what a launcher knows of it (R3).

        Ends in the snapshot are not judged here: they are taken as any other end. Nor are attempts that were
        decided while a transaction was being written: the next one saves them for the launcher of its time.
        """
        ended = {end.key for end in snapshot.ended}
        verdicts = []
        for job in jobs:
            key = Key(store_id, job.id, job.attempt)
            if key in ended or job.id not in self._launcher:
                continue
            if key in snapshot.started:
                self._launcher[job.id] = snapshot.instance
                self._unsent.discard(job.id)
                verdicts.append(Verdict(job, adopt=True))
            else:
                verdicts.append(self._judge_absent(job, snapshot, boot_id))
        return verdicts

    def _judge_absent(self, job: Job, snapshot: Snapshot, boot_id: str) -> Verdict:
        launcher = self._launcher[job.id]
        was_never_started = (
            job.id in self._unsent or launcher == snapshot.instance or launcher in snapshot.covers
        )
        if was_never_started and job.state is State.STOPPING:
            return Verdict(job, outcome=Outcome.CANCELLED, why=NEVER_STARTED)
        if was_never_started:
            self._unsent.add(job.id)
            self._to_hand_on.add(job.id)
            return Verdict(job)
        if launcher.partition(":")[0] != boot_id:
            return Verdict(job, outcome=Outcome.INTERRUPTED, why="the machine went down while it ran")
        return Verdict(job, outcome=Outcome.UNKNOWN, why="its launcher died and nobody saw it end")

    def _saved_for(self, job: Job, launcher: str, at: float) -> NewAttempt:
        self._launcher[job.id] = launcher
        return NewAttempt(job.id, job.attempt, self._slot[job.id], launcher, at)
