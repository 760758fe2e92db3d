"""The Supervisor: gives facts to the Scheduler, saves its decisions, and only then answers and acts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from math import inf
from typing import TypeVar

from msgspec import convert
from msgspec.structs import replace

from bgd.core.batches import Batch, Batches, BatchEvent, BatchId
from bgd.core.explain import Cause, Reason, paused_after
from bgd.core.followups import notify_event
from bgd.core.job import FINAL, WAITING, Job, JobId, Now, Outcome, State
from bgd.core.notifications import Fact, NotifyRule, fact_of_calls
from bgd.core.retry import exit_code_of, recorded_outcome
from bgd.core.scheduler import SUBMIT, CommandAttempt, SaveJob, Scheduler, StartAttempt
from bgd.daemon.dispatch import (
    ANSWER_PATIENCE,
    AttemptTable,
    Dispatcher,
    apply_exception_rules,
    lost_end,
    reported_end,
    stopped_end,
)
from bgd.daemon.launching import LauncherLink, LauncherSnapshot
from bgd.daemon.logs import LogCleaner, LostOutput
from bgd.daemon.machine import MachineWatch
from bgd.daemon.measurements import MAX_QUEUES, Measurements
from bgd.daemon.permits import Permits
from bgd.daemon.queue_controls import breaker_rules, queue_rules, queue_views, total_slots
from bgd.daemon.space import DiskSpace
from bgd.daemon.steps import StepKeepers
from bgd.daemon.storage import batches as stored_batches
from bgd.daemon.storage import lists, read, recovery, unreadable
from bgd.daemon.storage.records import (
    REMOVE,
    AttemptEnd,
    JobEvent,
    NewAttempt,
    Permit,
    QueueControls,
    Transaction,
)
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.daemon.streams import ProgressBuffer, Subscription, Subscriptions
from bgd.errors import Refused
from bgd.settings.config import Config
from bgd.system import clock
from bgd.system.clock import now
from bgd.text.units import format_duration
from bgd.wire.launching import Acknowledge, AttemptEnded, AttemptKey, AttemptStarted, LogGrew, RenewWorkers
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import QueueView, ResourceView

logger = logging.getLogger(__name__)
R = TypeVar("R")

HELD_AT_ONCE = 5_000  # jobs of a restored database in one transaction: a million may wait
CLOCK_TOLERANCE = 0.01  # seconds: the two clocks are not read at the same moment
PID_DELAY = 0.05  # seconds until the pid of a new process is saved, if nothing else is saved before


class Supervisor:
    """Handles everything that happens to a job, always in one order: decide, save, act, answer.

    Facts that arrive while a transaction is being written share the next transaction.

    Attributes:
        config: the configuration in force.
        controls: slots and queues set by users.
        scheduler: the one that decides; others only ask it, and change it by `decide`.
        get: returns an unfinished job, or None if no unfinished job has this id.
        link: the connection to the launcher.
        transaction: the next one; code that adds to it also calls `decide` or `when_saved`.
        newest_id: the highest job id ever saved, also of jobs that are gone.
        is_draining: whether the daemon is about to exit and starts nothing more.
        notify_rules: what each [notify] target gets messages about.
        follow: submits the follow-ups of jobs that have ended, in the transaction that stores these ends.
        follow_batches: submits the follow-ups of batches, in the transaction that stores these events.
        on_finished, on_configured, on_facts_saved: called whenever jobs have finished, the configuration has
            changed, or facts for notifications were saved; they must be cheap.
    """

    def __init__(self, config: Config, store: Store, link: LauncherLink) -> None:
        self.config = config
        self.follow: Callable[[list[SaveJob]], Awaitable[None]]
        self.follow_batches: Callable[[list[tuple[Batch, BatchEvent]]], Awaitable[None]]
        self.controls = QueueControls()
        self.transaction = Transaction(now=now())
        self.newest_id = 0
        self._wall_ahead = 0.0  # seconds that the wall clock is ahead of the elapsed clock, as saved
        self.is_draining = False
        self._changed = asyncio.Event()  # there is work: something to save, act on or answer
        self._is_idle = asyncio.Event()
        self._store = store
        self.link = link
        self.scheduler = Scheduler(0, {}, 0, random.random)  # `restore` tells it the rest
        self.get = self.scheduler.get
        self._machine = MachineWatch(
            config,
            pause=self.scheduler.pause,
            resume=lambda why: self.scheduler.resume(why, now()),
            has_queued=self._has_queued,
            ring=self._look_again,
        )
        self._attempts = AttemptTable()
        self.permits = Permits()
        self.space = DiskSpace(config.daemon.state_dir, config.daemon.min_free, lambda: store.free_bytes)
        self.subscriptions = Subscriptions()
        self.space.when_changed = self.subscriptions.look_soon
        self.measurements = Measurements(config.queues)
        self.progress = ProgressBuffer(self.get, self._changed.set)
        self.steps = StepKeepers(self.get)
        self.lost_output = LostOutput()
        self.log_cleaner = LogCleaner(store, config.log_dir, self._forget_logs)
        self.dispatcher = Dispatcher(link, self._attempts, self.subscriptions, store.store_id, self.get)
        self._loop = asyncio.get_running_loop()
        self._timer = clock.Alarm(self._loop, self.advance)
        self._wall_timer = clock.Alarm(self._loop, self.advance, on_wall_clock=True)
        self._pid_timer: asyncio.TimerHandle | None = None
        self.on_finished: list[Callable[[], None]] = []
        self.on_configured: list[Callable[[], None]] = []
        self.on_facts_saved: list[Callable[[], None]] = []
        self.notify_rules = _notify_rules(config)

    # --- start, run, stop -----------------------------------------------------------------------------

    async def restore(self) -> None:
        """Load the saved state. No job starts before a launcher has reported which attempts still run."""
        at = now()
        self._wall_ahead = at.wall - at.elapsed
        ignored = await self._store.write(adopt_boot, at, clock.boot_id())
        if ignored:
            logger.warning(
                "the machine was off, or its clock is wrong: by the clock finished jobs are %s older than bgd"
                " counts for `[retention]`, so they stay that much longer",
                format_duration(ignored // 1),
            )
        await self._restore_settings()
        rates = {name: queue.rate for name, queue in self.config.queues.items() if queue.rate is not None}
        have_run: list[JobId] = []  # of queues with a rate
        async for page in self._store.unfinished():
            for restored in page:
                self.scheduler.restore(restored.job, restored.slot, restored.tokens, restored.count)
                if restored.job.attempt and restored.job.queue in rates:
                    have_run += map(JobId, range(restored.job.id, restored.job.id + restored.count))
                if restored.slot is not None and restored.launcher is not None:
                    self._attempts.restore(restored.job.id, restored.slot, restored.launcher, restored.tokens)
        self.scheduler.table.restore_keys(await self._store.search(read.kept_keys, at.elapsed))
        if rates:
            starts = await self._store.search(read.recent_starts, rates, have_run, at.elapsed)
            self.scheduler.table.queues.starts.restore(starts)
        states = await self._store.read(read.breakers, at.elapsed - at.wall)
        self.scheduler.breakers.restore(states, {job.id for job in self.scheduler.active_jobs()}, at)
        for name in await self._store.read(lists.distinct, "queue", "", MAX_QUEUES):
            self.measurements.name_of(name)  # its series begin at 0 now, not with the next failure
        permits, is_outdated, jobs = await self._store.read(recovery.uncertain_jobs)
        self.permits.restore(permits)
        self.scheduler.is_frozen = bool(permits)
        if is_outdated:
            await self._hold(dict.fromkeys(self.scheduler.waiting_jobs(), recovery.MAY_HAVE_RUN))
            await self.space.retry_while_full(partial(self._store.write, recovery.remove_mark))
        if jobs:
            await self._hold(jobs)
            await self.space.retry_while_full(partial(self._store.write, unreadable.note_held))
        self._store.when_set_aside = self._hold_now
        self._changed.set()

    async def _restore_settings(self) -> None:
        """Load what people have set, the last ids, and the batches."""
        self.scheduler.pause(Cause.LAUNCHER)
        self._machine.configure(self.config)  # if it is on, nothing starts before the load has been read
        self.controls = await self._store.read(read.controls)
        self._apply_controls()
        self.newest_id = self.scheduler.last_id = await self._store.read(read.last_id)
        batches = self.scheduler.batches
        batches.last_id = BatchId(await self._store.read(stored_batches.last_id))
        for batch, runs in await self._store.read(stored_batches.open_batches):
            batches.restore(batch, runs)
        batches.take_changed(0.0)

    async def run(self) -> None:
        """Save, act and answer forever."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._settle()
                next_at = self.scheduler.next_timer_at()
                self._timer.set(min(self.permits.unused_at, inf if next_at is None else next_at))
                at = None if self.scheduler.is_frozen else self.scheduler.table.waiting.next_wall_at()
                self._wall_timer.set(inf if at is None else at)  # it also rings when the clock is set
                if self.scheduler.table.queues.active:
                    self._is_idle.clear()
                else:
                    self._is_idle.set()
                if self._changed.is_set():  # let the next requests of answered clients share it
                    await asyncio.sleep(0)
        finally:
            self._timer.close()
            self._wall_timer.close()
            self._machine.close()
            self.progress.close()

    async def drain(self, mode: ShutdownMode) -> None:
        """Start nothing more, and wait until no attempt runs; with LEAVE do not wait for attempts."""
        self.scheduler.pause(Cause.SHUTDOWN)
        self.is_draining = True
        at = now()
        for job in self.scheduler.active_jobs():
            if mode is ShutdownMode.REQUEUE:
                self.scheduler.requeue(job.id, at)
            elif mode is ShutdownMode.CANCEL:
                self.scheduler.cancel(job.id, at)
        self.progress.flush()
        await self.saved_unless_stuck()
        if mode is not ShutdownMode.LEAVE:
            await self._is_idle.wait()
            await self.saved()  # the last end may have come during an earlier transaction

    def configure(self, config: Config) -> None:
        """Apply a new configuration. Running attempts keep the old one; idle warm workers are replaced."""
        self.config, self.notify_rules = config, _notify_rules(config)
        self.link.send(RenewWorkers())
        self.space.configure(config.daemon.min_free)
        self._machine.configure(config)
        self._apply_controls()
        _call(self.on_configured)

    @property
    def batches(self) -> Batches:
        """The batches that have not ended; `saved` tells when a change of them is on disk."""
        return self.scheduler.batches

    @property
    def slots(self) -> int:
        """The number of slots in force."""
        return total_slots(self.config, self.controls)

    def queue_views(self, also: Iterable[str] = ()) -> list[QueueView]:
        """Return the views of queues, and `also` of these."""
        counts, openings = self.scheduler.counts, self.scheduler.openings(now())
        return queue_views(self.config, self.controls, counts, openings, also)

    def resource_views(self) -> list[ResourceView]:
        """Return the views of the named resources, by name."""
        return [
            ResourceView(name=name, tokens=tokens, taken=taken, waiting=waiting)
            for name, tokens, taken, waiting in self.scheduler.resources()
        ]

    # --- decisions and answers ------------------------------------------------------------------------

    def decide(self, fact: Callable[[Scheduler, Now], R], at: Now | None = None, by: str | None = None) -> R:
        """Give a fact to the Scheduler and return its answer; the effects are saved and carried out soon.

        `at`: the instant of the fact, None for now. `by`: the user who asked for it.
        """
        before = 0 if by is None else self.scheduler.effect_count
        answer = fact(self.scheduler, at or now())
        if by is not None:
            self._note_actor(before, by)
        self._changed.set()
        return answer

    @contextmanager
    def deciding(self, at: Now, by: str | None) -> Iterator[Scheduler]:
        """Decide about many jobs before any consequences; `by` as in `decide`."""
        before = self.scheduler.effect_count
        self.scheduler.wait_to_settle()
        try:
            yield self.scheduler
        finally:
            self.scheduler.advance(at)
            if by is not None:
                self._note_actor(before, by)
            self._changed.set()

    def advance(self, at: Now | None = None) -> None:
        """Let time pass until an instant, None for now, and start what can."""
        self.scheduler.advance(at or now())
        self._changed.set()

    def _note_actor(self, before: int, by: str) -> None:
        """Record the user who asked for the effects after the first `before`."""
        places = range(before, self.scheduler.effect_count)
        self.transaction.actors.update(dict.fromkeys(places, by))

    def is_unfinished(self, job_id: JobId) -> bool:
        return self.scheduler.get(job_id) is not None

    def explain(
        self, job_id: JobId, awaited: Mapping[JobId, AbstractSet[JobId]] | None = None
    ) -> tuple[Reason, ...]:
        """Return everything that keeps a job from running; nothing if it runs or has finished.

        An attempt that is handed to a cluster runs for the Scheduler, and may wait there for a node. A job
        that waits for others may be in a deadlock with them; `awaited`: as for `Scheduler.deadlock`.
        """
        reasons = self.scheduler.explain(job_id, now())
        if awaited and (deadlock := self.scheduler.deadlock(job_id, awaited, now())) is not None:
            reasons = (deadlock, *reasons)
        job = self.get(job_id)
        if job is not None and job.state is State.RUNNING:
            wait = self.dispatcher.wait_of(job)
            return reasons if wait is None else (*reasons, wait)
        return reasons and self._completed(reasons)

    def explain_queued(self, job_ids: Iterable[JobId]) -> dict[JobId, tuple[Reason, ...]]:
        """Return what those of these jobs that are queued wait for, besides their turn; for little each."""
        reasons = self.scheduler.explain_queued(job_ids, now())
        return {job_id: self._completed(each) for job_id, each in reasons.items()}

    def _completed(self, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Return the reasons why a job waits with what the machine and the launcher lack."""
        if self._machine.is_on:
            reasons = self._machine.in_words(reasons)
        if self.link.obstacle is None:
            return reasons
        launcher = Reason(cause=Cause.LAUNCHER, problem=self.link.obstacle)
        is_said = {Cause.LAUNCHER, Cause.TURN} if reasons and reasons[-1].ahead == 0 else {Cause.LAUNCHER}
        return (launcher, *(each for each in reasons if each.cause not in is_said))

    def remove(self, job: Job, by: str | None = None) -> None:
        """Delete a finished job, as requested, and its logs once its rows are off the disk."""
        self.transaction.removed.append(job)
        if job.conditions.key_for is not None:
            self.scheduler.table.free_key(job)
        if by is not None:
            self.transaction.removers[job.id] = by
        self._changed.set()

    async def set_controls(self, controls: QueueControls) -> None:
        """Change slots and queues; when this returns it is on disk, and what started before has begun."""
        self.controls = self.transaction.controls = controls
        self._apply_controls()
        await self.saved()
        await self.dispatcher.wait_until_begun()

    def when_saved(self, callback: Callable[[], object]) -> None:
        """Call `callback`, which must be cheap, once everything decided so far is on disk."""
        self.transaction.answers.append(callback)
        self._changed.set()

    async def saved(self) -> None:
        """Wait until everything decided so far is on disk."""
        done = asyncio.Event()
        self.when_saved(done.set)
        await done.wait()

    async def wait_until_certain(self) -> None:
        """Wait until a launcher has said which attempts have begun.

        Raises:
            Refused: none has answered.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self.permits.are_resolved.wait(), ANSWER_PATIENCE)
        self.check_certain()

    def check_certain(self) -> None:
        """Check that it is known which attempts have begun; raise Refused if not."""
        if self.permits.unresolved:
            why = self.link.obstacle or "the launcher does not answer"
            raise Refused(f"bgd does not know yet which jobs have begun: {why}")

    async def saved_unless_stuck(self) -> None:
        """Wait until everything decided so far is on disk, but not while the disk is full."""
        done = asyncio.Event()
        self.when_saved(done.set)
        with self.space.set_when_stuck(done):
            await done.wait()

    @contextmanager
    def subscribe_to_log(self, job_id: JobId, pid: int | None = None) -> Iterator[Subscription]:
        """Yield a Subscription to a job's state and to the growth of its log; `pid`: as for `subscribe`."""
        try:
            with self.subscriptions.subscribe([job_id], log=True, pid=pid) as subscription:
                self.dispatcher.watch_log(job_id)
                yield subscription
        finally:
            self.dispatcher.watch_log(job_id, on=False)

    # --- facts from the launcher --------------------------------------------------------------------------

    def launcher_ready(self, snapshot: LauncherSnapshot) -> None:
        """Reconcile the saved attempts with the launcher's snapshot, then let jobs start."""
        adopted, over = self._attempts.reconcile(
            self.scheduler.active_jobs(), snapshot, self._store.store_id, clock.boot_id(), now().wall
        )
        for end in over:
            self._end_attempt(end)
        for job in adopted:
            started = snapshot.started[self.dispatcher.key_of(job)]
            self.attempt_started(started)
            self.dispatcher.watch_log(job.id)
            self.dispatcher.resend_commands(job, started, self.config.daemon.grace)
        permits = {
            AttemptKey(self._store.store_id, permit.job, permit.attempt): permit
            for permit in self.permits.unresolved
        }
        for ended in snapshot.ended:
            if ended.key not in permits:
                self.attempt_ended(ended)
        self._resolve(permits, snapshot)
        for key in snapshot.started:
            self.dispatcher.stop_stray(key, self.config.daemon.grace)
        self._requeue_paused()
        self.scheduler.resume(Cause.LAUNCHER, now())
        self._changed.set()

    def _resolve(self, permits: dict[AttemptKey, Permit], snapshot: LauncherSnapshot) -> None:
        """Record what became of the attempts that an earlier daemon may have launched by permit (R3)."""
        at = now()
        reports: list[AttemptStarted | AttemptEnded] = [*snapshot.ended, *snapshot.started.values()]
        for report in reports:  # first those that have ended: they free their slots
            if (permit := permits.pop(report.key, None)) is None:
                continue
            if (job := self._next_attempt(permit)) is not None:
                start = self.scheduler.adopt(job.id, report.slot, at)
                row = self._attempts.start(start, snapshot.instance, report.started_at or at.wall)
                self._attempts.active[job.id].is_unsent = False
                self.transaction.attempts.append(row)
                self.transaction.wanted.append(job.id)  # charts count its start by its name
            if isinstance(report, AttemptEnded):
                self.attempt_ended(report)
            else:
                self.attempt_started(report)
                self.dispatcher.watch_log(JobId(report.key.job))
        for permit in permits.values():
            if not snapshot.knows(permit.launcher) and (job := self._next_attempt(permit)) is not None:
                attempt = replace(job, attempt=permit.attempt)
                end = lost_end(attempt, permit.launcher, clock.boot_id(), at.wall, has_begun=False)
                self.transaction.lost.append(NewAttempt(job.id, permit.attempt, 0, permit.launcher, at.wall))
                self.transaction.ends.append(end)
                self.scheduler.may_have_begun(job.id, end.outcome, at)
        self.permits.resolve()
        self.scheduler.is_frozen = False

    def _next_attempt(self, permit: Permit) -> Job | None:
        """Return the job of a permit if it is queued for the attempt that the permit names."""
        job = self.get(permit.job)
        is_next = job is not None and job.state is State.QUEUED and job.attempt + 1 == permit.attempt
        return job if is_next else None

    def _requeue_paused(self) -> None:
        """Queue the jobs of paused queues again whose attempts no launcher has begun."""
        at = now()
        for job in filter(None, map(self.get, sorted(self._attempts.to_reassign))):
            if self.scheduler.is_paused(job.queue) and not job.suspended:
                self.scheduler.requeue(job.id, at)
                self._end_attempt(stopped_end(self.scheduler.table.jobs[job.id], at.wall))

    def launcher_lost(self) -> None:
        """Start nothing until the next launcher is ready."""
        self._attempts.forget_waits()
        self.scheduler.pause(Cause.LAUNCHER)
        self.subscriptions.look_soon()

    def attempt_started(self, started: AttemptStarted) -> None:
        """Record the pid of an attempt's process, or why it has none yet."""
        job = self.dispatcher.active_job(started.key)
        if job is None:
            return
        if self._attempts.note_report(job.id, started.waits):
            self.subscriptions.look_soon()
        if started.pid is not None:
            self.subscriptions.notify_log_grew(job.id)  # followers may wait for its terminal
        if started.pid is not None or started.place is not None:
            # only users read it, so it waits a moment for another transaction
            if self._pid_timer is None:
                self._pid_timer = self._loop.call_later(PID_DELAY, self._save_pids)
            self.transaction.pids[job.id] = started

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Record the end of an attempt; acknowledge it after the next commit, even if it was known (R4)."""
        if ended.key.store == self._store.store_id:
            self.lost_output.ended(ended)
            self._end_attempt(reported_end(ended))
            if self.scheduler.starts and self.permits.durable:
                self._launch_permitted()
        self.transaction.acknowledge.append(ended.key)
        self._changed.set()

    def log_grew(self, grew: LogGrew) -> None:
        """Notify the followers of a log that it has grown."""
        if grew.key.store == self._store.store_id:
            self.lost_output.grew(grew)
        self.subscriptions.notify_log_grew(JobId(grew.key.job))

    def _launch_permitted(self) -> None:
        """Launch attempts whose start was just decided, if they have a permit; the start is saved later."""
        launcher = self.link.instance if self.link.is_connected else ""
        for start in self.scheduler.starts[:]:
            spec = self.permits.usable_spec(start.job, launcher)
            if spec is None or start.job.id in self.transaction.edited:
                continue
            self.scheduler.starts.remove(start)
            self.transaction.attempts.append(self._attempts.start(start, launcher, now().wall))
            self.transaction.permitted[start.job.id] = spec
            end = self.dispatcher.launch(start.job, spec, {}, self.config, self._store.position)
            if end is not None:
                self._end_attempt(end)

    # --- the transaction ------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Decide, save, act, answer: write everything decided in one transaction, then carry it out."""
        if self._machine.is_on or self.scheduler.causes or self.scheduler.batches.open:
            await self._look_first()
        transaction = self._close_transaction()
        if not transaction.is_empty:
            transaction.specs |= await self.space.retry_while_full(partial(self._store.commit, transaction))
            if self.permits.value or self.permits.durable:
                self.permits.note_commit(transaction)
            self.measurements.saved(transaction, self._store.commit_seconds, self._store.committed_at)
        if transaction.new:
            self.newest_id = transaction.new[-1].id
        self._tell_launcher(transaction)
        for answer in transaction.answers:
            answer()
        self.subscriptions.notify_progress(transaction.progress, [end.job for end in transaction.ends])
        self.subscriptions.notify_moved(transaction.saves)
        if any(save.job.state in FINAL for save in transaction.saves.values()):
            _call(self.on_finished)
        self.subscriptions.notify_sessions(transaction.sessions)
        if transaction.has_notify_facts:
            _call(self.on_facts_saved)
        if transaction.removed:
            removed = [job.id for job in transaction.removed]
            self.subscriptions.notify_moved(removed)
            self.log_cleaner.add(removed)
        if self.subscriptions.watches:
            self.subscriptions.look_soon()

    async def _look_first(self) -> None:
        """Look at the machine, and submit follow-ups, also for jobs that end meanwhile."""
        if self._machine.is_on:
            self._machine.look()
        while True:
            if causes := self.scheduler.take_causes():
                await self.follow(causes)
            elif due := self.batches.take_due():
                await self.follow_batches(due)
            else:
                return

    def _tell_launcher(self, transaction: Transaction) -> None:
        """Launch, stop and acknowledge attempts as saved."""
        position = self._store.position
        for job in transaction.launches:
            stored = transaction.specs[job.id]
            end = self.dispatcher.launch(job, stored, transaction.results, self.config, position)
            if end is not None:
                self._end_attempt(end)
        if self.scheduler.starts and self.permits.durable:
            self._launch_permitted()
        if transaction.launches:
            self.link.flush()  # before the answers: the clients may need the processor
        for job in transaction.commands:
            self.dispatcher.send_command(job, self.config.daemon.grace)
        for key in transaction.acknowledge:
            self.link.send(Acknowledge(key, position))

    def _close_transaction(self) -> Transaction:
        """Add the Scheduler's decisions to the transaction; later facts share the next one."""
        at = now()
        transaction, self.transaction = self.transaction, Transaction(now=at)
        transaction.now = at
        if abs(at.wall - at.elapsed - self._wall_ahead) > CLOCK_TOLERANCE:  # the wall clock was set
            self._wall_ahead = transaction.wall_ahead = at.wall - at.elapsed
        transaction.progress = self.progress.take([end.job for end in transaction.ends])
        if self.notify_rules:
            transaction.rules, transaction.default_target = self.notify_rules, self.config.daemon.notify
        if self._attempts.to_reassign:  # saved for another launcher and never sent
            for job, row in self._attempts.reassign(self.get, self.link.instance, at.wall):
                transaction.relaunched.append(row)
                transaction.launches.append(job)
        self._add_effects(transaction)
        if self.scheduler.breakers.changed:
            self._add_breakers(transaction)
        if self.scheduler.batches.open:
            transaction.counted, transaction.joined = self.scheduler.batches.take_changed(at.wall)
        for job in transaction.removed:
            by = transaction.removers.get(job.id)
            event = JobEvent(at.wall, job.id, REMOVE, job.state, job.attempt, None, None, by)
            transaction.events.append(event)
        transaction.wanted += [
            job.id
            for job in transaction.launches
            if job.id not in transaction.specs or transaction.specs[job.id].spec.references
        ]
        self.scheduler.starts = []  # the others are launched after the commit
        if self.permits.unused_at < inf or self.permits.value:
            self.permits.close(transaction, self.scheduler.next_jobs, self.link.instance)
        return transaction

    def _add_effects(self, transaction: Transaction) -> None:
        outcomes = {(end.job, end.attempt): end.outcome for end in transaction.ends}
        begun = {(row.job, row.attempt) for row in transaction.attempts}
        for place, effect in enumerate(self.scheduler.take_effects()):
            match effect:
                case SaveJob():
                    if effect.what == SUBMIT:
                        transaction.new.append(effect.job)
                    else:
                        if (earlier := transaction.saves.get(effect.job.id)) is not None:
                            effect = replace(effect, before=earlier.before)  # noqa: PLW2901 - on disk
                        transaction.saves[effect.job.id] = effect
                    transaction.events.append(JobEvent.of(effect, outcomes, transaction.actors.get(place)))
                case StartAttempt(job):
                    if (job.id, job.attempt) not in begun:
                        row = self._attempts.start(effect, self.link.instance, transaction.now.wall)
                        transaction.attempts.append(row)
                        if (current := self.get(job.id)) is not None:
                            transaction.launches.append(current)
                case CommandAttempt():
                    transaction.commands.append(effect.job)
            if self.notify_rules and (event := notify_event(effect)) is not None:
                transaction.notify_facts.append(Fact(event=event, at=transaction.now.wall, job=effect.job.id))

    def _add_breakers(self, transaction: Transaction) -> None:
        """Add what has changed about breakers; the times of a row are epoch times, for the next boot."""
        breakers, at = self.scheduler.breakers, transaction.now
        changed, breakers.changed = breakers.changed, {}
        for pattern, is_pause in changed.items():
            transaction.breakers[pattern] = breakers.state(pattern).moved(at.wall - at.elapsed)
            is_configured = pattern in breakers.rules  # a reload may have taken it away
            if is_pause is not None and is_configured and self.notify_rules:
                target = self.config.classes[pattern].options.get("notify")
                why = paused_after(breakers.rules[pattern].failures.text) if is_pause else None
                transaction.notify_facts.append(fact_of_calls(pattern, target, at.wall, why))

    def _end_attempt(self, end: AttemptEnd) -> None:
        """Give an end to the Scheduler, and save it if its attempt is active."""
        job = self.get(end.job)
        if job is None:
            return
        end = apply_exception_rules(end, job.policy)
        how = end.outcome, now(), exit_code_of(end.outcome, end.exit_code, end.signal), end.decision
        no_start = None
        if end.started_at is None and end.outcome is Outcome.CANCELLED:
            no_start = end.error.message if end.error is not None and job.state is State.RUNNING else ""
        if self.scheduler.ended(end.job, end.attempt, *how, no_start=no_start):
            slot = self._attempts.end(end.job)
            if (job.queue, State.QUEUED) in self.scheduler.table.counts and not self._machine.is_on:
                self.permits.note_end(slot, end.run_seconds, self._store.commit_seconds, how[1].elapsed)
            if end.job in self.steps.keepers:
                del self.steps.keepers[end.job]
            cap = self.config.logs.max_bytes  # the launcher also counts output beyond the cap
            outcome, log_kept = recorded_outcome(job, end.outcome), min(end.log_kept, cap)
            pid, began, since, place = end.pid, end.started_at, None, end.place
            started = self.transaction.pids.pop(end.job, None)
            if started is not None:  # a short job: its pid is not saved yet, so save both in one row
                pid, began = started.pid, began or started.started_at
                since, place = started.since, started.place
            end = replace(
                end, outcome=outcome, log_kept=log_kept, pid=pid, started_at=began, since=since, place=place
            )
            self.transaction.ends.append(end)
            self._changed.set()

    def _forget_logs(self, jobs: Iterable[JobId]) -> None:
        self.transaction.cleared += jobs  # written with the next transaction that is written anyway

    def _apply_controls(self) -> None:
        """Give the Scheduler the slots, queue rules and pause that are now in force."""
        self.permits.numbers.clear()  # all are withdrawn with the next transaction
        rules = queue_rules(self.config, self.controls)
        self.scheduler.breakers.rules = breaker_rules(self.config)
        self.scheduler.resize(self.slots, rules, now(), self.config.resources)
        if self.controls.paused:
            self.scheduler.pause(Cause.PAUSE)
        else:
            self.scheduler.resume(Cause.PAUSE, now())
        self._changed.set()

    async def _hold(self, jobs: dict[JobId, str]) -> None:
        """Hold those of these jobs that wait, for these reasons; nothing starts before that is saved."""
        rest = iter(jobs.items())
        while some := dict(islice(rest, HELD_AT_ONCE)):
            self._hold_now(some)
            await self._settle()

    def _hold_now(self, jobs: dict[JobId, str]) -> None:
        for job_id, reason in jobs.items():
            job = self.get(job_id)
            if job is not None and job.state in WAITING:  # it may have expired
                self.scheduler.hold(job_id, now(), reason)
        self._changed.set()

    def _has_queued(self) -> bool:
        """Return whether jobs are queued, and not because a person has paused all."""
        return not self.controls.paused and any(state is State.QUEUED for _, state in self.scheduler.counts)

    def _look_again(self) -> None:
        """Check the machine in the next turn, and notify watchers."""
        self._changed.set()
        self.subscriptions.look_soon()

    def _save_pids(self) -> None:
        self._pid_timer = None
        if self.transaction.pids:
            self._changed.set()


def _call(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()


def _notify_rules(config: Config) -> dict[str, NotifyRule]:
    return {name: convert(each, NotifyRule, from_attributes=True) for name, each in config.notify.items()}
