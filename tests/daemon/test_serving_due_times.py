"""After the wall clock is set, jobs that wait for a duration are due at another wall-clock time."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from bgd.core.job import WAITING, JobId, Now, State
from bgd.daemon import serving
from bgd.daemon.serving import REDATE_REST, follow_wall_clock
from bgd.daemon.storage import read
from bgd.daemon.storage import store as store_module
from bgd.daemon.storage.database import DiskFull
from bgd.daemon.storage.store import Store, adopt_boot
from tests.daemon.storage.builders import BOOT, NOW, move, new, put
from tests.support import DEADLINE

WAIT = 60.0  # seconds
ROUNDS = 20
BUSY = 0.001  # seconds that each takes at least: uvloop rounds a shorter rest down to nothing


@pytest.fixture
async def store(tmp_path):
    store = await Store.open(str(tmp_path / "bgd.db"))
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(1))
    await move(store, 1, State.SCHEDULED, due=NOW.elapsed + WAIT)
    yield store
    await store.close()


async def wait_until_due(store, due_at, number=1):
    """Wait until the store says that the job is due then."""
    async with asyncio.timeout(DEADLINE):
        while (await store.read(read.view, JobId(number))).due_at != due_at:  # noqa: ASYNC110 - the store announces nothing
            await asyncio.sleep(0)


@pytest.fixture
def clocks(monkeypatch):
    """Return what the clocks show; a test appends the next reading."""
    shown = [Now(NOW.elapsed, NOW.wall + 1e8)]
    monkeypatch.setattr(serving, "now", lambda: shown[-1])
    return shown


async def test_due_times_follow_the_clock_at_the_start_and_when_it_is_set(store, clocks, monkeypatch):
    monkeypatch.setattr(serving, "inf", time.time())  # the alarm fires as if the clock were set
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow_wall_clock(store))
        await wait_until_due(store, NOW.wall + 1e8 + WAIT)
        clocks.append(Now(NOW.elapsed, NOW.wall - 1e8))
        await wait_until_due(store, NOW.wall - 1e8 + WAIT)
        task.cancel()


@pytest.mark.usefixtures("clocks")
async def test_all_jobs_are_updated_a_few_at_a_time(store, monkeypatch):
    monkeypatch.setattr(store_module, "REDATED_AT_ONCE", 2)
    await put(store, *(new(number) for number in range(2, 6)))
    for number in range(2, 6):
        await move(store, number, State.SCHEDULED, due=NOW.elapsed + WAIT)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow_wall_clock(store))
        for number in range(1, 6):
            await wait_until_due(store, NOW.wall + 1e8 + WAIT, number)
        task.cancel()


async def test_clock_that_is_set_all_the_time_leaves_the_store_to_others(store, clocks, monkeypatch):
    monkeypatch.setattr(serving, "inf", time.time())
    write, busy, enough = store.write, [], asyncio.Event()

    async def timed(*asked):
        clocks.append(Now(NOW.elapsed, clocks[-1].wall + 360.0))
        began = time.monotonic()
        last = await write(*asked)
        await asyncio.sleep(BUSY)
        busy.append(time.monotonic() - began)
        if len(busy) == ROUNDS * len(WAITING):
            enough.set()
        return last

    monkeypatch.setattr(store, "write", timed)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow_wall_clock(store))
        await asyncio.wait_for(enough.wait(), DEADLINE)
        task.cancel()
    assert sum(busy[:-1]) * REDATE_REST < time.monotonic() - began


@pytest.mark.usefixtures("clocks")
async def test_full_disk_is_logged_and_ends_nothing(store, monkeypatch, caplog):
    monkeypatch.setattr(serving, "inf", time.time())
    write, calls = store.write, []

    async def full(*asked):
        calls.append(asked)
        if len(calls) == 1:
            raise DiskFull("disk full: the database")
        return await write(*asked)

    monkeypatch.setattr(store, "write", full)
    with caplog.at_level(logging.WARNING):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follow_wall_clock(store))
            await wait_until_due(store, NOW.wall + 1e8 + WAIT)
            task.cancel()
    assert "due times stay as they were before the clock was set: disk full" in caplog.text
