"""Permits: the next jobs may be launched as soon as a slot is free, before their start is saved.

An attempt must not begin before the disk shows that it may have: otherwise a crash could run it twice. But
the commit of a start, with its two hand-overs between threads, takes longer than all else between the end of
a short job and the next one. So the transactions that store ends also save *permits* for the jobs that
probably come next. A permit is no attempt: lists, counts, charts and events know nothing of it, and no job
waits for it or is chosen because of it. When a slot is free, the Scheduler takes the most urgent job that may
start then. If that job has a permit, it is launched in the same turn, and the next transaction stores its
start and takes the permit away; otherwise it is launched after its own commit. Nothing waits at the launcher,
so a pause, a hold or a more urgent job has nothing to recall.

What was tried: launching jobs ahead, which wait at the launcher for their slot, is faster still, but then
jobs begin out of order and after a pause was confirmed, and 25 commits repaired that. Syncing the launcher's
journal in place of the commit blocks all slots. Committing in the thread of the loop freezes the daemon when
a disk stalls.

What it costs: a row that is rewritten by each of those transactions; the specs of some jobs in memory; and
after a crash some jobs that may have begun. After the daemon's death the launcher knows which did. After a
power cut, or if both have died and the journal is lost, each job with a permit counts as one that may have
begun: two for each slot of short jobs, seven at most.

The laws, each of which a change may break (tests/simulation checks them):

* A permit is usable if it is on disk *and* still in the value of the transaction that is being written. A
  grant counts after its commit, a withdrawal from the close of its transaction; the other way round, a power
  cut would run a job twice.
* It names the number of the attempt and the launcher that may get it. For another launcher it is void.
* The start and the removal of its permit are one transaction. A start is written before the end of the same
  attempt, and the end is acknowledged only after both (R4).
* Only jobs that may start now have permits, so that a reboot makes no others `interrupted`: each transaction
  names anew which these are. Any pause and a second without a short job leave none.
* A transaction that grants has an event, so that a copy of the database from before it counts as older: the
  launcher remembers the newest event on disk at each launch.
* An edited job has none until its new spec is on disk, because specs are kept here.
* A new daemon changes no permit from before, and no job that has one, before a launcher has answered: R3 of
  docs/reliability.md says what becomes of them then. Whatever moves, edits or replaces a waiting job calls
  `Supervisor.check_certain` first.

The value is one row, so that a change of many permits is one UPDATE. Jobs whose arguments are the results of
others have no use for a permit: the commit of their start reads these. Jobs with tokens of resources get
none, because a launcher does not report tokens, and calls that may be paused get none, because one lost trial
would hold up the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from bgd.core.job import Job, JobId
from bgd.daemon.storage.records import Permit, StoredSpec, Transaction, pack_permits

SHORT_RUN = 0.02  # seconds: only slots whose latest job took less have permits
FIRST_PERMITS = 2  # for such a slot: with one, the commit of the next is often not done at the next end
MOST_PERMITS = 7  # if commits take longer than the jobs
UNUSED_SECONDS = 1.0  # without the end of a short job, until all permits are withdrawn
MAX_SPEC = 65_536  # bytes of text in the spec of a job; larger ones are not kept


class Permits:
    """The permits that are on disk or are being written.

    Attributes:
        unresolved: those of an earlier daemon, until a launcher has answered.
        are_resolved: set if there are none of these.
        value: those of the latest transaction that was closed, by job. `durable`: of the latest commit.
        numbers: how many there may be for each slot whose latest job was short.
        unused_at: when to close a transaction that withdraws them if none is used until then, elapsed clock.
    """

    def __init__(self) -> None:
        self.unresolved: list[Permit] = []
        self.are_resolved = asyncio.Event()
        self.are_resolved.set()
        self.value: dict[JobId, Permit] = {}
        self.durable: dict[JobId, Permit] = {}
        self._specs: dict[JobId, StoredSpec | None] = {}  # None: not to be kept
        self.numbers: dict[int, int] = {}
        self._latest_short_at = 0.0  # elapsed clock
        self.unused_at = inf

    def restore(self, permits: list[Permit]) -> None:
        """Take over the permits of an earlier daemon."""
        if permits:
            self.unresolved = permits
            self.are_resolved.clear()
            self.value = self.durable = {permit.job: permit for permit in permits}

    def resolve(self) -> None:
        """Forget the permits of an earlier daemon: what became of their attempts is in the transaction."""
        self.unresolved = []
        self.are_resolved.set()

    def note_end(self, slot: int, seconds: float | None, commit_seconds: float, at: float) -> None:
        """Note how long the latest job of a slot took. `seconds` None: that is unknown, or it did not run."""
        if not slot or seconds is None or seconds >= SHORT_RUN:
            self.numbers.pop(slot, None)
            return
        number = self.numbers.get(slot, FIRST_PERMITS)
        is_slow = slot in self.numbers and commit_seconds > seconds
        self.numbers[slot] = min(2 * number, MOST_PERMITS) if is_slow else number
        self._latest_short_at = at
        self.unused_at = min(self.unused_at, at + UNUSED_SECONDS)  # moved only when it comes: fewer timers

    def usable_spec(self, job: Job, launcher: str) -> StoredSpec | None:
        """Return the spec of a job whose start was just decided, if its permit is usable at this launcher."""
        permit = self.value.get(job.id)
        if permit is None or permit != self.durable.get(job.id):
            return None
        is_its_own = permit.attempt == job.attempt and permit.launcher == launcher
        return self._specs.get(job.id) if is_its_own else None

    def close(self, transaction: Transaction, next_jobs: Callable[[int], list[Job]], launcher: str) -> None:
        """Add to a transaction which permits there are after it, and read the specs of new ones with it."""
        if self.unresolved:
            return
        if transaction.now.elapsed >= self.unused_at:
            self.unused_at = self._latest_short_at + UNUSED_SECONDS
            if transaction.now.elapsed >= self.unused_at:
                self.numbers.clear()
                self.unused_at = inf
        jobs = next_jobs(sum(self.numbers.values())) if self.numbers else []
        value = {job.id: Permit(job.id, job.attempt + 1, launcher) for job in jobs}
        if not transaction.events:
            value = {job: permit for job, permit in value.items() if self.value.get(job) == permit}
        if value != self.value:
            transaction.permits = pack_permits([*value.values()])
        self.value = value
        self._specs = {
            job: spec for job, spec in self._specs.items() if job in value and job not in transaction.edited
        }
        transaction.wanted += value.keys() - self._specs.keys() - transaction.specs.keys()

    def note_commit(self, transaction: Transaction) -> None:
        """Note that the transaction that was closed last is on disk."""
        self.durable = self.value
        for job in self.value.keys() - self._specs.keys():
            spec = transaction.specs.get(job)
            self._specs[job] = spec if spec is not None and _is_kept(spec) else None


def _is_kept(stored: StoredSpec) -> bool:
    spec = stored.spec
    variables = (stored.env or {}).items()
    size = sum(len(name) + len(value) for name, value in variables) + sum(map(len, spec.argv or ()))
    return not spec.references and size + len(spec.input or b"") + len(spec.arguments or "") < MAX_SPEC
