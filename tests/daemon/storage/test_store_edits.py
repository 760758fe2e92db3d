"""Jobs that are edited or removed, and settings of queues, as the store keeps them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.core.job import JobId, Outcome, State
from bgd.core.retry import with_policy
from bgd.daemon.storage import read, summaries
from bgd.daemon.storage.records import AttemptEnd, QueueControls, QueueSetting, StoredSpec, Transaction
from bgd.daemon.storage.store import Store
from bgd.wire.views import JobError
from tests.daemon.storage.builders import (
    NOW,
    POLICY,
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

ENV = {"A": "1"}
TABLES = {"jobs": "id", "specs": "job", "tags": "job", "attempts": "job", "results": "job"}


async def rows_of(store, number):
    """Return the names of the tables that have rows of the job."""
    found = set()
    for table, column in TABLES.items():
        if await sql(store, f"SELECT 1 FROM {table} WHERE {column} = {number}"):
            found.add(table)
    return found


async def put_finished(store, number, **fields):
    """Add a failed job with an attempt and an error."""
    error = JobError("ValueError", "no such file", None)
    end = AttemptEnd(
        job=JobId(number), attempt=1, outcome=Outcome.ERROR, finished_at=NOW.wall + 2, error=error
    )
    await put(store, new(number, **fields))
    await store.commit(
        Transaction(
            now=NOW,
            saves=saves(a_job(number, State.FAILED, attempt=1)),
            attempts=[first_attempt(number)],
            ends=[end],
        )
    )


async def test_edited_job_is_read_and_listed_by_its_new_spec(store):
    before = new(1, name="old", tags=("a", "b"), env={"B": "2"}).spec
    after = replace(before, argv=("/bin/true",), name="fresh", tags=("b", "c", "c"), env=ENV)
    await put(store, new(1, name="old", tags=("a", "b"), env={"B": "2"}), new(2, tags=("a",), env=ENV))

    found = await store.commit(Transaction(now=NOW, edited={JobId(1): after}, wanted=[JobId(1)]))

    assert found[JobId(1)] == await store.read(read.read_spec, JobId(1))
    assert found[JobId(1)] == StoredSpec.of(with_policy(after, POLICY), UID, NOW.wall)
    view = await store.read(read.view, JobId(1))
    assert (view.argv, view.name, view.tags) == (["/bin/true"], "fresh", ["b", "c", "c"])
    assert [await ids(store, tag=tag) for tag in "abc"] == [[2], [1], [1]]
    assert await ids(store, name="fresh") == [1]
    assert await ids(store, name="old") == []
    assert await sql(store, "SELECT environment FROM specs") == [(2,), (2,)]


async def test_job_can_be_new_and_edited_in_one_batch(store):
    item = new(1, name="old")
    edited = replace(item.spec, name="fresh")

    await store.commit(submitted(item, edited={JobId(1): edited}))

    assert (await store.read(read.read_spec, JobId(1))).spec == with_policy(edited, POLICY)
    assert await store.read(read.read_spec, JobId(2)) is None


async def test_batch_that_edits_a_missing_job_changes_nothing(store):
    await put(store, new(1, name="old"))
    fresh = replace(new(1).spec, name="fresh", env=ENV)

    with pytest.raises(LookupError, match="1 of 2 rows"):
        await store.commit(Transaction(now=NOW, edited={JobId(1): fresh, JobId(99): fresh}))

    assert (await store.read(read.view, JobId(1))).name == "old"
    await store.commit(Transaction(now=NOW, edited={JobId(1): fresh}))  # the environment counts as not stored
    assert (await store.read(read.read_spec, JobId(1))).whole() == with_policy(fresh, POLICY)


async def test_removed_job_leaves_no_rows_and_others_keep_theirs(store):
    await put_finished(store, 1, tags=("a", "b"), env=ENV)
    await put_finished(store, 2, tags=("a",), env=ENV)
    assert await rows_of(store, 1) == set(TABLES)

    found = await store.commit(Transaction(now=NOW, removed=[a_job(1)], wanted=[JobId(1)]))

    assert list(found) == [1]  # the wanted spec is read before it is deleted
    assert await rows_of(store, 1) == set()
    assert await rows_of(store, 2) == set(TABLES)
    assert (await store.read(summaries.counts))["failed"] == 1
    assert await ids(store, tag="a") == [2]
    assert (await store.read(read.read_spec, JobId(2))).env == ENV
    assert (await unfinished(store), await store.read(read.last_id)) == ([], 2)


async def test_job_can_be_removed_twice(store):
    await put_finished(store, 1)

    await store.commit(Transaction(now=NOW, removed=[a_job(1), a_job(1)]))
    await store.commit(Transaction(now=NOW, removed=[a_job(1)]))

    assert (await store.read(summaries.counts))["failed"] == 0


async def test_controls_are_those_that_were_saved_last(path):
    first = QueueControls(
        slots=7,
        paused=True,
        queues={
            "narrow": QueueSetting(has_slots=True, slots=1),
            "wide": QueueSetting(has_slots=True, slots=None),
            "later": QueueSetting(paused=True),
        },
    )
    last = QueueControls(queues={"later": QueueSetting(has_slots=True, slots=2, paused=True)})
    store = await Store.open(path)
    assert await store.read(read.controls) == QueueControls()
    for said in (first, last):
        await store.commit(Transaction(now=NOW, controls=said))
        await store.commit(Transaction(now=NOW))  # without controls
        await store.close()
        store = await Store.open(path)
        assert await store.read(read.controls) == said
    await store.close()


async def test_edit_and_the_saved_job_are_written_together(store):
    await put(store, new(1, queue="slow"))
    spec = replace(new(1).spec, queue="quick", name="fresh")

    await store.commit(
        Transaction(now=NOW, saves=saves(a_job(1, State.HELD, queue="quick")), edited={JobId(1): spec})
    )

    view = await store.read(read.view, JobId(1))
    assert (view.queue, view.name, view.state) == ("quick", "fresh", State.HELD)
    await move(store, 1, State.QUEUED, queue="quick")
    assert await ids(store, queue="quick", name="fresh") == [1]
