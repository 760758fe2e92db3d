"""The Supervisor: gives facts to the Scheduler, saves what it decides, and only then answers and acts."""

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
from bgd.core.scheduler import (
    ContinueAttempt,
    Effect,
    PauseReason,
    SaveJob,
    Scheduler,
    StartAttempt,
    StopAttempt,
    SuspendAttempt,
)
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
from bgd.wire.launching import Acknowledge, AttemptEnded, AttemptKey, AttemptStarted, LogGrew, RenewWorkers
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import JobProgress

logger = logging.getLogger(__name__)

R = TypeVar("R")

PID_DELAY = 0.05  # seconds until the pid of a new process is saved, if nothing else is saved before


class Supervisor:
    """Handles everything that happens to a job, always in one order: decide, save, answer, act.

    Facts that arrive while a transaction is being written share the next transaction.

    Attributes:
        config: the configuration in force.
        controls: slots and queues as people have set them.
        pending: changes for the next transaction; whoever adds one also calls `decide` or `when_saved`.
        newest_id: the highest job id ever saved, also of jobs that are gone.
        is_draining: whether the daemon is about to exit and starts nothing more.
    """

    def __init__(self, config: Config, store: Store, link: LauncherLink) -> None:
        self.config = config
        self.controls = QueueControls()
        self.pending = PendingChanges()
        self.newest_id = 0
        self.is_draining = False
        self._changed = asyncio.Event()  # there is something to save, answer or act on
        self._is_idle = asyncio.Event()
        self._store = store
        self._link = link
        self._scheduler = self._new_scheduler(last_id=0)
        self._attempts = AttemptTable()
        self.space = DiskSpace(config.daemon.state_dir, config.daemon.min_free, lambda: store.free_bytes)
        self.subscriptions = Subscriptions()
        self.progress = ProgressBuffer(self.get, self._changed.set)
        self.lost_output = LostOutput()
        self.log_cleaner = LogCleaner(store, config.log_dir, self._logs_deleted)
        self.dispatcher = Dispatcher(link, self._attempts, self.subscriptions, store.store_id, self.get)
        loop = asyncio.get_running_loop()
        self._timer = clock.Alarm(loop, self._advance)
        self._wall_timer = clock.Alarm(loop, self._advance, on_wall_clock=True)
        self._on_finished: Callable[[], None] = lambda: None
        self._on_configured: list[Callable[[], None]] = []

    # --- start, run, stop -----------------------------------------------------------------------------

    async def restore(self) -> None:
        """Load the saved state. No job starts before a launcher has reported which attempts still run."""
        ignored = await self._store.adopt_boot(now(), clock.boot_id())
        if ignored:
            logger.warning(
                "the machine was off, or its clock is wrong: by the clock finished jobs are %s older than bgd"
                " counts for `[retention]`, so they stay that much longer",
                format_duration(ignored // 1),
            )
        self.controls = await self._store.controls()
        self.newest_id = await self._store.last_id()
        self._scheduler = self._new_scheduler(self.newest_id)
        async for page in self._store.unfinished():
            for restored in page:
                try:
                    self._scheduler.restore(restored.job, restored.slot)
                except ValueError as error:  # each row is sound, but they contradict each other
                    raise self._store.damaged(error) from error
                if restored.slot is not None and restored.launcher is not None:
                    self._attempts.restore(restored.job.id, restored.slot, restored.launcher)
        self._changed.set()

    async def run(self) -> None:
        """Save, answer and act forever."""
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
        """Start nothing more, and return when no attempt runs; with LEAVE do not wait for attempts."""
        self._scheduler.pause(PauseReason.DRAINING)
        self.is_draining = True
        at = now()
        for job in self._scheduler.active_jobs():
            if mode is ShutdownMode.REQUEUE:
                self._scheduler.requeue(job.id, at)
            elif mode is ShutdownMode.CANCEL:
                self._scheduler.cancel(job.id, at)
        self.progress.flush()
        await self.saved_unless_stuck()
        if mode is not ShutdownMode.LEAVE:
            await self._is_idle.wait()
            await self.saved()  # the last end may have come during an earlier transaction

    def configure(self, config: Config) -> None:
        """Apply a new configuration. Running attempts keep the old one; idle warm workers are replaced."""
        self.config = config
        if self._link.supports(renew := RenewWorkers()):
            self._link.send(renew)
        self.space.configure(config.daemon.min_free)
        self._apply_controls()
        for callback in self._on_configured:
            callback()

    @property
    def running(self) -> int:
        """The number of jobs with an attempt that is starting or running."""
        return self._scheduler.running

    @property
    def obstacle(self) -> str | None:
        """The reason why no job can start now; None if there is no known reason."""
        return self._link.obstacle

    @property
    def waits(self) -> int:
        """The number of dependencies of all unfinished jobs together."""
        return self._scheduler.waits

    @property
    def slots(self) -> int:
        """The number of slots in force."""
        return total_slots(self.config, self.controls)

    @property
    def taken(self) -> int:
        """The number of slots that attempts occupy."""
        return self._scheduler.taken

    # --- decisions and answers ------------------------------------------------------------------------

    def decide(self, fact: Callable[[Scheduler, Now], R], at: Now | None = None) -> R:
        """Give a fact to the Scheduler and return its answer; the effects are saved and carried out soon.

        `at`: the instant of the fact, None for now.
        """
        answer = fact(self._scheduler, at or now())
        self._changed.set()
        return answer

    def get(self, job_id: JobId) -> Job | None:
        """Return an unfinished job, or None if no unfinished job has this id."""
        return self._scheduler.get(job_id)

    def is_unfinished(self, job_id: JobId) -> bool:
        return self._scheduler.get(job_id) is not None

    def holder_of(self, key: str) -> JobId | None:
        """Return the id of the unfinished job with this key, or None."""
        return self._scheduler.holder_of(key)

    def remove(self, job: Job) -> None:
        """Delete a finished job, and its logs once its rows are off the disk."""
        self.pending.removed.append(job)
        self._changed.set()

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must be cheap, whenever jobs have finished."""
        self._on_finished = callback

    def when_configured(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must be cheap, whenever the configuration has changed."""
        self._on_configured.append(callback)

    def set_controls(self, controls: QueueControls) -> None:
        """Change slots and queues; `saved` tells when the change is on disk."""
        self.controls = self.pending.controls = controls
        self._apply_controls()

    def when_saved(self, callback: Callable[[], object]) -> None:
        """Call `callback`, which must be cheap, once everything decided so far is on disk."""
        self.pending.answers.append(callback)
        self._changed.set()

    async def saved(self) -> None:
        """Return when everything decided so far is on disk."""
        done = asyncio.Event()
        self.when_saved(done.set)
        await done.wait()

    async def saved_unless_stuck(self) -> None:
        """Return when everything decided so far is on disk, or at once while the disk is full."""
        done = asyncio.Event()
        self.when_saved(done.set)
        with self.space.set_when_stuck(done):
            await done.wait()

    @contextmanager
    def subscribe_to_log(self, job_id: JobId) -> Iterator[Subscription]:
        """Yield a Subscription to a job's state and to the growth of its log."""
        try:
            with self.subscriptions.subscribe_to_log(job_id) as subscription:
                self.dispatcher.watch_log(job_id)
                yield subscription
        finally:
            self.dispatcher.watch_log(job_id, on=False)

    # --- facts from the launcher --------------------------------------------------------------------------

    def launcher_ready(self, snapshot: LauncherSnapshot) -> None:
        """Reconcile the saved attempts with what the launcher knows, then let jobs start."""
        active = self._scheduler.active_jobs()
        for found in self._attempts.reconcile(active, snapshot, self._store.store_id, clock.boot_id()):
            job = found.job
            if found.outcome is not None:
                self._end_attempt(unreported_end(job, found.outcome, now().wall, found.why))
            elif found.adopt:
                started = snapshot.started[self.dispatcher.key_of(job)]
                self.attempt_started(started)
                self.dispatcher.watch_log(job.id)
                self.dispatcher.resend_commands(job, started, self.config.daemon.grace)
        for end in snapshot.ended:
            self.attempt_ended(end)
        for key in snapshot.started:
            self.dispatcher.stop_stray(key, self.config.daemon.grace)
        self._scheduler.resume(PauseReason.NO_LAUNCHER, now())
        self._changed.set()

    def launcher_lost(self) -> None:
        """Start nothing until the next launcher is ready."""
        self._scheduler.pause(PauseReason.NO_LAUNCHER)

    def attempt_started(self, started: AttemptStarted) -> None:
        """Record the pid of an attempt's process."""
        job = self.dispatcher.active_job(started.key)
        if job is not None and started.pid is not None:
            # only people read it, so it causes no transaction of its own for a moment
            if not self.pending.pids:
                asyncio.get_running_loop().call_later(PID_DELAY, self._changed.set)
            self.pending.pids[job.id] = AttemptPid(
                job.id, job.attempt, started.pid, started.started_at, started.since
            )

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Record the end of an attempt; acknowledge it after the next commit, even if it was known (R4)."""
        if ended.key.store == self._store.store_id:
            self.lost_output.ended(ended)
            self._end_attempt(reported_end(ended))
        self.pending.acknowledge.append(ended.key)
        self._changed.set()

    def log_grew(self, grew: LogGrew) -> None:
        """Tell the followers of a log that it has grown."""
        if grew.key.store == self._store.store_id:
            self.lost_output.grew(grew)
        self.subscriptions.notify_log_grew(JobId(grew.key.job))

    # --- the transaction ------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Decide, save, answer, act: write everything pending in one transaction, then carry it out."""
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
        """Give an end to the Scheduler, and save it if it is the one that was waited for."""
        job = self.get(end.job)
        if job is not None:
            end = apply_exception_rules(end, job.policy)
        code = exit_code_of(end.outcome, end.exit_code, end.signal)
        if self._scheduler.ended(end.job, end.attempt, end.outcome, now(), code, end.decision):
            self._attempts.end(end.job)
            cap = self.config.logs.max_bytes  # the launcher also counts output beyond the cap
            end = replace(end, log_kept=min(end.log_kept, cap))
            started = self.pending.pids.pop(end.job, None)
            if started is not None:  # a short job: its pid is not saved yet, so save both in one row
                end = replace(end, pid=started.pid, started_at=end.started_at or started.started_at)
            self.pending.ends.append(end)
            self._changed.set()

    def _logs_deleted(self, jobs: Iterable[JobId]) -> None:
        """Forget removed jobs whose logs are deleted, with the next transaction that is written anyway."""
        self.pending.cleared += jobs

    def _new_scheduler(self, last_id: int) -> Scheduler:
        slots, rules = total_slots(self.config, self.controls), queue_rules(self.config, self.controls)
        scheduler = Scheduler(slots, rules, last_id, random.random)
        scheduler.pause(PauseReason.NO_LAUNCHER)
        if self.controls.paused:
            scheduler.pause(PauseReason.ASKED)
        return scheduler

    def _apply_controls(self) -> None:
        """Tell the Scheduler the slots, queue rules and pause that are now in force."""
        slots, rules = total_slots(self.config, self.controls), queue_rules(self.config, self.controls)
        self._scheduler.resize(slots, rules, now())
        if self.controls.paused:
            self._scheduler.pause(PauseReason.ASKED)
        else:
            self._scheduler.resume(PauseReason.ASKED, now())
        self._changed.set()

    def _advance(self) -> None:
        self._scheduler.advance(now())
        self._changed.set()


# --- The transaction: what it writes, and what is sent to the launcher once it is written.


class PendingChanges(Struct):
    """What has accumulated since the last transaction.

    `specs` are those of new jobs; other fields have the names they have in WriteBatch. After the commit the
    ends in `acknowledge` are acknowledged to the launcher, and `answers` are called.
    """

    specs: dict[JobId, StoredSpec] = {}
    edited: dict[JobId, JobSpec] = {}
    removed: list[Job] = []
    cleared: list[JobId] = []
    controls: QueueControls | None = None
    progress: dict[JobId, JobProgress] = {}
    submissions: list[Submission] = []
    pids: dict[JobId, AttemptPid] = {}
    ends: list[AttemptEnd] = []
    acknowledge: list[AttemptKey] = []
    answers: list[Callable[[], object]] = []


class TransactionPlan:
    """Builds one batch for the store from the pending changes and the Scheduler's effects.

    Args:
        pending: the pending changes.
        at: the instant of the transaction.
        launcher: the launcher instance that new attempts are saved for and will be sent to.
        job_of: returns the unfinished job with an id, or None.

    Attributes:
        batch: what to write.
        launches: jobs whose attempts to launch after the commit.
        commands: what to do to running attempts after the commit.
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
        self.commands: list[StopAttempt | SuspendAttempt | ContinueAttempt] = []
        self._specs = pending.specs
        self._removed = pending.removed
        self._launcher = launcher
        self._job_of = job_of

    def add_effects(self, effects: Iterable[Effect], attempts: AttemptTable) -> None:
        """Add the effects to the batch, and the ids of jobs whose specs are needed to launch them."""
        outcomes = {(end.job, end.attempt): end.outcome for end in self.batch.ends}
        for effect in effects:
            self._add_effect(effect, attempts)
            if isinstance(effect, SaveJob):
                self.batch.events.append(_event(effect, outcomes))
        for job in self._removed:
            at = self.batch.now.wall
            self.batch.events.append(JobEvent(at, job.id, _REMOVE, job.state, job.attempt, None, None))
        self._reassign(attempts)
        self.batch.wanted.extend(job.id for job in self.launches if job.id not in self._specs)

    def _add_effect(self, effect: Effect, attempts: AttemptTable) -> None:
        match effect:
            case SaveJob(job, at, spec=JobSpec()):
                stored = self._specs[job.id]
                self.batch.new.append(NewJob(job, stored.spec, stored.uid, at))
            case SaveJob(job, at, _, reason):
                self.batch.saves[job.id] = SavedJob(job, at, reason)
            case StartAttempt(job, slot):
                self.batch.attempts.append(attempts.start(job, slot, self._launcher, self.batch.now.wall))
                current = self._job_of(job.id)
                if current is not None:
                    self.launches.append(current)
            case StopAttempt() | SuspendAttempt() | ContinueAttempt():
                self.commands.append(effect)

    def _reassign(self, attempts: AttemptTable) -> None:
        """Save attempts for this launcher that were saved for another one and never sent to it."""
        waiting = [self._job_of(job_id) for job_id in attempts.to_reassign]
        for job, row in attempts.reassign(waiting, self._launcher, self.batch.now.wall):
            self.batch.relaunched.append(row)
            self.launches.append(job)


def _event(save: SaveJob, outcomes: dict[tuple[JobId, int], Outcome]) -> JobEvent:
    """Return the event of a move, with the outcome that led to it; remove that outcome from `outcomes`."""
    job = save.job
    outcome = outcomes.pop((job.id, job.attempt), None) if save.what in _ENDS else None
    return JobEvent(save.at, job.id, save.what, job.state, job.attempt, outcome, save.reason)


# Moves that follow the end of an attempt
_ENDS = frozenset({Move.SUCCEED, Move.RETRY, Move.GIVE_UP, Move.REQUEUE, Move.SNOOZE, Move.CANCEL})
_REMOVE = "remove"
