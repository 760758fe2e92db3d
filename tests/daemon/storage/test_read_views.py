"""Views of jobs and attempts, lists, results and durations, as clients see them."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading

import pytest

from bgd.core.filters import Filter
from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.storage import read, summaries
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, Transaction, UnfinishedJob
from bgd.daemon.storage.store import adopt_boot
from bgd.system.clock import elapsed
from bgd.wire.launching import AttemptKey, AttemptStarted, log_name
from bgd.wire.requests import List
from bgd.wire.views import JobError
from tests.daemon.storage.builders import (
    BOOT,
    NOW,
    UID,
    a_job,
    first_attempt,
    ids,
    move,
    new,
    put,
    saves,
    sql,
    submitted,
    unfinished,
)


async def test_view_has_everything_about_a_new_job(store):
    spec = {
        "name": "nightly",
        "tags": ("x",),
        "timeout": 9.0,
        "umask": 0o22,
        "delay": 60.0,
        "env": {"A": "1"},
    }
    await put(store, new(1, uid=0, due=NOW.elapsed + 60, **spec))

    view = await store.read(read.view, JobId(1))

    assert (view.id, view.kind, view.argv, view.target) == (1, "command", ["/bin/echo", "1"], None)
    assert (view.user, view.state, view.queue, view.cwd) == ("root", State.SCHEDULED, "default", "/tmp")
    assert (view.name, view.tags, view.timeout, view.umask) == ("nightly", ["x"], 9.0, 0o22)
    assert (view.retries, view.retry_delay, view.rerun) == (2, 1.5, True)
    assert (view.created_at, view.due_at) == (NOW.wall, NOW.wall + 60)
    assert (view.attempt, view.outcome, view.started_at, view.finished_at) == (0, None, None, None)
    assert await store.read(read.view, JobId(2)) is None


async def test_class_job_shows_its_target_and_arguments(store):
    await put(store, new(1, argv=None, target="app.tasks:clean", arguments='{"args": [1]}'))

    view = await store.read(read.view, JobId(1))

    assert (view.kind, view.argv, view.target, view.arguments) == (
        "class",
        None,
        "app.tasks:clean",
        '{"args": [1]}',
    )


async def test_user_without_a_name_is_shown_as_a_number(store):
    await put(store, new(1, uid=os.getuid()), new(2, uid=UID))

    assert (await store.read(read.view, JobId(1))).user == pwd.getpwuid(os.getuid()).pw_name
    assert (await store.read(read.view, JobId(2))).user == str(UID)


async def test_view_and_attempts_follow_the_life_of_a_job(store):
    await put(store, new(1))
    await store.commit(
        Transaction(now=NOW, saves=saves(a_job(1, State.RUNNING, attempt=1)), attempts=[first_attempt(1)])
    )
    view = await store.read(read.view, JobId(1))
    assert (view.state, view.attempt, view.started_at, view.outcome) == (State.RUNNING, 1, NOW.wall + 1, None)

    await store.commit(
        Transaction(now=NOW, pids={JobId(1): AttemptStarted(AttemptKey("", 1, 1), 4711, NOW.wall + 2)})
    )
    (attempt,) = await store.read(read.attempts_of, JobId(1), 0, 10)
    assert (attempt.pid, attempt.started_at, attempt.outcome) == (4711, NOW.wall + 2, None)
    assert attempt.log_path == log_name(1, 1)

    end = AttemptEnd(
        job=JobId(1),
        attempt=1,
        outcome=Outcome.SIGNAL,
        signal=9,
        finished_at=NOW.wall + 3,
        user_seconds=0.25,
        system_seconds=0.5,
        max_rss_bytes=1 << 40,
        log_bytes=17,
        whole_tree=True,
        memory_peak_bytes=1 << 41,
        leftovers="sleep (pid 4712)",
    )
    failed = a_job(1, State.FAILED, attempt=1)
    await store.commit(
        Transaction(now=NOW, ends=[end], saves=saves(failed, at=NOW.wall + 40, reason="as an example"))
    )
    view = await store.read(read.view, JobId(1))
    assert (view.state, view.outcome, view.exit_code, view.signal) == (State.FAILED, Outcome.SIGNAL, None, 9)
    assert (view.finished_at, view.reason) == (NOW.wall + 3, "as an example")  # not when it was saved
    (attempt,) = await store.read(read.attempts_of, JobId(1), 0, 10)
    assert (attempt.outcome, attempt.signal, attempt.started_at) == (Outcome.SIGNAL, 9, NOW.wall + 2)
    assert (attempt.user_seconds, attempt.system_seconds) == (0.25, 0.5)
    assert (attempt.max_rss_bytes, attempt.log_bytes) == (1 << 40, 17)
    assert (attempt.whole_tree, attempt.memory_peak_bytes) == (True, 1 << 41)
    assert attempt.leftovers == "sleep (pid 4712)"

    await move(store, 1, State.QUEUED, attempt=1)
    view = await store.read(read.view, JobId(1))
    assert (view.state, view.finished_at, view.reason, view.outcome) == (
        State.QUEUED,
        None,
        None,
        Outcome.SIGNAL,
    )


async def test_attempt_reassigned_to_another_launcher_keeps_its_slot(store):
    running = a_job(1, State.RUNNING, attempt=1)
    await put(store, new(1))
    await store.commit(Transaction(now=NOW, saves=saves(running), attempts=[first_attempt(1, slot=3)]))

    await store.commit(Transaction(now=NOW, relaunched=[first_attempt(1, slot=3, launcher="boot:other")]))

    assert (await unfinished(store), await store.read(read.last_id)) == (
        [UnfinishedJob(running, 3, "boot:other")],
        1,
    )


async def test_ended_attempt_belongs_to_no_launcher(store):
    await put(store, new(1))
    end = AttemptEnd(job=JobId(1), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall + 2, pid=4711)
    done = a_job(1, State.SUCCEEDED, attempt=1)

    await store.commit(Transaction(now=NOW, saves=saves(done), attempts=[first_attempt(1)], ends=[end]))

    assert await sql(store, "SELECT slot, launcher, pid FROM attempts") == [(1, None, 4711)]


async def test_end_of_an_attempt_without_a_move_of_its_job_raises(store):
    await put(store, new(1))
    end = AttemptEnd(job=JobId(1), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall + 2)

    with pytest.raises(LookupError, match="its job was not moved"):
        await store.commit(Transaction(now=NOW, attempts=[first_attempt(1)], ends=[end]))

    assert await sql(store, "SELECT slot FROM attempts") == []


async def test_attempts_are_read_in_parts(store):
    await put(store, new(1))
    attempts = [NewAttempt(JobId(1), number, 1, "launcher", NOW.wall) for number in range(1, 6)]
    running = saves(a_job(1, State.RUNNING, attempt=5))
    await store.commit(Transaction(now=NOW, saves=running, attempts=attempts))

    assert [attempt.attempt for attempt in await store.read(read.attempts_of, JobId(1), 0, 2)] == [1, 2]
    assert [attempt.attempt for attempt in await store.read(read.attempts_of, JobId(1), 2, 10)] == [3, 4, 5]
    assert await store.read(read.attempts_of, JobId(2), 0, 10) == []


async def test_result_is_of_the_latest_attempt_while_errors_stay_with_theirs(store):
    error = JobError("ValueError", "no such file", "Traceback ...")
    await put(store, new(1))
    for attempt, result, raised in [(1, None, error), (2, '{"n": 1.50}', None)]:
        end = AttemptEnd(
            job=JobId(1),
            attempt=attempt,
            outcome=Outcome.ERROR,
            finished_at=NOW.wall,
            result=result,
            error=raised,
        )
        attempts = [NewAttempt(JobId(1), attempt, 1, "launcher", NOW.wall)]
        job = a_job(1, State.QUEUED, attempt=attempt)
        await store.commit(Transaction(now=NOW, saves=saves(job), attempts=attempts, ends=[end]))
        assert await store.read(read.result_of, JobId(1)) == (result, raised)

    assert [attempt.error for attempt in await store.read(read.attempts_of, JobId(1), 0, 10)] == [error, None]
    await move(store, 1, State.RUNNING, attempt=3)
    assert await store.read(read.result_of, JobId(1)) == (None, None)


async def test_list_is_newest_first_with_what_runs_before_what_waits_before_the_rest(store):
    await put(store, *(new(number) for number in range(1, 7)))
    await move(store, 1, State.RUNNING, attempt=1)
    await move(store, 5, State.SUCCEEDED, attempt=1)
    await move(store, 6, State.FAILED, attempt=1)

    assert await ids(store) == [6, 5, 4, 3, 2, 1]
    assert await ids(store, limit=5) == [6, 4, 3, 2, 1]
    assert await ids(store, limit=2) == [4, 1]
    assert await ids(store, limit=1) == [1]


async def test_list_leaves_out_no_state(store):
    await put(store, *(new(number) for number, _ in enumerate(State, start=1)))
    for number, state in enumerate(State, start=1):
        await move(store, number, state)

    views, _ = await store.search(read.first_views, List(id=1), Filter())
    assert {view.state for view in views} == set(State)


async def test_list_of_states_is_the_newest_of_them_all(store):
    await put(store, *(new(number) for number in range(1, 7)))
    for number, state in [(1, State.FAILED), (3, State.SUCCEEDED), (4, State.FAILED), (6, State.SUCCEEDED)]:
        await move(store, number, state, attempt=1)

    assert await ids(store, states=[State.FAILED]) == [4, 1]
    assert await ids(store, states=[State.FAILED, State.SUCCEEDED], limit=3) == [6, 4, 3]
    assert await ids(store, states=[State.QUEUED, State.QUEUED]) == [5, 2]


async def test_list_selects_by_each_condition_and_by_all_together(store):
    await put(
        store,
        new(1, name="backup-home", tags=("night", "disk"), queue="slow", at=100.0),
        new(2, name="backup-[x]", tags=("night",), at=200.0, uid=UID + 1),
        new(3, name="report", queue="slow", at=300.0),
        new(4, at=400.0),
    )

    assert await ids(store, queue="slow") == [3, 1]
    assert await ids(store, tag="night") == [2, 1]
    assert await ids(store, tag="nigh") == []
    assert await ids(store, name="backup-*") == [2, 1]
    assert await ids(store, name="backup-[[]x]") == [2]
    assert await ids(store, name="*-[x]") == [2]
    assert await ids(store, name="[!b]*") == []
    assert await ids(store, name="REPORT") == []
    assert await ids(store, since=200.0) == [4, 3, 2]
    assert await ids(store, before=3) == [2, 1]
    assert await ids(store, mine=True) == [4, 3, 1]
    assert await ids(store, mine=True, uid=UID + 1) == [2]
    everything = {"queue": "slow", "tag": "disk", "name": "back*", "since": 100.0, "mine": True, "before": 2}
    assert await ids(store, states=[State.QUEUED], **everything) == [1]


async def test_pattern_full_of_stars_is_quick(store):
    await put(store, *(new(number, name="a" * 200) for number in range(1, 20)))

    async with asyncio.timeout(5):
        assert await ids(store, name="*a" * 99 + "b") == []


async def test_latest_job_is_the_users_own(store):
    await put(store, new(1), new(2), new(3, uid=UID + 1))
    await move(store, 2, State.CANCELLED)

    assert await store.read(read.latest, UID) == 2
    assert await store.read(read.latest, UID + 1) == 3
    assert await store.read(read.latest, UID + 2) is None


async def test_latest_job_is_none_that_tells_about_another(store):
    await put(store, new(1), *(new(number, queue=NOTIFICATION_QUEUE) for number in range(2, 250)))
    assert await store.read(read.latest, UID) == 1
    await put(store, *(new(number, queue=NOTIFICATION_QUEUE, uid=UID + 1) for number in range(250, 252)))
    assert await store.read(read.latest, UID + 1) is None


async def test_counts_follow_every_change_of_state(store):
    assert await store.read(summaries.counts) == dict.fromkeys(map(str, State), 0)

    await put(store, *(new(number) for number in range(1, 5)), new(5, due=NOW.elapsed + 1))
    await move(store, 1, State.RUNNING, attempt=1)
    await move(store, 1, State.SUCCEEDED, before=State.RUNNING, attempt=1)
    await move(store, 2, State.QUEUED, priority=5)
    await move(store, 3, State.CANCELLED)
    await store.write(lambda db: db.execute("DELETE FROM jobs WHERE id = 3").rowcount)

    expected = {State.QUEUED: 2, State.SUCCEEDED: 1, State.SCHEDULED: 1}
    assert await store.read(summaries.counts) == {str(state): expected.get(state, 0) for state in State}


async def test_reads_answer_while_a_transaction_is_being_written(store):
    await put(store, new(1))
    began, continue_ = threading.Event(), threading.Event()

    def write_slowly(db):
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE jobs SET state = 'failed'")
        began.set()
        assert continue_.wait(30)
        db.execute("COMMIT")

    async with asyncio.TaskGroup() as group:
        group.create_task(store.write(write_slowly))
        await asyncio.to_thread(began.wait, 30)
        async with asyncio.timeout(10):
            assert (await store.read(read.view, JobId(1))).state is State.QUEUED
            assert await ids(store, states=[State.QUEUED]) == [1]
        continue_.set()
    assert (await store.read(read.view, JobId(1))).state is State.FAILED


async def test_reading_connection_cannot_write(store):
    with pytest.raises(StoreBroken, match="readonly"):
        await store.read(lambda db: db.execute("DELETE FROM jobs"))


async def test_durations_are_on_a_clock_that_nobody_sets_even_in_the_next_boot(store):
    began = elapsed()
    await store.write(adopt_boot, Now(began - 60, NOW.wall), BOOT)
    await store.commit(submitted(new(1), new(2), now=Now(began - 60, NOW.wall)))
    await store.write(adopt_boot, Now(began - 30, NOW.wall + 30), "second-boot")
    start = NewAttempt(JobId(1), 1, 1, "boot:launcher", 0.0)
    running = saves(a_job(1, State.RUNNING, attempt=1))
    await store.commit(Transaction(now=Now(began - 20, 0.0), saves=running, attempts=[start]))

    job, waiting = await store.read(read.view, JobId(1)), await store.read(read.view, JobId(2))
    (attempt,) = await store.read(read.attempts_of, JobId(1), 0, 10)

    since = elapsed() - began
    assert job.waited_seconds == pytest.approx(40)
    assert 20 <= job.run_seconds <= attempt.run_seconds <= 20 + since + 0.001
    assert 60 <= waiting.waited_seconds + 0.001 <= 60.002 + since
    assert waiting.run_seconds is None


async def test_run_begins_when_the_launcher_says_and_is_unknown_if_nobody_saw_its_end(store):
    now = Now(elapsed(), NOW.wall)
    await store.write(adopt_boot, now, BOOT)
    await store.commit(submitted(new(1), now=now))
    running, pid = (
        saves(a_job(1, State.RUNNING, attempt=1)),
        AttemptStarted(AttemptKey("", 1, 1), 7, 0.0, since=now.elapsed - 9),
    )
    await store.commit(Transaction(now=now, saves=running, attempts=[first_attempt(1)]))
    await store.commit(Transaction(now=now, pids={JobId(1): pid}))
    assert (await store.read(read.view, JobId(1))).run_seconds >= 9

    end = AttemptEnd(job=JobId(1), attempt=1, outcome=Outcome.UNKNOWN, finished_at=NOW.wall)
    await store.commit(Transaction(now=now, saves=saves(a_job(1, State.FAILED, attempt=1)), ends=[end]))

    assert (await store.read(read.view, JobId(1))).run_seconds is None
