"""The Supervisor owns the Scheduler: facts come in, are saved, and only then answered and acted on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from bgd import clock
from bgd.clock import now
from bgd.config import Config
from bgd.core.job import FINAL, Job, JobId, Move, Now, Outcome
from bgd.core.retry import exit_code_of
from bgd.core.scheduler import Continue, Effect, Pause, Save, Scheduler, Start, Stop, Suspend
from bgd.core.spec import JobSpec
from bgd.daemon.dispatch import AttemptTable, Dispatcher, apply_exception_rules, reported_end, unreported_end
from bgd.daemon.launching import LauncherLink, LauncherSnapshot
from bgd.daemon.logs import LogCleaner, LostOutput
from bgd.daemon.queue_controls import queue_rules, total_slots
from bgd.daemon.space import DiskSpace
from bgd.daemon.storage.records import (
    AttemptEnd,
    AttemptPid,
    JobEvent,
    NewJob,
    QueueControls,
    SavedJob,
    StoredSpec,
    Submission,
    WriteBatch,
)
from bgd.daemon.storage.store import Store
from bgd.daemon.streams import ProgressBuffer, Subscription, Subscriptions
from bgd.units import format_duration
from bgd.wire.launching import Acknowledge, Ended, Grew, Key, Renew, Started
from bgd.wire.steering import ShutdownMode
from bgd.wire.views import JobProgress

# --- A settlement: what one transaction saves, and what is to be done once it has.


_ENDS = frozenset({Move.SUCCEED, Move.RETRY, Move.GIVE_UP, Move.REQUEUE, Move.SNOOZE, Move.CANCEL})
_REMOVE = "remove"


class PendingChanges(Struct):
    """What has gathered since the last transaction and belongs into the next one, or after it."""

    specs: dict[JobId, StoredSpec] = {}
    edited: dict[JobId, JobSpec] = {}
    removed: list[Job] = []
    cleared: list[JobId] = []
    controls: QueueControls | None = None
    progress: dict[JobId, JobProgress] = {}
    submissions: list[Submission] = []
    pids: dict[JobId, AttemptPid] = {}
    ends: list[AttemptEnd] = []
    acknowledge: list[Key] = []
    answers: list[Callable[[], object]] = []


class TransactionPlan:
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
        self, pending: PendingChanges, at: Now, launcher: str, job_of: Callable[[JobId], Job | None]
    ) -> None:
        self.batch = WriteBatch(
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
        self.commands: list[Stop | Suspend | Continue] = []
        self._specs = pending.specs
        self._removed = pending.removed
        self._launcher = launcher
        self._job_of = job_of

    def add_effects(self, effects: Iterable[Effect], attempts: AttemptTable) -> None:
        """Put all of it into the batch, and see which specs have to be read back for the launches."""
        outcomes = {(end.job, end.attempt): end.outcome for end in self.batch.ends}
        for effect in effects:
            self._take(effect, attempts)
            if isinstance(effect, Save):
                self.batch.events.append(_event(effect, outcomes))
        for job in self._removed:
            at = self.batch.now.wall
            self.batch.events.append(JobEvent(at, job.id, _REMOVE, job.state, job.attempt, None, None))
        self._hand_on(attempts)
        self.batch.wanted.extend(job.id for job in self.launches if job.id not in self._specs)

    def _take(self, effect: Effect, attempts: AttemptTable) -> None:
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
                self.commands.append(effect)

    def _hand_on(self, attempts: AttemptTable) -> None:
        """Save attempts for this launcher that were saved for another and never sent to it."""
        waiting = [self._job_of(job_id) for job_id in attempts.to_hand_on]
        for job, row in attempts.hand_on(waiting, self._launcher, self.batch.now.wall):
            self.batch.relaunched.append(row)
            self.launches.append(job)


def _event(save: Save, outcomes: dict[tuple[JobId, int], Outcome]) -> JobEvent:
    """Tell what happened; each outcome goes to the one move that follows it, and is taken out of these."""
    job = save.job
    outcome = outcomes.pop((job.id, job.attempt), None) if save.what in _ENDS else None
    return JobEvent(save.at, job.id, save.what, job.state, job.attempt, outcome, save.reason)


logger = logging.getLogger(__name__)

R = TypeVar("R")

PID_PATIENCE = 0.05  # seconds in which the number of a process is written down


class Supervisor:
    """Everything that happens to a job happens here, in one order: decide, save, answer, act.

    Facts that arrive while a transaction is being written share the next one.
    """

    def __init__(self, config: Config, store: Store, link: LauncherLink) -> None:
        self.config = config
        self.controls = QueueControls()
        self.space = DiskSpace(config.daemon.state_dir, config.daemon.min_free, lambda: store.unused)
        self.newest_id = 0  # id of the newest job on disk, or that ever was there
        self._store = store
        self._link = link
        self._scheduler = self._new_scheduler(last_id=0)
        self._attempts = AttemptTable()
        self.subscriptions = Subscriptions()
        self.lost_output = LostOutput()
        self.dispatcher = Dispatcher(link, self._attempts, self.subscriptions, store.store_id, self.get)
        self.pending = PendingChanges()
        self._changed = asyncio.Event()
        self.progress = ProgressBuffer(self.get, self._changed.set)
        loop = asyncio.get_running_loop()
        self._timer = clock.Alarm(loop, self._advance)
        self._wall_timer = clock.Alarm(loop, self._advance, on_wall_clock=True)
        self.log_cleaner = LogCleaner(store, config.log_dir, self._logs_deleted)
        self._on_finished: Callable[[], None] = lambda: None
        self._on_configured: list[Callable[[], None]] = []
        self.is_draining = False
        self._is_idle = asyncio.Event()

    # --- life -----------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take over what was written down; nothing starts before a launcher has told what still runs."""
        ignored = await self._store.adopt_boot(now(), clock.boot_id())
        if ignored:
            logger.warning(
                "the machine was off, or its clock is wrong: finished jobs are %s older by it than bgd counts"
                " (`[retention]`), and stay so much longer",
                format_duration(ignored // 1),
            )
        self.controls = await self._store.controls()
        self.newest_id = await self._store.last_id()
        self._scheduler = self._new_scheduler(self.newest_id)
        async for page in self._store.unfinished():
            for restored in page:
                try:
                    self._scheduler.restore(restored.job, restored.slot)
                except ValueError as error:  # rows that are sound each by itself, and not together
                    raise self._store.damaged(error) from error
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
                self._wall_timer.set(self._scheduler.next_wall_timer_at())
                if self.running == 0:
                    self._is_idle.set()
                else:
                    self._is_idle.clear()
        finally:
            self._timer.close()
            self._wall_timer.close()
            self.progress.close()

    async def drain(self, mode: ShutdownMode) -> None:
        """Prepare to end: start nothing more, and return when what runs has ended, or at once to leave it."""
        self._scheduler.pause(Pause.DRAINING)
        self.is_draining = True
        at = now()
        for job in self._scheduler.active_jobs():
            if mode is ShutdownMode.REQUEUE:
                self._scheduler.make_way(job.id, at)
            elif mode is ShutdownMode.CANCEL:
                self._scheduler.cancel(job.id, at)
        self.progress.flush()
        await self.saved_unless_stuck()
        if mode is not ShutdownMode.LEAVE:
            await self._is_idle.wait()
            await self.saved()  # the last end may have come while an earlier transaction was being written

    def configure(self, config: Config) -> None:
        """Take another configuration; what runs is not touched, but what waits for jobs is started anew."""
        self.config = config
        if self._link.supports(renew := Renew()):
            self._link.send(renew)
        self.space.configure(config.daemon.min_free)
        self._apply_controls()
        for callback in self._on_configured:
            callback()

    @property
    def running(self) -> int:
        """How many jobs have an attempt that is starting or runs."""
        return self._scheduler.running

    @property
    def obstacle(self) -> str | None:
        """Why nothing can start now; None: nothing is known to be in the way."""
        return self._link.obstacle

    @property
    def waits(self) -> int:
        """How many times a job waits for another one."""
        return self._scheduler.waits

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return total_slots(self.config, self.controls)

    @property
    def taken(self) -> int:
        """How many of them are taken."""
        return self._scheduler.taken

    # --- for whoever orders ---------------------------------------------------------------------------

    def decide(self, fact: Callable[[Scheduler, Now], R], at: Now | None = None) -> R:
        """Put a fact of this instant, None: of now, to the Scheduler; what follows is saved and done."""
        decided = fact(self._scheduler, at or now())
        self._changed.set()
        return decided

    def get(self, job_id: JobId) -> Job | None:
        """Return an unfinished job, None for any other."""
        return self._scheduler.get(job_id)

    def is_unfinished(self, job_id: JobId) -> bool:
        return self._scheduler.get(job_id) is not None

    def holder_of(self, key: str) -> JobId | None:
        """Return the unfinished job that has this key."""
        return self._scheduler.holder_of(key)

    def remove(self, job: Job) -> None:
        """Delete a finished job, and its logs once it is off the disk."""
        self.pending.removed.append(job)
        self._changed.set()

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call back, cheaply, whenever jobs have finished."""
        self._on_finished = callback

    def when_configured(self, callback: Callable[[], None]) -> None:
        """Call back, cheaply, when the configuration is another."""
        self._on_configured.append(callback)

    def set_controls(self, controls: QueueControls) -> None:
        """Take other controls of slots and queues; they are on disk once `saved` says so."""
        self.controls = self.pending.controls = controls
        self._apply_controls()

    def when_saved(self, callback: Callable[[], object]) -> None:
        """Call back, cheaply, when everything decided so far is on disk."""
        self.pending.answers.append(callback)
        self._changed.set()

    async def saved(self) -> None:
        """Return when everything decided so far is on disk."""
        done = asyncio.Event()
        self.when_saved(done.set)
        await done.wait()

    async def saved_unless_stuck(self) -> None:
        """Return when everything decided so far can be read, or at once while it cannot be written."""
        done = asyncio.Event()
        self.when_saved(done.set)
        with self.space.set_when_stuck(done):
            await done.wait()

    @contextmanager
    def subscribe_to_log(self, job_id: JobId) -> Iterator[Subscription]:
        """Yield a Subscription that is notified of every change of a job's state and when its log grows."""
        try:
            with self.subscriptions.subscribe_to_log(job_id) as subscription:
                self.dispatcher.watch_log(job_id)
                yield subscription
        finally:
            self.dispatcher.watch_log(job_id, on=False)

    # --- facts from the launcher --------------------------------------------------------------------------

    def launcher_ready(self, snapshot: LauncherSnapshot) -> None:
        """Bring what is written down and what the launcher knows together, then start again."""
        active = self._scheduler.active_jobs()
        for verdict in self._attempts.reconcile(active, snapshot, self._store.store_id, clock.boot_id()):
            job = verdict.job
            if verdict.outcome is not None:
                self._end_attempt(unreported_end(job, verdict.outcome, now().wall, verdict.why))
            elif verdict.adopt:
                started = snapshot.started[self.dispatcher.key_of(job)]
                self.attempt_started(started)
                self.dispatcher.watch_log(job.id)
                self.dispatcher.resend_commands(job, started, self.config.daemon.grace)
        for end in snapshot.ended:
            self.attempt_ended(end)
        for key in snapshot.started:
            self.dispatcher.stop_stray(key, self.config.daemon.grace)
        self._scheduler.resume(Pause.NO_LAUNCHER, now())
        self._changed.set()

    def launcher_lost(self) -> None:
        self._scheduler.pause(Pause.NO_LAUNCHER)

    def attempt_started(self, started: Started) -> None:
        """Take the number of a process, for people to see."""
        job = self.dispatcher.active_job(started.key)
        if job is not None and started.pid is not None:
            # only people want it, so it waits for the next transaction, but not for long
            if not self.pending.pids:
                asyncio.get_running_loop().call_later(PID_PATIENCE, self._changed.set)
            self.pending.pids[job.id] = AttemptPid(
                job.id, job.attempt, started.pid, started.started_at, started.since
            )

    def attempt_ended(self, ended: Ended) -> None:
        """Take an end; it is acknowledged after the next commit, also if it was already known (R4)."""
        if ended.key.store == self._store.store_id:
            self.lost_output.ended(ended)
            self._end_attempt(reported_end(ended))
        self.pending.acknowledge.append(ended.key)
        self._changed.set()

    def log_grew(self, grew: Grew) -> None:
        if grew.key.store == self._store.store_id:
            self.lost_output.grew(grew)
        self.subscriptions.notify_log_grew(JobId(grew.key.job))

    # --- settling -------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        pending, self.pending = self.pending, PendingChanges()
        pending.progress = self.progress.take([end.job for end in pending.ends])
        plan = TransactionPlan(pending, now(), self._link.instance, self._scheduler.get)
        plan.add_effects(self._scheduler.take_effects(), self._attempts)
        batch = plan.batch
        specs: dict[JobId, StoredSpec] = {}
        if not batch.is_empty:
            specs = pending.specs | await self.space.retry_while_full(partial(self._store.commit, batch))
        if batch.new:
            self.newest_id = batch.new[-1].job.id
        for answer in pending.answers:
            answer()
        for job in plan.launches:
            end = self.dispatcher.launch(job, specs, self.config, self._store.position)
            if end is not None:
                self._end_attempt(end)
        for command in plan.commands:
            self.dispatcher.send_command(command, self.config.daemon.grace)
        for key in pending.acknowledge:
            self._link.send(Acknowledge(key, self._store.position))
        self.subscriptions.notify_progress(batch.progress, [end.job for end in batch.ends])
        self.subscriptions.notify_moved(batch.saves)
        if any(save.job.state in FINAL for save in batch.saves.values()):
            self._on_finished()
        if batch.removed:
            self.log_cleaner.add(batch.removed)

    def _end_attempt(self, end: AttemptEnd) -> None:
        job = self.get(end.job)
        if job is not None:
            end = apply_exception_rules(end, job.policy)
        code = exit_code_of(end.outcome, end.exit_code, end.signal)
        if self._scheduler.ended(end.job, end.attempt, end.outcome, now(), code, end.wish):
            self._attempts.end(end.job)
            cap = self.config.logs.max_bytes  # the launcher counts what it threw away, too
            end = replace(end, log_kept=min(end.log_kept, cap))
            started = self.pending.pids.pop(end.job, None)
            if started is not None:  # and has not been written: of a short job both go in one
                end = replace(end, pid=started.pid, started_at=end.started_at or started.started_at)
            self.pending.ends.append(end)
            self._changed.set()

    def _logs_deleted(self, jobs: Iterable[JobId]) -> None:
        """Note that nothing is left of removed jobs: it goes along with whatever is written next."""
        self.pending.cleared += jobs

    def _new_scheduler(self, last_id: int) -> Scheduler:
        slots, rules = total_slots(self.config, self.controls), queue_rules(self.config, self.controls)
        scheduler = Scheduler(slots, rules, last_id, random.random)
        scheduler.pause(Pause.NO_LAUNCHER)
        if self.controls.paused:
            scheduler.pause(Pause.ASKED)
        return scheduler

    def _apply_controls(self) -> None:
        """Bring the Scheduler under the configuration and the controls as they are now."""
        slots, rules = total_slots(self.config, self.controls), queue_rules(self.config, self.controls)
        self._scheduler.resize(slots, rules, now())
        if self.controls.paused:
            self._scheduler.pause(Pause.ASKED)
        else:
            self._scheduler.resume(Pause.ASKED, now())
        self._changed.set()

    def _advance(self) -> None:
        self._scheduler.advance(now())
        self._changed.set()
