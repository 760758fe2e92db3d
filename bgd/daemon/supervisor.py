"""The Supervisor owns the Scheduler: facts come in, are saved, and only then answered and acted on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bgd import clock
from bgd.config import Config
from bgd.core.job import (
    ACTIVE,
    Job,
    JobId,
    JobSpec,
    Outcome,
    State,
    problem_with,
)
from bgd.core.retry import policy_of, with_policy
from bgd.core.scheduler import Scheduler
from bgd.daemon.access import check_may_run
from bgd.daemon.attempts import NEVER_STARTED, Attempts
from bgd.daemon.feeds import Feed, Feeds
from bgd.daemon.instants import now
from bgd.daemon.launches import end_of, end_without_report, launch_of
from bgd.daemon.launching import LauncherLink, Snapshot
from bgd.daemon.records import AttemptEnd, AttemptPid, StoredSpec
from bgd.daemon.settlement import Pending, Settlement
from bgd.daemon.store import Store
from bgd.errors import NoSuchJob, Refused
from bgd.wire.launching import Acknowledge, Ended, Grew, Key, Started, Watch
from bgd.wire.launching import Stop as StopAttempt
from bgd.wire.requests import ShutdownMode

logger = logging.getLogger(__name__)

PID_PATIENCE = 0.05  # seconds in which the number of a process is written down


class Supervisor:
    """Everything that happens to a job happens here, in one order: decide, save, answer, act.

    Facts that arrive while a transaction is being written share the next one.
    """

    def __init__(self, config: Config, store: Store, link: LauncherLink) -> None:
        self.config = config
        self._store = store
        self._link = link
        self._scheduler = _scheduler(config, last_id=0)
        self._attempts = Attempts()
        self._feeds = Feeds()
        self._pending = Pending()
        self._changed = asyncio.Event()
        self._timer = clock.Alarm(asyncio.get_running_loop(), self._come_due)
        self._reviving = asyncio.Lock()
        self._is_draining = False
        self._is_idle = asyncio.Event()

    # --- life -----------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take over what was written down; nothing starts before a launcher has told what still runs."""
        jobs, last_id = await self._store.restore(now(), clock.boot_id())
        self._scheduler = _scheduler(self.config, last_id)
        for restored in jobs:
            self._scheduler.restore(restored.job, restored.slot)
            if restored.slot is not None and restored.launcher is not None:
                self._attempts.restore(restored.job.id, restored.slot, restored.launcher)
        self._changed.set()

    async def run(self) -> None:
        """Save and act for ever."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._settle()
                self._timer.set(self._scheduler.next_timer_at())
                if self.running == 0:
                    self._is_idle.set()
                else:
                    self._is_idle.clear()
        finally:
            self._timer.close()

    async def drain(self, mode: ShutdownMode) -> None:
        """Prepare to end: start nothing more, and return when what runs has ended, or at once to leave it."""
        self._scheduler.pause()
        self._is_draining = True
        at = now()
        for job in self._scheduler.active_jobs():
            if mode is ShutdownMode.REQUEUE:
                self._scheduler.make_way(job.id, at)
            elif mode is ShutdownMode.CANCEL:
                self._scheduler.cancel(job.id, at)
        await self.saved()
        if mode is not ShutdownMode.LEAVE:
            await self._is_idle.wait()
            await self.saved()  # the last end may have come while an earlier transaction was being written

    def configure(self, config: Config) -> None:
        """Take another configuration; what runs is not touched."""
        self.config = config
        self._scheduler.resize(config.daemon.slots, _queue_slots(config), now())
        self._changed.set()

    @property
    def running(self) -> int:
        return self._scheduler.running

    # --- verbs ----------------------------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Judge a spec before anything is done with it.

        Raises:
            Refused: it cannot be a job, or the configuration does not allow it.
        """
        problem = problem_with(spec)
        if problem is not None:
            raise Refused(problem)
        if self._is_draining:
            raise Refused("the daemon is shutting down and takes no jobs")
        check_may_run(spec, self.config)

    def submit(self, spec: JobSpec, uid: int) -> JobId:
        """Take a checked spec as a new job; it is on disk once `when_saved` says so."""
        policy = policy_of(spec, self.config.retry if spec.target else self.config.retry_commands)
        at = now()
        job_id = self._scheduler.submit(spec, policy, at)
        self._pending.specs[job_id] = StoredSpec(with_policy(spec, policy), uid, at.wall)
        self._changed.set()
        return job_id

    def cancel(self, job_id: JobId) -> State:
        """Cancel an unfinished job; return its state, cancelled or stopping.

        Raises:
            KeyError: it is not unfinished.
        """
        state = self._scheduler.cancel(job_id, now())
        self._changed.set()
        return state

    async def revive(self, job_id: JobId) -> State:
        """Queue a finished job again; it is on disk once `saved` says so.

        Raises:
            NoSuchJob: there is none.
            Refused: it is not finished.
        """
        async with self._reviving:  # or two of them could both find it finished
            if self.is_unfinished(job_id):
                raise Refused(f"job {job_id} has not finished: there is nothing to retry")
            await self.saved()  # its end may still be on its way to the disk
            job = await self._store.finished(job_id)
            if job is None:
                raise NoSuchJob(f"no job {job_id}")
            self._scheduler.revive(job, now())
            self._changed.set()
        return State.QUEUED

    def is_unfinished(self, job_id: JobId) -> bool:
        return self._scheduler.get(job_id) is not None

    def when_saved(self, callback: Callable[[], object]) -> None:
        """Call back, cheaply, when everything decided so far is on disk."""
        self._pending.answers.append(callback)
        self._changed.set()

    async def saved(self) -> None:
        """Return when everything decided so far is on disk."""
        done = asyncio.Event()
        self.when_saved(done.set)
        await done.wait()

    def following(self, job_ids: Iterable[JobId]) -> AbstractContextManager[Feed]:
        """Give a Feed that rings at every change of state of these jobs."""
        return self._feeds.following(job_ids)

    @contextmanager
    def following_log(self, job_id: JobId) -> Iterator[Feed]:
        """Give a Feed that rings at every change of a job's state, and when a running attempt writes."""
        try:
            with self._feeds.following_log(job_id) as feed:
                self._watch_log(job_id)
                yield feed
        finally:
            self._watch_log(job_id, on=False)

    # --- facts from the launcher --------------------------------------------------------------------------

    def launcher_ready(self, snapshot: Snapshot) -> None:
        """Bring what is written down and what the launcher knows together, then start again."""
        active = self._scheduler.active_jobs()
        for verdict in self._attempts.compare(active, snapshot, self._store.store_id, clock.boot_id()):
            job = verdict.job
            if verdict.outcome is not None:
                self._end_unreported(job, verdict.outcome, verdict.why)
            elif verdict.adopt:
                self.attempt_started(snapshot.started[self._key(job)])
                self._watch_log(job.id)
                if job.state is State.STOPPING:
                    self._stop(job)
        for end in snapshot.ended:
            self.attempt_ended(end)
        for key in snapshot.started:
            self._stop_stray(key)
        if not self._is_draining:
            self._scheduler.resume(now())
        self._changed.set()

    def launcher_lost(self) -> None:
        self._scheduler.pause()

    def attempt_started(self, started: Started) -> None:
        """Take the number of a process, for people to see."""
        job = self._active(started.key)
        if job is not None and started.pid is not None:
            # only people want it, so it waits for the next transaction, but not for long
            if not self._pending.pids:
                asyncio.get_running_loop().call_later(PID_PATIENCE, self._changed.set)
            self._pending.pids.append(AttemptPid(job.id, job.attempt, started.pid, started.started_at))

    def attempt_ended(self, ended: Ended) -> None:
        """Take an end; it is acknowledged after the next commit, also if it was already known (R4)."""
        if ended.key.store == self._store.store_id:
            self._take_end(end_of(ended))
        self._pending.acknowledge.append(ended.key)
        self._changed.set()

    def log_grew(self, grew: Grew) -> None:
        self._feeds.grew(JobId(grew.key.job))

    # --- settling -------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        pending, self._pending = self._pending, Pending()
        settlement = Settlement(pending, now(), self._link.instance, self._scheduler.get)
        settlement.draw_up(self._scheduler.take_effects(), self._attempts)
        batch = settlement.batch
        specs = {} if batch.is_empty else pending.specs | await self._store.commit(batch)
        for answer in pending.answers:
            answer()
        for job in settlement.launches:
            self._launch(job, specs)
        for job in settlement.stops:
            self._stop(job)
        for key in pending.acknowledge:
            self._link.send(Acknowledge(key))
        self._feeds.moved(batch.saves)

    def _launch(self, job: Job, specs: dict[JobId, StoredSpec]) -> None:
        """Send what has been saved as started, unless it is over, or its launcher gone, since then."""
        current = self._active(self._key(job))
        if current is None or not self._attempts.may_send(job, self._link.instance):
            return  # over; or the next snapshot finds it absent and unsent, and hands it on
        if current.state is State.STOPPING:  # asked while the start was being saved
            self._end_unreported(job, Outcome.CANCELLED, NEVER_STARTED)
            return
        stored = specs[job.id]
        try:
            check_may_run(stored.spec, self.config)
        except Refused as refusal:
            self._end_unreported(job, Outcome.REFUSED, str(refusal))
            return
        slot = self._attempts.slot_of(job.id)
        if self._link.send(launch_of(self._key(job), job, stored.spec, slot, self.config)):
            self._attempts.sent(job.id)
            self._watch_log(job.id)

    def _stop(self, job: Job) -> None:
        if self._active(self._key(job)) is not None:  # it may have been over before it was sent
            self._link.send(StopAttempt(self._key(job), self.config.daemon.grace))

    def _stop_stray(self, key: Key) -> None:
        """Stop what runs and should not: an attempt that this database does not have as running."""
        if self._active(key) is None:
            logger.warning(
                "stopping attempt %d of job %d: the database has no such run", key.attempt, key.job
            )
            self._link.send(StopAttempt(key, self.config.daemon.grace))

    def _watch_log(self, job_id: JobId, *, on: bool = True) -> None:
        """Ask the launcher to tell when an active attempt writes, if somebody follows; or no longer to."""
        job = self._scheduler.get(job_id)
        if job is not None and job.state in ACTIVE and self._feeds.has_log_followers(job_id) == on:
            self._link.send(Watch(self._key(job), on))

    def _end_unreported(self, job: Job, outcome: Outcome, why: str) -> None:
        self._take_end(end_without_report(job, outcome, now().wall, why))

    def _take_end(self, end: AttemptEnd) -> None:
        if self._scheduler.ended(end.job, end.attempt, end.outcome, now()):
            self._attempts.end(end.job)
            self._pending.ends.append(end)
            self._changed.set()

    def _come_due(self) -> None:
        self._scheduler.advance(now())
        self._changed.set()

    def _active(self, key: Key) -> Job | None:
        """Return the job whose active attempt this is, None if there is none."""
        job = self._scheduler.get(JobId(key.job))
        return job if job is not None and job.state in ACTIVE and key == self._key(job) else None

    def _key(self, job: Job) -> Key:
        return Key(self._store.store_id, job.id, job.attempt)


def _scheduler(config: Config, last_id: int) -> Scheduler:
    scheduler = Scheduler(config.daemon.slots, _queue_slots(config), last_id, random.random)
    scheduler.pause()  # until there is a launcher
    return scheduler


def _queue_slots(config: Config) -> dict[str, int]:
    return {name: queue.slots for name, queue in config.queues.items() if queue.slots is not None}
