"""One row that cannot be read holds back nothing else: it is set aside, named, and kept."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import msgspec
import pytest

from bgd.core.job import JobId, State
from bgd.daemon.storage import read, summaries, unreadable
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import UNREADABLE, Transaction
from bgd.daemon.storage.store import Store
from tests.daemon.storage.builders import NOW, a_job, first_attempt, ids, new, put, restored, saves, sql


@pytest.fixture
async def damaged(path):
    """Change a database of three jobs, the third of which runs, by these statements; return its store."""
    opened = []

    async def change(*statements):
        store = await Store.open(path)
        await put(store, new(1, name="one"), new(2), new(3))
        running = saves(a_job(3, State.RUNNING, attempt=1))
        await store.commit(Transaction(now=NOW, saves=running, attempts=[first_attempt(3)]))
        await store.close()
        with closing(sqlite3.connect(path)) as db, db:
            for statement in statements:
                db.execute(statement)
        opened.append(await Store.open(path))
        return opened[0]

    yield change
    for store in opened:
        await store.close()


async def test_spec_that_cannot_be_read_is_replaced_and_the_name_is_still_there(damaged, caplog):
    store = await damaged("UPDATE specs SET spec = x'c1c1' WHERE job = 1")

    assert await ids(store) == [1, 2, 3][::-1]
    view = await store.read(read.view, JobId(1))
    assert (view.name, view.argv) == ("one", ["(unreadable)"])
    assert await store.read(unreadable.stored) == [f"job 1: {caplog.messages[0].split('job 1: ')[1]}"]
    [(kept,)] = await sql(store, "SELECT kept FROM set_aside")
    assert msgspec.msgpack.decode(kept)[1] == b"\xc1\xc1"


@pytest.mark.parametrize(
    ("statement", "state", "problem"),
    [
        ("UPDATE jobs SET policy = x'80' WHERE id = 1", State.QUEUED, "its policy cannot be read (Expected"),
        ("UPDATE jobs SET waits = 7 WHERE id = 1", State.QUEUED, "its waits cannot be read (Expected `bytes"),
        ("UPDATE jobs SET queue = CAST(x'ff' AS TEXT) WHERE id = 1", State.QUEUED, "its queue cannot be"),
        ("UPDATE jobs SET state = 'lost' WHERE id = 1", State.HELD, "its state cannot be read (Invalid enum"),
        (
            "UPDATE jobs SET priority = 'high' WHERE id = 1",
            State.QUEUED,
            "its priority cannot be read (Expected",
        ),
        ("DELETE FROM specs WHERE job = 1", State.QUEUED, "its spec is missing"),
    ],
)
async def test_job_that_cannot_be_read_is_to_be_held_and_others_are_restored(
    damaged, statement, state, problem
):
    store = await damaged(statement)

    await store.read(read.read_specs, [JobId(1)])
    jobs = {job.id: job.state for job in await restored(store)}
    assert jobs == {1: state, 2: State.QUEUED, 3: State.RUNNING}
    [(job, reason)] = (await store.read(unreadable.jobs_to_hold)).items()
    assert job == 1
    assert reason.startswith(f"set aside: {problem}")
    await store.write(unreadable.note_held)
    assert await store.read(unreadable.jobs_to_hold) == {}


async def test_running_job_whose_attempt_is_lost_is_held_because_it_may_have_run(damaged):
    store = await damaged("DELETE FROM attempts")

    assert [job.state for job in await restored(store)] == [State.QUEUED, State.QUEUED, State.HELD]
    assert (await store.read(summaries.counts))["held"] == 1
    assert (await store.read(read.view, JobId(3))).reason.endswith(
        "it is running, and its attempt is missing"
    )


async def test_attempts_are_not_numbered_again_after_the_number_of_a_job_was_damaged(damaged):
    store = await damaged("UPDATE jobs SET state = 'queued', attempt = 0 WHERE id = 3")

    started = Transaction(
        now=NOW, saves=saves(a_job(3, State.RUNNING, attempt=1)), attempts=[first_attempt(3)]
    )
    with pytest.raises(sqlite3.IntegrityError):
        await store.commit(started)
    assert [job.attempt for job in await restored(store)] == [0, 0, 1]


async def test_environment_that_cannot_be_read_starts_no_job_without_it(damaged):
    store = await damaged(
        "INSERT INTO environments (id, hash, variables) VALUES (7, x'00', x'c1')",
        "UPDATE specs SET environment = 7 WHERE job = 1",
    )

    spec = await store.read(read.read_spec, JobId(1))
    assert spec.spec.argv == UNREADABLE.argv
    assert (await store.read(read.view, JobId(1))).argv == ["/bin/echo", "1"]


async def test_error_that_is_no_damage_is_still_an_error(damaged):
    store = await damaged()

    def has_a_bug(_db):
        raise KeyError("of a bug")

    with pytest.raises(KeyError, match="of a bug"):
        await store.read(has_a_bug)
    assert await store.read(unreadable.stored) == []


async def test_nothing_is_acknowledged_once_any_connection_has_found_damage(damaged, tmp_path):
    store = await damaged()
    other = tmp_path / "other.db"
    other.write_bytes(b"no database" * 1000)

    def find_damage(_db):
        with closing(sqlite3.connect(other)) as db:
            db.execute("SELECT * FROM jobs")

    acknowledged = asyncio.create_task(put(store, new(4)))
    await asyncio.sleep(0)  # it is on its way
    with pytest.raises(StoreBroken, match="file is not a database; `bgd --recover`"):
        await store.search(find_damage)
    assert acknowledged.done() or await asyncio.wait([acknowledged])
    for call in (
        store.read(read.last_id),
        store.search(read.last_id),
        put(store, new(5)),
        store.until_lost(),
    ):
        with pytest.raises(StoreBroken, match="file is not a database; `bgd --recover`"):
            await call


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM meta", "0 rows in place of one"),
        ("UPDATE meta SET generation = 'many'", "Expected `int`, got `str`"),
        ("UPDATE meta SET boot_id = CAST(x'ff' AS TEXT)", "Expected `str`, got `bytes`"),
    ],
)
async def test_database_without_its_one_row_is_refused_with_advice(damaged, statement, problem):
    with pytest.raises(StoreBroken, match=rf"damaged \(table meta: .*{problem}.*; `bgd --recover`"):
        await damaged(statement)
