"""The store: transactions, due times, specs, crashes and failing disks."""

from __future__ import annotations

import ast
import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import aiosqlite
import pytest

from bgd.core.job import JobId, Now, State
from bgd.core.retry import with_policy
from bgd.core.spec import MAX_DURATION
from bgd.daemon.storage import read, summaries
from bgd.daemon.storage.database import insert_rows
from bgd.daemon.storage.records import StoredSpec, Transaction, UnfinishedJob
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.errors import Full
from tests.daemon.storage.builders import (
    BOOT,
    NOW,
    POLICY,
    UID,
    a_job,
    first_attempt,
    move,
    new,
    put,
    restored,
    saves,
    sql,
    submitted,
    unfinished,
)

ROOT = Path(__file__).parents[3]


# --- writing ------------------------------------------------------------------------------------------


async def test_jobs_come_back_as_they_were_written(path):
    jobs = [
        a_job(1, State.QUEUED, queue="builds", priority=-7, attempt=1, failures=1),
        a_job(2, State.SCHEDULED, due=NOW.elapsed + 60.25, failures=2, unseen=1, attempt=3),
        a_job(3, State.RUNNING, attempt=1),
        a_job(4, State.STOPPING, attempt=1, making_way=True),
    ]
    store = await Store.open(path)
    await put(store, *(new(number) for number in range(1, 5)))
    await store.write(adopt_boot, NOW, BOOT)
    await store.commit(
        Transaction(now=NOW, saves=saves(*jobs), attempts=[first_attempt(3), first_attempt(4, slot=2)])
    )
    await store.close()

    store = await Store.open(path)
    found, last_id = await unfinished(store), await store.read(read.last_id)
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
    assert (await store.read(read.finished_jobs, [JobId(1)]))[1] == a_job(
        1, State.FAILED, attempt=3, failures=2
    )
    assert await store.read(read.finished_jobs, [JobId(2)]) == {}
    assert await store.read(read.finished_jobs, [JobId(3)]) == {}


async def test_ids_are_never_given_out_again_even_if_the_rows_are_gone(path):
    store = await Store.open(path)
    await put(store, new(1), new(7))
    await put(store, new(3))
    await store.write(lambda db: db.execute("DELETE FROM jobs").rowcount)
    await store.close()

    store = await Store.open(path)
    found = (await unfinished(store), await store.read(read.last_id))
    await store.close()

    assert found == ([], 7)


async def test_unfinished_jobs_are_read_by_pages(store, monkeypatch):
    monkeypatch.setattr(read, "_PAGE", 2)
    await put(store, *(new(number) for number in range(1, 6)))
    await move(store, 2, State.RUNNING)

    pages = [[(item.job.id, item.count) for item in page] async for page in store.unfinished()]

    assert pages == [[(2, 1)], [(1, 1), (3, 1)], [(4, 2)]]


async def test_queued_jobs_that_differ_only_by_their_ids_are_restored_as_one(store):
    await put(store, *map(new, [1, 2, 3, 5, 6, 7, 8]))
    await move(store, 6, State.QUEUED, priority=3)

    found = [(item.job.id, item.job.priority, item.count) for item in await unfinished(store)]

    assert found == [(1, 0, 3), (5, 0, 1), (6, 3, 1), (7, 0, 2)]


async def test_batch_that_fails_leaves_nothing_and_the_next_one_is_unaffected(store):
    env = {"A": "1"}
    with pytest.raises(LookupError, match="1 of 1 rows"):
        await store.commit(submitted(new(1, env=env), saves=saves(a_job(99))))
    assert await restored(store) == []

    await put(store, new(2, env=env))

    found = await store.commit(Transaction(now=NOW, wanted=[JobId(2)]))
    assert found[JobId(2)].env == env
    assert (await unfinished(store), await store.read(read.last_id)) == (
        [UnfinishedJob(new(2).job, None, None)],
        2,
    )


async def test_cancelled_commit_is_still_done(store):
    began, continue_ = threading.Event(), threading.Event()

    def hold_up(_):
        began.set()
        assert continue_.wait(30)

    async with asyncio.TaskGroup() as group:
        group.create_task(store.write(hold_up))
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


async def test_private_name_of_aiosqlite_is_used_once_and_does_what_is_expected():
    uses = [
        path.name
        for path in (ROOT / "bgd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "_tx"
    ]
    assert uses == ["database.py"]
    called = SimpleQueue[str]()

    async with aiosqlite.connect(":memory:") as connection:
        connection._tx.put_nowait((None, lambda: called.put("on the thread")))

        assert await asyncio.to_thread(called.get) == "on the thread"


# --- due times ----------------------------------------------------------------------------------------


async def due_after(path, due, now, boot):
    """Return the due time of a job that was due at `due` of the first boot, once restored at `now`."""
    store = await Store.open(path)
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1, due=due))
    await store.close()
    store = await Store.open(path)
    for _ in range(2):  # the second time the database is of this boot already
        await store.write(adopt_boot, now, boot)
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


# --- specs and environments ---------------------------------------------------------------------------


async def test_spec_is_read_back_in_the_transaction_that_starts_the_job(store):
    item = new(1, env={"PATH": "/bin"}, name="büro ☕", tags=("a", "b"), timeout=3.5, umask=0o27)
    await put(store, item)

    running = saves(a_job(1, State.RUNNING, attempt=1))
    found = await store.commit(
        Transaction(now=NOW, saves=running, attempts=[first_attempt(1)], wanted=[JobId(1), JobId(99)])
    )

    assert found == {1: StoredSpec.of(with_policy(item.spec, POLICY), UID, NOW.wall)}


async def test_no_environment_differs_from_an_empty_one(store):
    await put(store, new(1), new(2, env={}))

    found = await store.commit(Transaction(now=NOW, wanted=[JobId(1), JobId(2)]))

    assert found[JobId(1)].env is None
    assert found[JobId(2)].env == {}


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_any_number_of_rows_is_inserted_in_order(count):
    rows = [(number, f"row {number}") for number in range(count)]
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (n INTEGER, text TEXT)")

        insert_rows(db, "INSERT INTO t VALUES", "(?, ?)", iter(rows))

        assert db.execute("SELECT * FROM t").fetchall() == rows


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


# --- crashes and failing disks ------------------------------------------------------------------------


WRITER = """
import asyncio, sys
from bgd.core.job import Job, JobId, Now, RetryPolicy, State
from bgd.core.spec import JobSpec
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.database import insert_rows
from bgd.daemon.storage.records import StoredSpec, Transaction
from bgd.daemon.storage.store import Store

async def main():
    store = await Store.open(sys.argv[1])
    number, failures = 1, 0
    while failures < 3:
        jobs = [Job(JobId(number + step), State.QUEUED, "default", 0, RetryPolicy()) for step in range(3)]
        specs = {job.id: StoredSpec(JobSpec(argv=("true", "x" * 500)), 0, 0.0) for job in jobs}
        try:
            await store.commit(Transaction(now=Now(0.0, 0.0), new=jobs, specs=specs))
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
    jobs, last_id = await restored(store), await store.read(read.last_id)
    assert [job.id for job in jobs] == list(range(1, last_id + 1))
    assert last_id >= acknowledged
    assert last_id % 3 == 0  # no half batch
    assert await sql(store, "PRAGMA integrity_check") == [("ok",)]
    assert (await store.read(summaries.counts))["queued"] == last_id
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


async def test_failed_call_fails_its_caller_and_no_other(store):
    def fail(_):
        raise LookupError("a bug")

    async with asyncio.TaskGroup() as group:
        later = group.create_task(store.write(lambda _: "done"))
        with pytest.raises(LookupError, match="a bug"):
            await store.write(fail)

    assert later.result() == "done"


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


async def test_what_has_been_written_does_not_stay_in_memory_until_the_next_write(store):
    class Rows:
        pass

    rows = Rows()
    written = weakref.ref(rows)

    await store.write(lambda _db, _rows: None, rows)
    del rows

    assert written() is None
