"""When the clock is set, what waits for a duration is due at another time of that clock."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from bgd.core.job import JobId, Now, State
from bgd.daemon import redating
from bgd.daemon.redating import Redating
from bgd.daemon.storage.database import DiskFull
from bgd.daemon.storage.store import Store
from tests.daemon.storage.filling import BOOT, NOW, move, new, put
from tests.support import DEADLINE

WAIT = 60.0  # seconds


@pytest.fixture
async def store(tmp_path):
    store = await Store.open(str(tmp_path / "bgd.db"))
    await store.adopt_boot(NOW, BOOT)
    await put(store, new(1))
    await move(store, 1, State.SCHEDULED, due=NOW.elapsed + WAIT)
    yield store
    await store.close()


async def told(store, due_at):
    """Wait until the job is said to be due then."""
    async with asyncio.timeout(DEADLINE):
        while (await store.view(JobId(1))).due_at != due_at:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


@pytest.fixture
def clocks(monkeypatch):
    """Give what the clocks show, to be changed."""
    shown = [Now(NOW.elapsed, NOW.wall + 1e8)]
    monkeypatch.setattr(redating, "now", lambda: shown[-1])
    return shown


async def test_due_times_follow_the_clock_at_the_start_and_when_it_is_set(store, clocks, monkeypatch):
    monkeypatch.setattr(redating, "inf", time.time())  # it rings as it does when the clock is set
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(Redating(store).run())
        await told(store, NOW.wall + 1e8 + WAIT)
        clocks.append(Now(NOW.elapsed, NOW.wall - 1e8))
        await told(store, NOW.wall - 1e8 + WAIT)
        task.cancel()


@pytest.mark.usefixtures("clocks")
async def test_a_full_disk_is_told_and_ends_nothing(store, monkeypatch, caplog):
    monkeypatch.setattr(redating, "inf", time.time())
    redate, calls = store.redate, []

    async def full(now):
        calls.append(now)
        if len(calls) == 1:
            raise DiskFull("disk full: the database")
        await redate(now)

    monkeypatch.setattr(store, "redate", full)
    with caplog.at_level(logging.WARNING):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(Redating(store).run())
            await told(store, NOW.wall + 1e8 + WAIT)
            task.cancel()
    assert "due times stay as they were before the clock was set: disk full" in caplog.text
