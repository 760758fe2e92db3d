"""The simulator finds nothing wrong in a hundred histories, and finds faults made on purpose."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from msgspec.structs import replace

from bgd.core import conditions, scheduler
from bgd.core.batches import Batches, BatchEvent
from bgd.core.breakers import Breakers
from bgd.core.explain import Cause
from bgd.core.job import Move, State
from bgd.core.keylimits import KeyLimits
from bgd.core.limits import Shares, StartTimes
from bgd.core.queues import ReadyQueues
from bgd.core.scheduler import SUSPENDED_AT_END, SaveJob, Scheduler, StartAttempt
from bgd.daemon import followups, schedule_clock
from bgd.daemon.batches import BatchActions
from bgd.daemon.dispatch import AttemptTable, Dispatcher
from bgd.daemon.idempotency import Idempotency
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import LauncherLink
from bgd.daemon.notifications import RETRIES, Notifications
from bgd.daemon.permits import Permits
from bgd.daemon.schedule_clock import ScheduleClock
from bgd.daemon.storage import batches as stored_batches
from bgd.daemon.storage import notifications as storage
from bgd.daemon.storage import read, submissions
from bgd.daemon.storage import schedules as schedule_storage
from bgd.daemon.storage.records import QueueControls, unpack_waits
from bgd.daemon.supervisor import Supervisor
from bgd.wire.launching import Acknowledge
from bgd.wire.requests import Pause, Resume
from tests.simulation.clients import UNSENT, SimulatedClient
from tests.simulation.event_queue import EventQueue
from tests.simulation.launcher import QUEUES
from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import Machine
from tests.simulation.run import SimulationRun
from tests.simulation.search import run_all, search

HISTORIES = 100
BATCHED = 60  # histories with batches


def test_histories_pass_all_checks_and_leave_no_file_open():
    run_all(range(1))  # opens what the process needs only once
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    run_all(range(HISTORIES))
    assert len(list(descriptors.iterdir())) <= before


def test_a_seed_repeats_the_same_history():
    tellings: list[list[str]] = [[], []]
    for telling in tellings:
        SimulationRun(7, telling.append).run()
    assert len(tellings[0]) > 20
    assert tellings[0] == tellings[1]


def test_a_killed_loop_ends_tasks_inside_their_asynchronous_generators():
    queue, ended = EventQueue(), list[str]()
    loop = SimulatedLoop(queue, Mock())  # type: ignore[abstract]  # all that bgd asks for is there

    async def numbers(within: AsyncGenerator[int, None] | None = None) -> AsyncGenerator[int, None]:
        try:
            if within is None:
                yield await loop.create_future()
            else:
                async with aclosing(within):
                    async for number in within:
                        yield number
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    loop.create_task(anext(numbers(numbers())))
    queue.step()
    loop.kill()
    loop.bury()

    assert ended == ["_Buried", "_Buried"]


def pause_often(monkeypatch):
    def next_request(self):
        dice = self._machine.dice
        if self.number >= len(QUEUES) or dice.random() >= 0.5:
            return ask(self)
        return dice.choice([Pause, Resume])(UNSENT, QUEUES[self.number])

    ask = SimulatedClient.next_request
    monkeypatch.setattr(SimulatedClient, "next_request", next_request)


# --- faults on purpose --------------------------------------------------------------------------------------


def answer_too_early(monkeypatch):
    monkeypatch.setattr(Supervisor, "when_saved", lambda _, callback: callback())


def acknowledge_too_early(monkeypatch):
    take = Supervisor.attempt_ended

    def attempt_ended(self, ended):
        self.link.send(Acknowledge(ended.key))
        take(self, ended)

    monkeypatch.setattr(Supervisor, "attempt_ended", attempt_ended)


def acknowledge_nothing_known(monkeypatch):
    take = Supervisor.attempt_ended

    def attempt_ended(self, ended):
        if self.get(ended.key.job) is not None:
            take(self, ended)

    monkeypatch.setattr(Supervisor, "attempt_ended", attempt_ended)


def forget_to_save(monkeypatch, move):
    take = Scheduler.take_effects

    def lose(self):
        return [each for each in take(self) if not (isinstance(each, SaveJob) and each.what == move)]

    monkeypatch.setattr(Scheduler, "take_effects", lose)


def forget_to_save_a_start(monkeypatch):
    forget_to_save(monkeypatch, Move.START)


def forget_to_save_a_retry(monkeypatch):
    forget_to_save(monkeypatch, Move.RETRY)


def start_again_what_a_dead_launcher_ran(monkeypatch):
    def judge(self, job, snapshot, boot_id, at):
        del snapshot, boot_id, at
        self.active[job.id].is_unsent = True
        self.to_reassign.add(job.id)

    monkeypatch.setattr(AttemptTable, "_reconcile_absent", judge)


def crowd_queues(monkeypatch):
    monkeypatch.setattr(ReadyQueues, "_has_room", lambda *_: True)


def forget_requests(monkeypatch):
    async def recall(*_):
        return None

    monkeypatch.setattr(Idempotency, "recall", recall)


def forget_requests_at_a_restart(monkeypatch):
    monkeypatch.setattr(submissions, "find_submission", lambda *_: None)


def forget_keys(monkeypatch):
    monkeypatch.setattr(Scheduler, "holder_of", lambda *_: None)


def forget_pauses(monkeypatch):
    monkeypatch.setattr(read, "controls", lambda _: QueueControls())


def hold_nothing(monkeypatch):
    monkeypatch.setattr(Scheduler, "hold", lambda *_: State.HELD)


def tell_nobody_of_ends(monkeypatch):
    monkeypatch.setattr(Scheduler, "_notify", lambda *_: None)


def set_no_timer(monkeypatch):
    monkeypatch.setattr(Scheduler, "next_timer_at", lambda _: None)


def deliver_all_at_once(monkeypatch):
    """Forget which target a notification is for."""
    monkeypatch.setattr(conditions, "NOTIFICATION_QUEUE", None)


def let_the_urgent_wait(monkeypatch):
    submit = Scheduler.submit

    def upside_down(self, spec, *rest):
        return submit(self, replace(spec, priority=-(spec.priority or 0)), *rest)

    monkeypatch.setattr(Scheduler, "submit", upside_down)


def forget_what_happens(monkeypatch):
    monkeypatch.setattr(storage, "save", lambda *_: None)


def settle_after_telling(monkeypatch):
    """Store only after the jobs that tell what is settled: a kill between the two tells it again."""
    told = []

    def send(self, message, retries=RETRIES):
        transaction = self._supervisor.transaction
        told.extend(transaction.settled)
        transaction.settled.clear()
        return _send(self, message, retries)

    async def saved(self):
        await _saved(self)
        if told:
            self.transaction.settled.extend(told)
            told.clear()
            await _saved(self)

    _send, _saved = Notifications._send, Supervisor.saved
    monkeypatch.setattr(Notifications, "_send", send)
    monkeypatch.setattr(Supervisor, "saved", saved)


def tell_whoever_cancels(monkeypatch):
    monkeypatch.setattr(scheduler, "REASONS_OF_CANCEL", frozenset({None}))


def let_late_continues_through(monkeypatch):
    send = JobActions.signal

    async def send_late(self, job, at, signal, *, whole_tree, seen=None):
        del seen
        return await send(self, job, at, signal, whole_tree=whole_tree)

    monkeypatch.setattr(JobActions, "signal", send_late)


def resend_nothing(monkeypatch):
    """Lose what a supervisor saved and did not send; only long histories with many suspensions show it."""
    monkeypatch.setattr(Dispatcher, "resend_commands", lambda *_: None)
    monkeypatch.setattr("tests.simulation.clients.SUSPENDING_SHARE", 0.9)
    monkeypatch.setattr("tests.simulation.run.STEPS", (60, 90))
    monkeypatch.setattr("tests.simulation.run.FAULT", 0.3)
    monkeypatch.setattr("tests.simulation.run.FAULTS", {Machine.kill_supervisor: 1})


def forget_tokens_at_a_restart(monkeypatch):
    monkeypatch.setattr(read, "unpack_tokens", lambda _: {})


def give_tokens_back_too_early(monkeypatch):
    stop = Scheduler._stop

    def give_back(self, job, *arguments, **options):
        self.table.queues.tokens.give_back(self.table.queues.active[job.id].tokens)
        return stop(self, job, *arguments, **options)

    monkeypatch.setattr(Scheduler, "_stop", give_back)


def confirm_pauses_before_what_started_has_begun(monkeypatch):
    pause_often(monkeypatch)
    monkeypatch.setattr(Dispatcher, "wait_until_begun", AsyncMock())


def begin_during_a_pause_what_no_launcher_has_begun(monkeypatch):
    pause_often(monkeypatch)
    monkeypatch.setattr(Supervisor, "_requeue_paused", lambda _: None)


def launch_upside_down(monkeypatch):
    take = Scheduler.take_effects

    def take_reversed(self):
        effects = take(self)
        starts = [each for each in effects if isinstance(each, StartAttempt)]
        return [starts.pop() if isinstance(each, StartAttempt) else each for each in effects]

    monkeypatch.setattr(Scheduler, "take_effects", take_reversed)


def start_while_bgd_exits(monkeypatch):
    pause = Scheduler.pause
    monkeypatch.setattr(
        Scheduler, "pause", lambda self, why: None if why is Cause.SHUTDOWN else pause(self, why)
    )


def suspend_often(monkeypatch):
    monkeypatch.setattr("tests.simulation.clients.SUSPENDING_SHARE", 0.9)
    monkeypatch.setattr("tests.simulation.run.STEPS", (60, 90))


def answer_before_processes_are_stopped(monkeypatch):
    ask = LauncherLink.ask
    monkeypatch.setattr(LauncherLink, "ask", lambda self, key, **_: ask(self, key))


def forget_suspensions_when_attempts_end(monkeypatch):
    move = Scheduler._move

    def let_retry(self, job, what, now, reason=None, **changes):
        return job if reason == SUSPENDED_AT_END else move(self, job, what, now, reason, **changes)

    suspend_often(monkeypatch)
    monkeypatch.setattr(Scheduler, "_move", let_retry)


def forget_suspensions_when_bgd_stops(monkeypatch):
    stop = Scheduler._stop

    def forget(self, job, now, *, making_way):
        return stop(self, replace(job, suspended=False), now, making_way=making_way)

    suspend_often(monkeypatch)
    monkeypatch.setattr("tests.simulation.run.FAULT", 0.3)
    monkeypatch.setattr("tests.simulation.run.FAULTS", {Machine.shut_down: 1})
    monkeypatch.setattr(Scheduler, "_stop", forget)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (answer_before_processes_are_stopped, "was said to be suspended, and runs"),
        (forget_suspensions_when_attempts_end, "begins after its job was suspended"),
        (forget_suspensions_when_bgd_stops, "begins after its job was suspended"),
        (confirm_pauses_before_what_started_has_begun, "begins in the paused"),
        (begin_during_a_pause_what_no_launcher_has_begun, "begins in the paused"),
        (launch_upside_down, "begins before one that started earlier"),
        (start_while_bgd_exits, "bgd is about to exit"),
        (forget_tokens_at_a_restart, "is held twice"),
        (give_tokens_back_too_early, "is held twice"),
        (answer_too_early, ".*"),  # in many ways, soon
        (acknowledge_too_early, "started twice"),
        (acknowledge_nothing_known, "never acknowledged"),
        (forget_to_save_a_start, "supervisor died|counts by state are wrong"),
        (forget_to_save_a_retry, "supervisor died"),
        (start_again_what_a_dead_launcher_ran, "started twice"),
        (crowd_queues, "too much for|in the paused|slot 0 is taken"),
        (deliver_all_at_once, "slot 0 is taken"),
        (let_the_urgent_wait, "it was the turn of"),
        (forget_requests, "nobody asked for these"),
        (forget_requests_at_a_restart, "nobody asked for these"),
        (forget_keys, "two unfinished jobs have"),
        (forget_pauses, "in the paused"),
        (hold_nothing, "begins after its job was held"),
        (tell_nobody_of_ends, "have not finished"),
        (set_no_timer, "have not finished"),
        (let_late_continues_through, "is suspended, and its processes were continued"),
        (resend_nothing, "by bgd's word|is suspended, and its processes were continued"),
        (forget_what_happens, "(succeeded|failed) .*: 0"),
        (settle_after_telling, "(succeeded|failed) .*: [23]"),
        (tell_whoever_cancels, "what did not happen is told|failed .*: [12]"),
    ],
)
def test_a_fault_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=False, has_limits=False)


def lose_rows_of_jobs(monkeypatch):
    add = ScheduleClock.add

    def lose(self, name, each, job):
        if job is None or job % 5:
            add(self, name, each, job)

    monkeypatch.setattr(ScheduleClock, "add", lose)


def store_nothing_of_what_was_seen(monkeypatch):
    monkeypatch.setattr(
        schedule_storage, "_SEE", "UPDATE schedules SET seen_at = min(seen_at, ?) WHERE name = ?"
    )


def pass_over_what_is_due_when_a_schedule_changes(monkeypatch):
    def finish(self, name, schedule, at):
        del self, name
        schedule.seen = at

    monkeypatch.setattr(ScheduleClock, "finish", finish)


def allow_every_overlap(monkeypatch):
    monkeypatch.setattr(schedule_clock, "starts", lambda *_: ())


def forget_jobs_of_schedules_at_a_restart(monkeypatch):
    monkeypatch.setattr(schedule_storage, "latest_runs", lambda _, names: {name: [] for name in names})


def note_no_late_job(monkeypatch):
    monkeypatch.setattr(ScheduleClock, "_settle_late", lambda *_: False)


def watch_no_job_after_a_restart(monkeypatch):
    restored = ScheduleClock._restored

    def settle(self, rows):
        runs = restored(self, rows)
        for run in runs.values():
            run.due = None
        return runs

    monkeypatch.setattr(ScheduleClock, "_restored", settle)


def tell_of_late_jobs_without_storing_it(monkeypatch):
    monkeypatch.setattr(
        schedule_storage, "_NOTE_LATE", "UPDATE occurrences SET late = 0 WHERE schedule = ? AND job = ?"
    )


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lose_rows_of_jobs, "has 0 rows"),
        (store_nothing_of_what_was_seen, "have two rows"),
        (pass_over_what_is_due_when_a_schedule_changes, "have no row"),
        (allow_every_overlap, "of schedule .* beside"),
        (forget_jobs_of_schedules_at_a_restart, "of schedule .* beside|was not in time"),
        (note_no_late_job, "is not late, and was not in time"),
        (watch_no_job_after_a_restart, "is not late, and was not in time"),
        (tell_of_late_jobs_without_storing_it, "events and rows differ"),
    ],
)
def test_a_fault_of_schedules_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=True)


def forget_starts_at_a_restart(monkeypatch):
    monkeypatch.setattr(StartTimes, "restore", lambda *_: None)


def forget_retries_at_a_restart(monkeypatch):
    monkeypatch.setattr(read, "_STARTS_OF", f"{read._STARTS_OF} AND attempts.attempt = 1")


def note_no_start_of_a_retry(monkeypatch):
    occupy = ReadyQueues.occupy

    def note_first_only(self, job, adopted=None):
        note = self.starts.note
        if job.attempt > 1:
            self.starts.note = lambda *_: None
        taken = occupy(self, job, adopted)
        self.starts.note = note
        return taken

    monkeypatch.setattr(ReadyQueues, "occupy", note_first_only)


def count_nothing_that_queues_use(monkeypatch):
    monkeypatch.setattr(Shares, "use", lambda *_: None)


def let_one_queue_go_first(monkeypatch):
    used = Shares.used
    monkeypatch.setattr(Shares, "used", lambda self, queue: used(self, queue) - 100 * (queue == QUEUES[1]))


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (forget_starts_at_a_restart, "the rate of"),
        (forget_retries_at_a_restart, "the rate of"),
        (note_no_start_of_a_retry, "the rate of"),
        (count_nothing_that_queues_use, "it is the turn of"),
        (let_one_queue_go_first, "it is the turn of"),
    ],
)
def test_a_fault_of_rates_and_weights_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=False, has_limits=True)


def let_all_run(monkeypatch):
    monkeypatch.setattr(KeyLimits, "is_full", lambda *_: False)


def forget_keys_of_limits_at_a_restart(monkeypatch):
    monkeypatch.setattr(read, "unpack_waits", lambda packed: replace(unpack_waits(packed), limit=None))
    monkeypatch.setattr(read, "_job_conditions", read._job_conditions.__wrapped__)  # which remembers some


def wake_nobody(monkeypatch):
    monkeypatch.setattr(KeyLimits, "_wake", lambda *_: None)


def skip_who_wants_to_wait(monkeypatch):
    monkeypatch.setattr(KeyLimits, "must_wait", lambda *_: False)
    monkeypatch.setattr(KeyLimits, "is_skipped", KeyLimits.is_full)


def forget_kept_keys_at_a_restart(monkeypatch):
    monkeypatch.setattr(read, "kept_keys", lambda *_: [])


def keep_no_key_after_the_end(monkeypatch):
    monkeypatch.setattr(conditions, "key_kept_until", lambda *_: None)


def keep_keys_until_the_end(monkeypatch):
    of = conditions.conditions_of
    monkeypatch.setattr(
        conditions, "conditions_of", lambda *those: replace(of(*those), frees_key_at_start=False)
    )


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (forget_kept_keys_at_a_restart, "has '(blue|violet)' of job"),
        (keep_no_key_after_the_end, "has '(blue|violet)' of job"),
        (keep_keys_until_the_end, "which no longer has its key"),
        (let_all_run, "places, and these run"),
        (forget_keys_of_limits_at_a_restart, "places, and these run"),
        (wake_nobody, "have not finished"),
        (skip_who_wants_to_wait, "wants to wait"),
    ],
)
def test_a_fault_of_limits_by_key_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=False, has_limits=True)


def test_histories_with_batches_pass_all_checks():
    found: Counter[str] = Counter()
    for seed in range(BATCHED):
        found += SimulationRun(seed, has_schedules=False, has_limits=False, has_batches=True).run()
    assert all(found[f"{event} of a batch"] > 5 for event in BatchEvent), found
    assert found["open batches"] > 10, found


def forget_what_has_followed(monkeypatch):
    changed = stored_batches._UPDATE.replace("then_job = ?, catch_job = ?", "catch_job = ?, then_job = ?")
    monkeypatch.setattr(stored_batches, "_UPDATE", changed)


def follow_in_a_later_transaction(monkeypatch):
    follow = BatchActions._follow

    async def follow_later(self, due):
        async def later():
            await self._supervisor.saved()
            await follow(self, due)

        asyncio.get_running_loop().create_task(later())

    monkeypatch.setattr(BatchActions, "_follow", follow_later)


def follow_again_after_a_restart(monkeypatch):
    batch = stored_batches._batch

    def as_new(row):
        known = batch(row)
        known.unstarted = tuple(BatchEvent)
        return known

    monkeypatch.setattr(stored_batches, "_batch", as_new)


def count_no_failed_jobs(monkeypatch):
    moved = Batches.moved

    def count(self, job_id, before, after):
        if after is not State.FAILED:
            moved(self, job_id, before, after)

    monkeypatch.setattr(Batches, "moved", count)


def forget_jobs_of_batches_at_a_restart(monkeypatch):
    restore = Batches.restore
    monkeypatch.setattr(Batches, "restore", lambda self, batch, _: restore(self, batch, []))


def close_batches_that_are_halted(monkeypatch):
    close = BatchActions.close

    async def close_all(self, request, uid=None):
        return await close(self, replace(request, reopen=False), uid)

    monkeypatch.setattr(BatchActions, "close", close_all)


def leave_batches_whole_when_lines_come(monkeypatch):
    change = Batches.change

    def close_only(self, batch, *, is_whole, is_cancelled=None):
        change(self, batch, is_whole=is_whole or batch.is_whole, is_cancelled=is_cancelled)

    monkeypatch.setattr(Batches, "change", close_only)


def forget_open_batches_at_a_restart(monkeypatch):
    batch = stored_batches._batch

    def as_whole(row):
        known = batch(row)
        known.is_whole = True
        return known

    monkeypatch.setattr(stored_batches, "_batch", as_whole)


def count_all_cancelled_attempts_as_begun(monkeypatch):
    ended = Scheduler.ended

    def has_begun(self, *arguments, **options):
        return ended(self, *arguments, **{**options, "no_start": None})

    monkeypatch.setattr(Scheduler, "ended", has_begun)


def count_no_cancelled_attempt_as_begun(monkeypatch):
    ended = Scheduler.ended

    def has_not_begun(self, *arguments, **options):
        return ended(self, *arguments, **{**options, "no_start": ""})

    monkeypatch.setattr(Scheduler, "ended", has_not_begun)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (close_batches_that_are_halted, "while it was open|left open"),
        (leave_batches_whole_when_lines_come, "while it was open|left open"),
        (forget_open_batches_at_a_restart, "while it was open|left open"),
        (count_all_cancelled_attempts_as_begun, "as if it had run"),
        (count_no_cancelled_attempt_as_begun, "and has run"),
        (forget_what_has_followed, "of batch"),
        (follow_in_a_later_transaction, "of batch .*|started 0 times"),
        (follow_again_after_a_restart, "started twice|supervisor died"),
        (count_no_failed_jobs, "counts|started"),
        (forget_jobs_of_batches_at_a_restart, "counts|started 0 times"),
    ],
)
def test_a_fault_of_batches_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=False, has_limits=False, has_batches=True)


CALLED = 40  # histories with follow-ups and a breaker


def test_histories_with_follow_ups_and_a_breaker_pass_all_checks():
    found: Counter[str] = Counter()
    for seed in range(CALLED):
        found += SimulationRun(seed, has_calls=True).run()
    assert found["followed"] > CALLED
    assert found["paused"] > 10
    assert found["tried"] > 10


def follow_ends_in_a_later_transaction(monkeypatch):
    take = Scheduler.take_causes

    def take_earlier(self):
        earlier, self.earlier = getattr(self, "earlier", []), take(self)
        return earlier

    monkeypatch.setattr(Scheduler, "take_causes", take_earlier)


def follow_who_was_cancelled(monkeypatch):
    monkeypatch.setattr(scheduler, "REASONS_OF_CANCEL", frozenset({None}))


def forget_breakers_at_a_restart(monkeypatch):
    monkeypatch.setattr(read, "breakers", lambda *_: {})


def let_all_try(monkeypatch):
    monkeypatch.setattr(Breakers, "started", lambda *_: None)


def tell_of_an_earlier_attempt(monkeypatch):
    cause = followups._cause

    def earlier(*arguments):
        told = cause(*arguments)
        return replace(told, attempt=told.attempt - 1)

    monkeypatch.setattr(followups, "_cause", earlier)


def pause_nothing(monkeypatch):
    monkeypatch.setattr(Breakers, "keeps", lambda *_: False)


def never_end_a_pause(monkeypatch):
    monkeypatch.setattr(Breakers, "ends_at", lambda *_: ())


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (follow_ends_in_a_later_transaction, "nothing followed"),
        (follow_who_was_cancelled, "followed without an end|what did not happen is told"),
        (tell_of_an_earlier_attempt, "followed without an end"),
        (forget_breakers_at_a_restart, "while calls were paused"),
        (let_all_try, "started while (job|calls)"),
        (pause_nothing, "while calls were paused"),
        (never_end_a_pause, "have not finished"),
    ],
)
def test_a_fault_of_follow_ups_and_breakers_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=False, has_limits=False, has_calls=True)


PERMITTED = 20  # histories with many short jobs


def test_histories_with_permits_pass_all_checks():
    found: Counter[str] = Counter()
    for seed in range(PERMITTED):
        found += SimulationRun(seed, has_schedules=False, has_permits=True).run()
    assert found["by permit"] > 10 * PERMITTED


def keep_specs(monkeypatch):
    """Let permits be used whose specs would not be there."""

    def note_commit(self, transaction):
        self.known = self.known | transaction.specs
        return _note_commit(self, transaction)

    _note_commit = Permits.note_commit
    monkeypatch.setattr(Permits, "known", {}, raising=False)
    monkeypatch.setattr(Permits, "note_commit", note_commit)


def use_permits_before_their_commit(monkeypatch):
    keep_specs(monkeypatch)
    monkeypatch.setattr(
        Permits, "usable_spec", lambda self, job, _: self.known.get(job.id) if job.id in self.value else None
    )


def use_permits_that_are_being_withdrawn(monkeypatch):
    keep_specs(monkeypatch)
    monkeypatch.setattr(
        Permits,
        "usable_spec",
        lambda self, job, _: self.known.get(job.id) if job.id in self.durable else None,
    )


def forget_permits_at_a_restart(monkeypatch):
    monkeypatch.setattr(Permits, "restore", lambda *_: None)


def take_what_was_lost_for_never_begun(monkeypatch):
    resolve = Supervisor._resolve

    def resolve_all(self, permits, snapshot):
        covers = frozenset(permit.launcher for permit in permits.values())
        resolve(self, permits, replace(snapshot, covers=covers))

    monkeypatch.setattr(Supervisor, "_resolve", resolve_all)
    monkeypatch.setattr("tests.simulation.run.FAULTS", {Machine.cut_power: 1, Machine.lose_records: 1})


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (use_permits_before_their_commit, "without a start or permit on disk"),
        (use_permits_that_are_being_withdrawn, "without a start or permit on disk"),
        (forget_permits_at_a_restart, "was started twice"),
        (take_what_was_lost_for_never_begun, "started twice"),
    ],
)
def test_a_fault_of_permits_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, STARTS.get(fault, 0), has_schedules=False, has_limits=False, has_permits=True)


# Seeds at which the search for rarer faults starts, shortly before the first history that shows the fault
STARTS = {
    answer_before_processes_are_stopped: 97,
    forget_suspensions_when_attempts_end: 51,
    forget_suspensions_when_bgd_stops: 28,
    confirm_pauses_before_what_started_has_begun: 533,
    begin_during_a_pause_what_no_launcher_has_begun: 1540,
    forget_tokens_at_a_restart: 17,
    give_tokens_back_too_early: 208,
    forget_pauses: 90,
    let_late_continues_through: 28,
    resend_nothing: 70,
    settle_after_telling: 35,
    tell_whoever_cancels: 20,
    watch_no_job_after_a_restart: 63,
    forget_breakers_at_a_restart: 7,
    forget_starts_at_a_restart: 51,
    forget_retries_at_a_restart: 376,
    count_nothing_that_queues_use: 100,
    let_one_queue_go_first: 332,
    keep_keys_until_the_end: 63,
    count_all_cancelled_attempts_as_begun: 100,
    count_no_cancelled_attempt_as_begun: 19,
    take_what_was_lost_for_never_begun: 12,
}
