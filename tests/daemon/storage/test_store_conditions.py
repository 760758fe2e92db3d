"""Conditions and limits of jobs, as the store keeps them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.core.job import Conditions, JobId, KeyLimit, Now, RetryPolicy, State
from bgd.daemon.storage import read
from bgd.daemon.storage.records import Transaction, UnfinishedJob
from bgd.daemon.storage.store import Store, adopt_boot
from tests.daemon.storage.builders import (
    BOOT,
    NOW,
    a_job,
    first_attempt,
    ids,
    move,
    new,
    put,
    restored,
    saves,
    unfinished,
)

EVERYTHING = Conditions(
    at=NOW.wall + 3600,
    expires=NOW.elapsed + 7200,
    after=(JobId(1), JobId(2)),
    after_any=(JobId(2), JobId(3)),
    key="nightly-backup",
    slots=3,
    limit=KeyLimit("customer:9", 2, skips=True),
    frees_key_at_start=True,
)


# What a finished job needs if it runs again
KEPT = replace(EVERYTHING, at=None, expires=None, after=(), after_any=())


async def test_conditions_come_back_as_they_were_written_and_changed(path):
    held = a_job(4, State.HELD, conditions=EVERYTHING, due=NOW.elapsed + 60)
    blocked = a_job(5, State.BLOCKED, conditions=Conditions(after_any=(JobId(4),)))
    running = a_job(6, State.RUNNING, attempt=1, conditions=Conditions(slots=2), suspended=True)
    store = await Store.open(path)
    await put(store, new(4), new(5), new(6, conditions=EVERYTHING))
    assert [job.conditions for job in await restored(store)] == [Conditions(), Conditions(), EVERYTHING]

    await store.commit(Transaction(now=NOW, saves=saves(held, blocked, running), attempts=[first_attempt(6)]))
    await store.close()

    store = await Store.open(path)
    assert (await unfinished(store), await store.read(read.last_id)) == (
        [
            UnfinishedJob(held, None, None),
            UnfinishedJob(blocked, None, None),
            UnfinishedJob(running, 1, "boot:launcher"),
        ],
        6,
    )
    await store.close()


async def test_revived_job_keeps_its_slots_and_its_key_and_waits_for_nothing(store):
    await put(store, new(9, conditions=EVERYTHING))
    await move(store, 9, State.CANCELLED, conditions=EVERYTHING)

    found = (await store.read(read.finished_jobs, [JobId(9)]))[9]

    assert found == a_job(9, State.CANCELLED, conditions=KEPT)


async def test_a_key_stays_after_the_end_unless_the_job_is_cancelled_or_removed(store):
    kept = Conditions(key="site", key_for=60.0)
    await put(store, *(new(number, conditions=kept) for number in (1, 2, 3)))
    await store.write(adopt_boot, NOW, BOOT)
    for number, state in ((1, State.SUCCEEDED), (2, State.FAILED), (3, State.CANCELLED)):
        await move(store, number, state, conditions=kept)

    async def keys(later=0.0):
        return await store.read(read.kept_keys, NOW.elapsed + later)

    assert await keys() == [("site", 1, NOW.elapsed + 60), ("site", 2, NOW.elapsed + 60)]
    assert await keys(60.0) == []
    await move(store, 2, State.CANCELLED, conditions=kept)  # it ran again
    await store.commit(Transaction(now=NOW, removed=[a_job(1)]))
    assert await keys() == []


async def test_view_has_all_limits(store):
    limits = {
        "nice": -5,
        "memory_max": 64 << 20,
        "cpu_max": 150,
        "pids_max": 9,
        "open_files": 99,
        "core_max": 0,
    }
    await put(store, new(9, keep_leftovers=True, **limits))

    view = await store.read(read.view, JobId(9))

    assert {name: getattr(view, name) for name in limits} == limits
    assert view.keep_leftovers


async def test_view_has_all_conditions(store):
    policy = RetryPolicy(retry_on=(75,), no_retry_on=(1, 2))
    asked = {
        "key": "k",
        "expires": 7200.0,
        "after": (1, 2),
        "after_any": (2, 3),
        "stdin": "/tmp/in",
        "pty": True,
    }
    job, stored = new(9, conditions=EVERYTHING, **asked)
    spec = replace(stored.spec, at=NOW.wall + 3600)
    await put(store, (job, replace(stored, spec=spec)))
    left = Conditions(expires=NOW.elapsed + 7200, after=(JobId(2),), after_any=(JobId(2),), key="k", slots=4)
    await move(store, 9, State.BLOCKED, policy=policy, conditions=left)

    view = await store.read(read.view, JobId(9))

    assert (view.at, view.expires, view.expires_at) == (NOW.wall + 3600, 7200.0, NOW.wall + 7200)
    assert (view.after, view.after_any, view.waits_for) == ([1, 2], [2, 3], [2])
    assert (view.key, view.slots, view.stdin, view.pty) == ("k", 4, "/tmp/in", True)
    assert (view.retry_on, view.no_retry_on, view.suspended) == ([75], [1, 2], False)

    await move(store, 9, State.RUNNING, attempt=1, conditions=left, suspended=True)
    view = await store.read(read.view, JobId(9))
    assert (view.expires_at, view.suspended) == (None, True)


async def test_job_is_shown_due_when_its_delay_and_its_date_are_both_over(store):
    async def due_at(state, due, at):
        await move(store, 1, state, due=due, conditions=Conditions(at=at))
        return (await store.read(read.view, JobId(1))).due_at

    await put(store, new(1))

    assert await due_at(State.SCHEDULED, None, NOW.wall + 10) == NOW.wall + 10
    assert await due_at(State.HELD, NOW.elapsed + 20, NOW.wall + 10) == NOW.wall + 20
    assert await due_at(State.BLOCKED, NOW.elapsed + 20, None) == NOW.wall + 20
    assert await due_at(State.BLOCKED, None, None) is None
    assert await due_at(State.QUEUED, None, NOW.wall - 10) is None


async def test_times_of_another_boot_are_converted_in_every_state_that_waits(path):
    conditions = Conditions(expires=NOW.elapsed + 100, at=NOW.wall + 50)
    waiting = [State.HELD, State.BLOCKED, State.SCHEDULED, State.QUEUED]
    store = await Store.open(path)
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, *(new(number) for number in range(1, 5)))
    for number, state in enumerate(waiting, start=1):
        await move(store, number, state, due=NOW.elapsed + 60, conditions=conditions)
    await store.close()
    store = await Store.open(path)

    await store.write(adopt_boot, Now(elapsed=20.0, wall=NOW.wall + 10), "second-boot")
    found = await unfinished(store)

    assert [item.job.state for item in found] == waiting
    for item in found:
        assert item.job.due == pytest.approx(20 + 50)
        assert item.job.conditions.expires == pytest.approx(20 + 90)
        assert item.job.conditions.at == NOW.wall + 50
    await store.close()


@pytest.mark.parametrize("jump", [1e8, -1e8, 0.5])
async def test_times_are_shown_and_converted_by_the_clock_as_it_was_set(path, jump):
    conditions = Conditions(expires=NOW.elapsed + 100, at=NOW.wall + 50)
    store = await Store.open(path)
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1), new(2))
    await move(store, 1, State.SCHEDULED, due=NOW.elapsed + 60)
    await move(store, 2, State.HELD, conditions=conditions)
    later = Now(elapsed=NOW.elapsed + 10, wall=NOW.wall + 10 + jump)

    await store.commit(Transaction(now=later, wall_ahead=later.wall - later.elapsed))

    first, second = [await store.read(read.view, JobId(number)) for number in (1, 2)]
    assert first is not None
    assert first.due_at == pytest.approx(later.wall + 50)
    assert second is not None
    assert second.expires_at == pytest.approx(later.wall + 90)
    assert second.due_at == NOW.wall + 50  # a date stays
    await store.write(adopt_boot, Now(elapsed=20.0, wall=later.wall + 10), "second-boot")
    due, expires = [(job.due, job.conditions.expires) for job in await restored(store)]
    assert due == (pytest.approx(20 + 40), None)
    assert expires == (None, pytest.approx(20 + 80))
    await store.close()


async def test_held_and_blocked_jobs_are_listed_among_waiting_ones(store):
    await put(store, *(new(number) for number in range(1, 5)))
    await move(store, 1, State.HELD)
    await move(store, 2, State.BLOCKED)
    await move(store, 4, State.FAILED)

    assert await ids(store, limit=3) == [3, 2, 1]
    assert await ids(store, states=[State.HELD]) == [1]
    assert await ids(store, states=[State.BLOCKED, State.HELD]) == [2, 1]


async def test_states_are_those_of_the_jobs_that_exist(store):
    await put(store, *(new(number) for number in range(1, 1_200)))
    await move(store, 1_100, State.HELD)

    found = await store.read(read.states, [JobId(number) for number in (*range(1, 1_100), 1_100, 5_000)])

    assert found == dict.fromkeys(range(1, 1_100), State.QUEUED) | {1_100: State.HELD}
    assert await store.read(read.states, []) == {}
