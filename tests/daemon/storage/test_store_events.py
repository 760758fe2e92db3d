"""The change stream and the statistics made from it, as the store keeps them."""

from __future__ import annotations

import sqlite3

import pytest

from bgd.core.job import JobId, Outcome, State
from bgd.core.schedule_spec import Result
from bgd.core.schedules import Occurrence
from bgd.daemon.storage import change_stream, summaries
from bgd.daemon.storage.change_stream import EVENTS_KEPT
from bgd.daemon.storage.records import (
    AttemptEnd,
    JobEvent,
    NewAttempt,
    Transaction,
)
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.wire.launching import AttemptKey, AttemptStarted
from bgd.wire.replies import Stats
from bgd.wire.requests import GetStats
from bgd.wire.views import EventView, GroupStats, ScheduleEvent
from tests.daemon.storage.builders import BOOT, NOW, a_job, move, new, put, saves, submitted

ASKED = GetStats(id=1, window=60.0)


def event(number, what="submit", state=State.QUEUED, *, at=NOW.wall, attempt=0, outcome=None):
    return JobEvent(at, JobId(number), what, state, attempt, outcome, None)


async def append(store, *events):
    await store.commit(Transaction(now=NOW, events=list(events)))


async def ids_of_events(store, after=0, limit=10):
    return [found.id for found in await store.read(change_stream.read_events, after, limit)]


async def run(store, number, *, waited, took, outcome=Outcome.SUCCEEDED, attempt=1, at=NOW.wall):
    """Start and end an attempt, with the event of its end at `at`."""
    job, started_at = JobId(number), NOW.wall + waited
    end = AttemptEnd(
        job=job, attempt=attempt, outcome=outcome, finished_at=started_at + took, run_seconds=took
    )
    state = State.SUCCEEDED if outcome is Outcome.SUCCEEDED else State.FAILED
    await store.commit(
        Transaction(
            now=NOW,
            saves=saves(a_job(number, state, attempt=attempt)),
            attempts=[NewAttempt(job, attempt, 1, "launcher", NOW.wall)],
            pids={
                job: AttemptStarted(AttemptKey("", job, attempt), 1, started_at, since=NOW.elapsed + waited)
            },
            ends=[end],
            events=[event(number, "end", state, at=at, attempt=attempt, outcome=outcome)],
        )
    )


async def test_events_are_read_in_order_and_in_parts(store):
    await append(store, event(7), event(8, at=NOW.wall + 1))
    await append(
        store, JobEvent(NOW.wall + 2, JobId(7), "give up", State.FAILED, 2, Outcome.EXIT, "an example")
    )

    assert await ids_of_events(store) == [1, 2, 3]
    assert await ids_of_events(store, limit=2) == [1, 2]
    assert await ids_of_events(store, after=2) == [3]
    assert await store.read(change_stream.read_events, 2, 10) == [
        EventView(
            id=3,
            at=NOW.wall + 2,
            job=7,
            what="give up",
            state=State.FAILED,
            attempt=2,
            outcome=Outcome.EXIT,
            reason="an example",
        )
    ]


async def test_events_of_schedules_follow_those_of_jobs_in_one_series(store):
    missed = Occurrence(1.5, Result.MISSED, "bgd was not running", 3, "nightly")
    late = Occurrence(2.5, Result.RAN, schedule="hourly", job=JobId(7), late=True)
    await store.commit(Transaction(now=NOW, events=[event(7)], occurrences=[missed, late]))
    await append(store, event(8))

    told = await store.read(change_stream.read_events, 1, 10)
    assert told[:2] == [
        ScheduleEvent(
            id=2,
            at=NOW.wall,
            schedule="nightly",
            outcome="missed",
            due_at=1.5,
            reason="bgd was not running",
            count=3,
        ),
        ScheduleEvent(id=3, at=NOW.wall, schedule="hourly", outcome="late", due_at=2.5, job=7),
    ]
    assert told[2].id == store.position == 4
    assert [found.id for found in await store.search(change_stream.events_of, JobId(7), 0)] == [1]
    assert (await store.read(summaries.stats, ASKED, 0.0)).outcomes == {}


async def test_events_of_one_job_are_found_among_those_of_all_others(store):
    await append(store, *(event(number) for number in range(1, 2_600)))
    await append(store, event(2_000), event(3), event(2_000))

    for job, expected in ((2_000, [2_000, 2_600, 2_602]), (3, [3, 2_601]), (4_000, [])):
        found = await store.search(change_stream.events_of, JobId(job), 0)
        assert [(each.id, each.job) for each in found] == [(number, job) for number in expected]
    later = await store.search(change_stream.events_of, JobId(2_000), 2_600)
    assert [each.id for each in later] == [2_602]


async def test_events_of_a_failed_batch_do_not_exist(store):
    await append(store, event(1))
    with pytest.raises(sqlite3.IntegrityError):
        await store.commit(submitted(new(7), new(7), events=[event(98)]))

    await append(store, event(2))

    assert [(found.id, found.job) for found in await store.read(change_stream.read_events, 0, 10)] == [
        (1, 1),
        (2, 2),
    ]


async def test_ids_of_events_continue_after_a_restart(path):
    store = await Store.open(path)
    assert await store.read(change_stream.event_bounds) == (1, 0)
    await append(store, event(1), event(2))
    assert await store.read(change_stream.event_bounds) == (1, 2)
    await store.close()

    store = await Store.open(path)
    await append(store, event(3))
    assert await ids_of_events(store) == [1, 2, 3]
    assert await store.read(change_stream.event_bounds) == (1, 3)
    await store.close()


async def test_only_the_newest_events_are_kept(store):
    await append(store, *(event(number) for number in range(1, EVENTS_KEPT + 1)))
    assert await store.read(change_stream.event_bounds) == (1, EVENTS_KEPT)

    await append(store, *(event(1) for _ in range(999)))
    assert await store.read(change_stream.event_bounds) == (
        1,
        EVENTS_KEPT + 999,
    )  # not each one: deleting costs a statement
    await append(store, event(1), event(1))

    assert await store.read(change_stream.event_bounds) == (1_001, EVENTS_KEPT + 1_001)  # whole blocks
    assert len(await store.read(change_stream.read_events, 0, 2 * EVENTS_KEPT)) == EVENTS_KEPT + 1


async def test_many_events_of_one_transaction_do_not_empty_the_stream(store):
    await append(store, event(1))
    await append(store, *(event(2) for _ in range(EVENTS_KEPT + 500)))
    await append(store, event(3))

    oldest, newest = await store.read(change_stream.event_bounds)
    assert newest - EVENTS_KEPT - 999 <= oldest <= newest - EVENTS_KEPT + 1
    assert [found.job for found in await store.read(change_stream.read_events, newest - 2, 10)] == [2, 3]


async def test_parts_begin_and_end_inside_the_events_of_a_transaction(store):
    await append(store, *(event(number) for number in range(1, 6)))
    await append(store, *(event(number) for number in range(6, 8)))

    assert await ids_of_events(store, after=2, limit=2) == [3, 4]
    assert await ids_of_events(store, after=3, limit=3) == [4, 5, 6]
    assert await ids_of_events(store, after=5) == [6, 7]
    assert await ids_of_events(store, after=7) == []


async def test_stats_are_of_attempts_that_ended_within_the_window(store):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, *(new(number) for number in range(1, 25)))
    await move(store, 24, State.HELD)
    await run(store, 21, waited=900, took=900, at=NOW.wall - 1)  # before the window
    for number in range(1, 21):
        await run(store, number, waited=number, took=10 * number)
    await run(
        store, 22, waited=1e6, took=5, attempt=2, outcome=Outcome.TIMEOUT
    )  # not a first attempt, so it has not waited
    await append(store, event(23, "note"))

    found = await store.search(summaries.stats, ASKED, NOW.wall)

    assert found == Stats(
        id=1,
        window=60.0,
        counts=dict.fromkeys(map(str, State), 0) | {"queued": 1, "succeeded": 21, "failed": 1, "held": 1},
        outcomes={"succeeded": 20, "timeout": 1},
        wait_median=10.0,
        wait_p95=19.0,
        run_median=100.0,
        run_p95=190.0,
        oldest_queued_at=NOW.wall,
        queues=[
            GroupStats(name="default", ended=21, failed=1, wait_median=10.0, run_median=100.0, run_p95=190.0)
        ],
    )


async def test_stats_are_told_by_queue_and_by_name(store):
    await store.write(adopt_boot, NOW, BOOT)
    specs = [{"name": "a"}, {"name": "a", "queue": "mail"}, {}, {"queue": "mail"}]
    await put(store, *(new(number, **fields) for number, fields in enumerate(specs, start=1)))
    await run(store, 1, waited=1, took=10)
    await run(store, 2, waited=2, took=20, outcome=Outcome.EXIT)
    await run(store, 3, waited=3, took=30, outcome=Outcome.CANCELLED)
    await run(store, 4, waited=4, took=40)
    for number in (2, 4):
        await move(store, number, State.FAILED, attempt=1, queue="mail")

    found = await store.search(summaries.stats, ASKED, NOW.wall)

    assert [(each.name, each.ended, each.failed, each.run_p95) for each in found.queues] == [
        ("default", 2, 0, 30.0),
        ("mail", 2, 1, 40.0),
    ]
    assert found.names == [
        GroupStats(name="a", ended=2, failed=1, wait_median=1.0, run_median=10.0, run_p95=20.0)
    ]


async def test_stats_of_an_empty_store_are_none(store):
    assert await store.search(summaries.stats, ASKED, 0.0) == Stats(
        id=1,
        window=60.0,
        counts=dict.fromkeys(map(str, State), 0),
        outcomes={},
        wait_median=None,
        wait_p95=None,
        run_median=None,
        run_p95=None,
        oldest_queued_at=None,
    )


async def test_attempt_of_a_removed_job_still_counts(store):
    await put(store, new(1))
    await run(store, 1, waited=1, took=1)

    await store.commit(Transaction(now=NOW, removed=[a_job(1)]))

    found = await store.search(summaries.stats, ASKED, NOW.wall)
    assert (found.outcomes, found.run_median) == ({"succeeded": 1}, None)


async def test_oldest_queued_job_is_the_one_with_the_lowest_id(store):
    await put(store, new(1, at=1.0), new(2, at=3.0), new(3, at=2.0))
    await move(store, 1, State.HELD)

    assert (await store.search(summaries.stats, ASKED, 0.0)).oldest_queued_at == 3.0
