"""The store: its file, transactions, due times, views, crashes and failing disks."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import pwd
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest

from bgd.clock import elapsed
from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.spec import MAX_DURATION
from bgd.daemon.storage import read
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import (
    AttemptEnd,
    AttemptPid,
    NewAttempt,
    StoredSpec,
    UnfinishedJob,
    WriteBatch,
)
from bgd.daemon.storage.schema import VERSION
from bgd.daemon.storage.store import Store
from bgd.errors import Full
from bgd.wire.launching import log_name
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
    restored,
    saves,
    sql,
    unfinished,
)

ROOT = Path(__file__).parents[3]


def content_of(path):
    return Path(path).read_bytes()


def mode_of(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def write(path, content):
    Path(path).write_bytes(content)


# --- the file --------------------------------------------------------------------------------------------


async def test_new_file_is_private_and_so_are_its_wal_and_shm(store, path):
    await put(store, new(1))

    for file in (path, f"{path}-wal", f"{path}-shm"):
        assert mode_of(file) == 0o600


async def test_every_file_has_a_store_id_of_its_own(path, tmp_path):
    found = []
    for file in (path, path, str(tmp_path / "other.db")):
        store = await Store.open(file)
        found.append(store.store_id)
        await store.close()

    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 32


async def test_every_start_has_a_higher_generation(path):
    found = []
    for _ in range(3):
        store = await Store.open(path)
        found.append(await store.begin_generation())
        await store.close()

    assert found == [1, 2, 3]


async def test_closing_leaves_one_file_with_everything_in_it(path, tmp_path):
    store = await Store.open(path)
    await put(store, new(1))
    await store.close()

    assert names_in(tmp_path) == ["bgd.db"]
    db = sqlite3.connect(path)
    assert db.execute("SELECT id FROM jobs").fetchall() == [(1,)]
    db.close()


async def test_commits_are_synced_before_they_are_answered(store):
    async def of(database, name):
        return await database.call(lambda db: db.execute(f"PRAGMA {name}").fetchone()[0])

    assert await of(store._writer, "journal_mode") == "wal"
    assert await of(store._writer, "synchronous") == 2  # FULL


async def test_database_that_was_emptied_is_refused_and_left_alone(path):
    store = await Store.open(path)
    await put(store, new(1))
    await store.close()
    os.truncate(path, 0)

    with pytest.raises(StoreBroken, match="is empty"):
        await Store.open(path)

    assert content_of(path) == b""


async def test_row_that_no_bgd_wrote_is_damage_and_others_stay_readable(path):
    store = await Store.open(path)
    await put(store, new(1), new(2))
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE specs SET spec = x'c1c1' WHERE job = 1")
        db.commit()
    store = await Store.open(path)

    with pytest.raises(StoreBroken, match="damaged"):
        await store.view(JobId(1))

    view = await store.view(JobId(2))
    assert view is not None
    await store.close()


async def refusal_of(path):
    with pytest.raises(StoreBroken) as refused:
        await Store.open(path)
    message = str(refused.value)
    assert path in message
    assert "\n" not in message
    return message


async def test_file_of_a_newer_bgd_is_refused_and_unchanged(path):
    store = await Store.open(path)
    await store.close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = content_of(path)

    assert "written by a newer bgd" in await refusal_of(path)

    assert content_of(path) == before


async def test_database_of_another_program_is_refused_and_unchanged(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE customers (name TEXT)")
    db.close()
    before = content_of(path)

    assert "another program" in await refusal_of(path)

    assert content_of(path) == before


async def test_file_that_is_not_a_database_is_refused(path):
    write(path, b"# my notes\n" * 100)

    assert "file is not a database; `bgd --recover` puts the newest backup in its place" in await refusal_of(
        path
    )


async def test_missing_folder_is_refused(tmp_path):
    assert "cannot be created: No such file" in await refusal_of(str(tmp_path / "nowhere" / "bgd.db"))


async def test_folder_in_place_of_the_file_is_refused(tmp_path):
    assert "unable to open database file" in await refusal_of(str(tmp_path))


async def test_damaged_file_is_refused(path):
    store = await Store.open(path)
    await put(store, *(new(number) for number in range(1, 2001)))
    await store.close()
    content = bytearray(content_of(path))
    for page in range(4096, len(content), 3 * 4096):
        content[page : page + 64] = b"\xff" * 64
    write(path, content)

    assert "`bgd --recover` puts the newest backup in its place" in await refusal_of(path)


# --- writing ---------------------------------------------------------------------------------------------


async def test_jobs_come_back_as_they_were_written(path):
    jobs = [
        a_job(1, State.QUEUED, queue="builds", priority=-7, attempt=1, failures=1),
        a_job(2, State.SCHEDULED, due=NOW.elapsed + 60.25, failures=2, unseen=1, attempt=3),
        a_job(3, State.RUNNING, attempt=1),
        a_job(4, State.STOPPING, attempt=1, making_way=True),
    ]
    store = await Store.open(path)
    await put(store, *(new(number) for number in range(1, 5)))
    await store.adopt_boot(NOW, BOOT)
    await store.commit(
        WriteBatch(now=NOW, saves=saves(*jobs), attempts=[first_attempt(3), first_attempt(4, slot=2)])
    )
    await store.close()

    store = await Store.open(path)
    found, last_id = await unfinished(store), await store.last_id()
    await store.close()

    assert found == [
        UnfinishedJob(jobs[0], None, None),
        UnfinishedJob(jobs[1], None, None),
        UnfinishedJob(jobs[2], 1, "boot:launcher"),
        UnfinishedJob(jobs[3], 2, "boot:launcher"),
    ]
    assert last_id == 4


async def test_equal_policies_are_one_object(store):
    await put(store, new(1), new(2))

    first, second = await restored(store)

    assert first.policy is second.policy


async def test_finished_jobs_are_not_restored_but_can_be_revived(store):
    await put(store, new(1), new(2))
    await move(store, 1, State.FAILED, attempt=3, failures=2)

    assert [job.id for job in await restored(store)] == [2]
    assert await store.finished(JobId(1)) == a_job(1, State.FAILED, attempt=3, failures=2)
    assert await store.finished(JobId(2)) is None
    assert await store.finished(JobId(3)) is None


async def test_ids_are_never_given_out_again_even_if_the_rows_are_gone(path):
    store = await Store.open(path)
    await put(store, new(1), new(7))
    await put(store, new(3))
    await store._writer.call(lambda db: db.execute("DELETE FROM jobs").rowcount)
    await store.close()

    store = await Store.open(path)
    found = (await unfinished(store), await store.last_id())
    await store.close()

    assert found == ([], 7)


async def test_unfinished_jobs_are_read_by_pages(store, monkeypatch):
    monkeypatch.setattr(read, "_PAGE", 2)
    await put(store, *(new(number) for number in range(1, 6)))
    await move(store, 2, State.RUNNING)

    pages = [[item.job.id for item in page] async for page in store.unfinished()]

    assert pages == [[1, 3], [4, 5], [2]]


async def test_batch_that_fails_leaves_nothing_and_the_next_one_is_unaffected(store):
    env = {"A": "1"}
    with pytest.raises(LookupError, match="1 of 1 rows"):
        await store.commit(WriteBatch(now=NOW, new=[new(1, env=env)], saves=saves(a_job(99))))
    assert await restored(store) == []

    await put(store, new(2, env=env))

    found = await store.commit(WriteBatch(now=NOW, wanted=[JobId(2)]))
    assert found[JobId(2)].spec.env == env
    assert (await unfinished(store), await store.last_id()) == ([UnfinishedJob(new(2).job, None, None)], 2)


async def test_cancelled_commit_is_still_done(store):
    began, continue_ = threading.Event(), threading.Event()

    def hold_up(_):
        began.set()
        assert continue_.wait(30)

    async with asyncio.TaskGroup() as group:
        group.create_task(store._writer.call(hold_up))
        running = group.create_task(put(store, new(1)))
        await asyncio.to_thread(began.wait, 30)
        running.cancel()
        later = group.create_task(put(store, new(2)))
        continue_.set()
    assert running.cancelled()
    assert later.done()
    assert [job.id for job in await restored(store)] == [1, 2]


async def test_one_commit_of_many_jobs_is_many_times_cheaper_than_one_each(store):
    count = 300
    began = time.perf_counter()
    for number in range(1, count + 1):
        await put(store, new(number))
    single = time.perf_counter() - began

    began = time.perf_counter()
    await put(store, *(new(number) for number in range(count + 1, 2 * count + 1)))
    together = time.perf_counter() - began

    assert together < single / 3  # measured: a twentieth


async def test_private_name_of_aiosqlite_is_used_once_and_has_the_expected_signature():
    uses = [
        path.name
        for path in (ROOT / "bgd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "_execute"
    ]

    assert uses == ["database.py"]
    assert inspect.iscoroutinefunction(aiosqlite.Connection._execute)
    assert list(inspect.signature(aiosqlite.Connection._execute).parameters) == [
        "self",
        "fn",
        "args",
        "kwargs",
    ]


# --- due times -------------------------------------------------------------------------------------------


async def due_after(path, due, now, boot):
    """Return the due time of a job that was due at `due` of the first boot, once restored at `now`."""
    store = await Store.open(path)
    await store.adopt_boot(NOW, BOOT)
    await put(store, new(1, due=due))
    await store.close()
    store = await Store.open(path)
    for _ in range(2):  # the second time the database is of this boot already
        await store.adopt_boot(now, boot)
        (job,) = await unfinished(store)
    await store.close()
    return job.job.due


async def test_due_time_of_the_same_boot_stays_when_the_wall_clock_jumps(path):
    later = Now(elapsed=NOW.elapsed + 10, wall=NOW.wall - 1e9)

    assert await due_after(path, NOW.elapsed + 60, later, BOOT) == NOW.elapsed + 60


async def test_due_time_of_another_boot_is_converted_by_the_wall_clock(path):
    later = Now(elapsed=20.0, wall=NOW.wall + 10)

    assert await due_after(path, NOW.elapsed + 60, later, "second-boot") == pytest.approx(20 + 50)


async def test_due_time_that_passed_while_the_machine_was_off_is_now(path):
    later = Now(elapsed=20.0, wall=NOW.wall + 3600)

    assert await due_after(path, NOW.elapsed + 60, later, "second-boot") == 20.0


async def test_due_time_is_never_further_away_than_the_longest_delay(path):
    long_ago = Now(elapsed=20.0, wall=0.0)

    assert await due_after(path, NOW.elapsed + 60, long_ago, "second-boot") == 20.0 + MAX_DURATION


# --- specs and environments ------------------------------------------------------------------------------


async def test_spec_is_read_back_in_the_transaction_that_starts_the_job(store):
    item = new(1, env={"PATH": "/bin"}, name="büro ☕", tags=("a", "b"), timeout=3.5, umask=0o27)
    await put(store, item)

    found = await store.commit(WriteBatch(now=NOW, attempts=[first_attempt(1)], wanted=[JobId(1), JobId(99)]))

    assert found == {1: StoredSpec(item.spec, UID, NOW.wall)}


async def test_no_environment_differs_from_an_empty_one(store):
    await put(store, new(1), new(2, env={}))

    found = await store.commit(WriteBatch(now=NOW, wanted=[JobId(1), JobId(2)]))

    assert found[JobId(1)].spec.env is None
    assert found[JobId(2)].spec.env == {}


async def test_equal_environments_are_stored_once(path):
    shared = {"A": "1", "B": "2"}
    store = await Store.open(path)
    await put(store, new(1, env=shared), new(2, env=shared), new(3, env={"B": "2", "A": "1"}))
    await put(store, new(4, env=dict(shared)), new(5, env={"A": "2", "B": "1"}))
    await store.close()
    store = await Store.open(path)  # which remembers no environment

    await put(store, new(6, env=dict(shared)))

    rows = await sql(store, "SELECT environment FROM specs ORDER BY job")
    assert rows == [(1,), (1,), (1,), (1,), (2,), (1,)]
    assert await sql(store, "SELECT count(*) FROM environments") == [(2,)]
    await store.close()


# --- what people see -------------------------------------------------------------------------------------


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

    view = await store.view(JobId(1))

    assert (view.id, view.kind, view.argv, view.target) == (1, "command", ["/bin/echo", "1"], None)
    assert (view.user, view.state, view.queue, view.cwd) == ("root", State.SCHEDULED, "default", "/tmp")
    assert (view.name, view.tags, view.timeout, view.umask) == ("nightly", ["x"], 9.0, 0o22)
    assert (view.retries, view.retry_delay, view.rerun) == (2, 1.5, True)
    assert (view.created_at, view.due_at) == (NOW.wall, NOW.wall + 60)
    assert (view.attempt, view.outcome, view.started_at, view.finished_at) == (0, None, None, None)
    assert await store.view(JobId(2)) is None


async def test_class_job_shows_its_target_and_arguments(store):
    await put(store, new(1, argv=None, target="app.tasks:clean", arguments='{"args": [1]}'))

    view = await store.view(JobId(1))

    assert (view.kind, view.argv, view.target, view.arguments) == (
        "class",
        None,
        "app.tasks:clean",
        '{"args": [1]}',
    )


async def test_user_without_a_name_is_shown_as_a_number(store):
    await put(store, new(1, uid=os.getuid()), new(2, uid=UID))

    assert (await store.view(JobId(1))).user == pwd.getpwuid(os.getuid()).pw_name
    assert (await store.view(JobId(2))).user == str(UID)


async def test_view_and_attempts_follow_the_life_of_a_job(store):
    await put(store, new(1))
    await store.commit(
        WriteBatch(now=NOW, saves=saves(a_job(1, State.RUNNING, attempt=1)), attempts=[first_attempt(1)])
    )
    view = await store.view(JobId(1))
    assert (view.state, view.attempt, view.started_at, view.outcome) == (State.RUNNING, 1, NOW.wall + 1, None)

    await store.commit(WriteBatch(now=NOW, pids=[AttemptPid(JobId(1), 1, 4711, NOW.wall + 2)]))
    (attempt,) = await store.attempts(JobId(1), 0, 10)
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
    )
    failed = a_job(1, State.FAILED, attempt=1)
    await store.commit(
        WriteBatch(now=NOW, ends=[end], saves=saves(failed, at=NOW.wall + 40, reason="as an example"))
    )
    view = await store.view(JobId(1))
    assert (view.state, view.outcome, view.exit_code, view.signal) == (State.FAILED, Outcome.SIGNAL, None, 9)
    assert (view.finished_at, view.reason) == (NOW.wall + 3, "as an example")  # not when it was saved
    (attempt,) = await store.attempts(JobId(1), 0, 10)
    assert (attempt.outcome, attempt.signal, attempt.started_at) == (Outcome.SIGNAL, 9, NOW.wall + 2)
    assert (attempt.user_seconds, attempt.system_seconds) == (0.25, 0.5)
    assert (attempt.max_rss_bytes, attempt.log_bytes) == (1 << 40, 17)
    assert (attempt.whole_tree, attempt.memory_peak_bytes) == (True, 1 << 41)

    await move(store, 1, State.QUEUED, attempt=1)
    view = await store.view(JobId(1))
    assert (view.state, view.finished_at, view.reason, view.outcome) == (
        State.QUEUED,
        None,
        None,
        Outcome.SIGNAL,
    )


async def test_attempt_reassigned_to_another_launcher_keeps_its_slot(store):
    running = a_job(1, State.RUNNING, attempt=1)
    await put(store, new(1))
    await store.commit(WriteBatch(now=NOW, saves=saves(running), attempts=[first_attempt(1, slot=3)]))

    await store.commit(WriteBatch(now=NOW, relaunched=[first_attempt(1, slot=3, launcher="boot:other")]))

    assert (await unfinished(store), await store.last_id()) == ([UnfinishedJob(running, 3, "boot:other")], 1)


async def test_ended_attempt_belongs_to_no_launcher(store):
    await put(store, new(1))
    end = AttemptEnd(job=JobId(1), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall + 2, pid=4711)
    done = a_job(1, State.SUCCEEDED, attempt=1)

    await store.commit(WriteBatch(now=NOW, saves=saves(done), attempts=[first_attempt(1)], ends=[end]))

    assert await sql(store, "SELECT slot, launcher, pid FROM attempts") == [(1, None, 4711)]


async def test_end_of_an_attempt_without_a_move_of_its_job_raises(store):
    await put(store, new(1))
    end = AttemptEnd(job=JobId(1), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall + 2)

    with pytest.raises(LookupError, match="its job was not moved"):
        await store.commit(WriteBatch(now=NOW, attempts=[first_attempt(1)], ends=[end]))

    assert await sql(store, "SELECT slot FROM attempts") == []


async def test_attempts_are_read_in_parts(store):
    await put(store, new(1))
    attempts = [NewAttempt(JobId(1), number, 1, "launcher", NOW.wall) for number in range(1, 6)]
    await store.commit(WriteBatch(now=NOW, attempts=attempts))

    assert [attempt.attempt for attempt in await store.attempts(JobId(1), 0, 2)] == [1, 2]
    assert [attempt.attempt for attempt in await store.attempts(JobId(1), 2, 10)] == [3, 4, 5]
    assert await store.attempts(JobId(2), 0, 10) == []


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
        await store.commit(WriteBatch(now=NOW, saves=saves(job), attempts=attempts, ends=[end]))
        assert await store.result(JobId(1)) == (result, raised)

    assert [attempt.error for attempt in await store.attempts(JobId(1), 0, 10)] == [error, None]
    await move(store, 1, State.RUNNING, attempt=3)
    assert await store.result(JobId(1)) == (None, None)


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

    assert {view.state for view in await store.list(List(id=1), UID)} == set(State)


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
    assert await ids(store, name="[!b]*") == [3]
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

    assert await store.latest(UID) == 2
    assert await store.latest(UID + 1) == 3
    assert await store.latest(UID + 2) is None


async def test_counts_follow_every_change_of_state(store):
    assert await store.counts() == dict.fromkeys(map(str, State), 0)

    await put(store, *(new(number) for number in range(1, 5)), new(5, due=NOW.elapsed + 1))
    await move(store, 1, State.RUNNING, attempt=1)
    await move(store, 1, State.SUCCEEDED, attempt=1)
    await move(store, 2, State.QUEUED, priority=5)
    await move(store, 3, State.CANCELLED)
    await store._writer.call(lambda db: db.execute("DELETE FROM jobs WHERE id = 3").rowcount)

    expected = {State.QUEUED: 2, State.SUCCEEDED: 1, State.SCHEDULED: 1}
    assert await store.counts() == {str(state): expected.get(state, 0) for state in State}


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
        group.create_task(store._writer.call(write_slowly))
        await asyncio.to_thread(began.wait, 30)
        async with asyncio.timeout(10):
            assert (await store.view(JobId(1))).state is State.QUEUED
            assert await ids(store, states=[State.QUEUED]) == [1]
        continue_.set()
    assert (await store.view(JobId(1))).state is State.FAILED


async def test_reading_connection_cannot_write(store):
    with pytest.raises(StoreBroken, match="readonly"):
        await store._reader.call(lambda db: db.execute("DELETE FROM jobs"))


# --- crashes and failing disks ---------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from bgd.core.job import Job, JobId, Now, RetryPolicy, State
from bgd.core.spec import JobSpec
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import WriteBatch, NewJob
from bgd.daemon.storage.store import Store

async def main():
    store = await Store.open(sys.argv[1])
    number, failures = 1, 0
    while failures < 3:
        jobs = [Job(JobId(number + step), State.QUEUED, "default", 0, RetryPolicy()) for step in range(3)]
        new = [NewJob(job, JobSpec(argv=("true", "x" * 500)), 0, 0.0) for job in jobs]
        try:
            await store.commit(WriteBatch(now=Now(0.0, 0.0), new=new))
        except StoreBroken as broken:
            failures += 1
            print("broken:", broken, flush=True)
        else:
            number += 3
            print(number - 1, flush=True)
    await store.close()

asyncio.run(main())
"""


def start_writer(path, *, most_bytes=None):
    limit = [] if most_bytes is None else ["prlimit", f"--fsize={most_bytes}"]
    return subprocess.Popen(
        [*limit, sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


async def check_nothing_acknowledged_is_lost(path, acknowledged):
    store = await Store.open(path)
    jobs, last_id = await unfinished(store), await store.last_id()
    assert [item.job.id for item in jobs] == list(range(1, last_id + 1))
    assert last_id >= acknowledged
    assert last_id % 3 == 0  # no half batch
    assert await sql(store, "PRAGMA integrity_check") == [("ok",)]
    assert (await store.counts())["queued"] == last_id
    await store.close()


@pytest.mark.parametrize("commits", [1, 40, 400])
async def test_killed_writer_loses_nothing_it_acknowledged(path, commits):
    with start_writer(path) as writer:
        acknowledged = [int(writer.stdout.readline()) for _ in range(commits)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += map(int, writer.stdout.read().split())

    await check_nothing_acknowledged_is_lost(path, acknowledged[-1])


async def test_disk_that_takes_no_more_breaks_the_store_for_good_without_loss(path):
    with start_writer(path, most_bytes=300_000) as writer:
        lines = writer.stdout.read().splitlines()

    acknowledged = [int(line) for line in lines if line.isdecimal()]
    failures = [line for line in lines if not line.isdecimal()]
    assert lines == [*map(str, acknowledged), *failures]
    assert len(failures) == 3
    assert all(line.startswith(f"broken: database {path}: disk I/O error; ") for line in failures)
    await check_nothing_acknowledged_is_lost(path, acknowledged[-1])


async def test_lack_of_threads_is_reported_in_one_line(tmp_path, monkeypatch):
    def start(_thread):
        raise RuntimeError("can't start new thread")

    store = await Store.open(str(tmp_path / "bgd.db"))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(Full, match=r"no thread can be started \(can't start new thread\): try again"):
                await store.copy_to(str(tmp_path / "copy.db"))
            with pytest.raises(Full, match="no thread can be started"):
                await Store.open(str(tmp_path / "other.db"))
    finally:
        await store.close()


# --- durations ------------------------------------------------------------------------------------------


async def test_durations_are_on_a_clock_that_nobody_sets_even_in_the_next_boot(store):
    began = elapsed()
    await store.adopt_boot(Now(began - 60, NOW.wall), BOOT)
    await store.commit(WriteBatch(now=Now(began - 60, NOW.wall), new=[new(1), new(2)]))
    await store.adopt_boot(Now(began - 30, NOW.wall + 30), "second-boot")
    start = NewAttempt(JobId(1), 1, 1, "boot:launcher", 0.0)
    running = saves(a_job(1, State.RUNNING, attempt=1))
    await store.commit(WriteBatch(now=Now(began - 20, 0.0), saves=running, attempts=[start]))

    job, waiting = await store.view(JobId(1)), await store.view(JobId(2))
    (attempt,) = await store.attempts(JobId(1), 0, 10)

    since = elapsed() - began
    assert job.waited_seconds == pytest.approx(40)
    assert 20 <= job.run_seconds <= attempt.run_seconds <= 20 + since + 0.001
    assert 60 <= waiting.waited_seconds + 0.001 <= 60.002 + since
    assert waiting.run_seconds is None


async def test_run_begins_when_the_launcher_says_and_is_unknown_if_nobody_saw_its_end(store):
    now = Now(elapsed(), NOW.wall)
    await store.adopt_boot(now, BOOT)
    await store.commit(WriteBatch(now=now, new=[new(1)]))
    running, pid = saves(a_job(1, State.RUNNING, attempt=1)), AttemptPid(JobId(1), 1, 7, 0.0, now.elapsed - 9)
    await store.commit(WriteBatch(now=now, saves=running, attempts=[first_attempt(1)]))
    await store.commit(WriteBatch(now=now, pids=[pid]))
    assert (await store.view(JobId(1))).run_seconds >= 9

    end = AttemptEnd(job=JobId(1), attempt=1, outcome=Outcome.UNKNOWN, finished_at=NOW.wall)
    await store.commit(WriteBatch(now=now, saves=saves(a_job(1, State.FAILED, attempt=1)), ends=[end]))

    assert (await store.view(JobId(1))).run_seconds is None
