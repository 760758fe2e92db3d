"""Inboxes on disk: which ends are written, what they cost, and when they go."""

from __future__ import annotations

from contextlib import closing

import pytest

from bgd.core.job import JobId, Outcome, State
from bgd.daemon.storage import change_stream, inbox, recovery, schema, write
from bgd.daemon.storage.records import AttemptEnd, Transaction
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.wire.requests import AcknowledgeEnds
from tests.daemon.storage.builders import (
    BOOT,
    NOW,
    UID,
    a_job,
    first_attempt,
    new,
    put,
    saves,
    sql,
    submitted,
)
from tests.daemon.storage.test_schema_versions import lay_down


async def run(store, *numbers, state=State.SUCCEEDED):
    """Start and end these jobs, in one transaction each."""
    running = [a_job(number, State.RUNNING, attempt=1) for number in numbers]
    await store.commit(
        Transaction(now=NOW, saves=saves(*running), attempts=[first_attempt(number) for number in numbers])
    )
    ended = [a_job(number, state, attempt=1) for number in numbers]
    ends = [
        AttemptEnd(job=JobId(number), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall)
        for number in numbers
    ]
    transaction = Transaction(now=NOW, saves=saves(*ended, before=State.RUNNING), ends=ends)
    await store.commit(transaction)
    return transaction


async def events(store, session="one", uid=UID):
    return [(end.job, end.redelivered) for end in await store.read(inbox.unread, uid, session, 100)]


async def test_only_ends_of_jobs_with_a_session_are_written_and_their_sessions_named(store):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1), new(2, session="one"), new(3, session="two"), new(4, session="one", uid=UID + 1))
    saved = await run(store, 1, 2, 3, 4)

    assert saved.sessions == {(UID, "one"), (UID, "two"), (UID + 1, "one")}
    assert [await events(store), await events(store, "two"), await events(store, "one", UID + 1)] == [
        [(2, False)],
        [(3, False)],
        [(4, False)],
    ]


@pytest.mark.parametrize(("session", "statements"), [(None, 0), ("one", 1)])
def test_jobs_without_a_session_cost_no_statement(path, session, statements):
    with closing(schema.open_writable(path)) as db:
        adopt_boot(db, NOW, BOOT)
        writer = write.TransactionWriter()
        writer.save(db, submitted(new(1, session=session), new(2)))
        writer.save(db, Transaction(now=NOW, saves=saves(a_job(1, State.CANCELLED))))  # it looks once
        seen: list[str] = []
        db.set_trace_callback(seen.append)
        writer.save(db, Transaction(now=NOW, saves=saves(a_job(2, State.CANCELLED))))

    assert sum("inbox" in each or "session" in each for each in seen) == statements


async def test_an_end_after_a_restart_of_the_daemon_is_written(path):
    store = await Store.open(path)
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1, session="one"))
    await store.close()
    store = await Store.open(path)
    await run(store, 1)

    assert await events(store) == [(1, False)]
    await store.close()


async def test_jobs_of_an_upgraded_database_have_no_session_and_new_ones_may(path):
    lay_down(path)
    store = await Store.open(path)
    await store.write(adopt_boot, NOW, BOOT)
    assert await sql(store, "SELECT count(*), count(session) FROM jobs") == [(6, 0)]
    await put(store, new(100, session="one"), new(101))
    await run(store, 100, 101)

    assert await events(store) == [(100, False)]
    await store.close()


async def test_a_transaction_that_is_undone_writes_no_end_and_the_next_one_does(store, monkeypatch):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1))
    await run(store, 1)
    second = new(2, session="one")
    with monkeypatch.context() as patch:
        patch.setattr(change_stream, "append_events", None)
        with pytest.raises(TypeError):
            await store.commit(submitted(second, events=[None]))
    await put(store, second)
    await run(store, 2)

    assert await events(store) == [(2, False)]


async def test_ends_are_deleted_when_they_are_old_and_the_oldest_if_they_are_too_many(store, monkeypatch):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, *(new(number, session="one") for number in range(1, 6)))
    for number in range(1, 6):
        await run(store, number)
    monkeypatch.setattr(inbox, "MAX_UNREAD", 3)

    await store.write(inbox.delete_old, NOW.elapsed + 10, 11.0)
    assert await events(store) == [(3, False), (4, False), (5, False)]
    await store.write(inbox.delete_old, NOW.elapsed + 1000, None)
    assert await events(store) == [(3, False), (4, False), (5, False)]
    await store.write(inbox.delete_old, NOW.elapsed + 10, 10.0)
    assert await events(store) == []


async def test_what_was_handed_out_is_told_and_acknowledged_ends_of_others_stay(store):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1, session="one"), new(2, session="one"))
    await run(store, 1, 2)

    assert await store.write(inbox.mark_handed_out, [1, 2]) == {1: False, 2: False}
    assert await store.write(inbox.acknowledge, UID + 1, AcknowledgeEnds(1, [1, 2])) == []
    assert await store.write(inbox.acknowledge, UID, AcknowledgeEnds(1, [1, 99])) == [1]
    assert await store.write(inbox.mark_handed_out, [1, 2]) == {2: True}
    assert await events(store) == [(2, True)]
    assert await store.write(inbox.acknowledge, UID, AcknowledgeEnds(1, session="two", jobs=[2])) == []
    assert await store.write(inbox.acknowledge, UID, AcknowledgeEnds(1, session="one", jobs=[1, 2])) == [2]
    assert await events(store) == []


@pytest.mark.parametrize("had_ends", [False, True])
async def test_after_a_recovery_ends_count_as_handed_out_and_numbers_are_new(store, had_ends):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1, session="one"), new(2, session="one"))
    if had_ends:
        await run(store, 1)
    await store.write(recovery.mark_as_outdated, 0, 0)
    await run(store, 2)

    assert await events(store) == [(1, True), (2, False)][not had_ends :]
    assert await sql(store, "SELECT max(event) > 1000000 FROM inbox") == [(1,)]
    batch_seq = "SELECT seq >= 1000000 FROM sqlite_sequence WHERE name = 'job_batches'"
    assert await sql(store, batch_seq) == [(1,)]
