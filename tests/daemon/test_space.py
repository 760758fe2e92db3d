"""A disk fills up: new jobs are refused in time, and what must be written still is."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from bgd.core.job import State
from bgd.daemon import space
from bgd.daemon.space import MAKE_ROOM, DiskSpace, room_on, shortage
from bgd.daemon.storage import read
from bgd.daemon.storage.database import DiskFull
from bgd.errors import Full
from bgd.wire.launching import MAX_BALLAST
from tests.daemon.harness import command, running_supervisor, served
from tests.daemon.waiting import soon


class Disk:
    """Answers statvfs, and counts the calls; what `ballast` has is no longer free."""

    def __init__(self, monkeypatch, size, free):
        self.size, self.free, self.asked = size, free, 0
        self.ballast = None
        monkeypatch.setattr("bgd.daemon.space.os.statvfs", self)
        monkeypatch.setattr(space, "CHECK_EVERY", 0.0)

    def __call__(self, _folder):
        self.asked += 1
        taken = self.ballast.stat().st_size if self.ballast and self.ballast.exists() else 0
        return SimpleNamespace(f_blocks=self.size, f_bavail=self.free - taken, f_frsize=1)


@pytest.mark.parametrize(
    ("size", "floor", "least"),
    [(10**12, None, 200_000_000), (10**9, None, 50_000_000), (10**12, 5_000_000_000, 5_000_000_000)],
)
def test_new_jobs_are_refused_below_the_floor(tmp_path, monkeypatch, size, floor, least):
    disk = Disk(monkeypatch, size, least + MAX_BALLAST + 10_000)
    disk_space = DiskSpace(str(tmp_path), floor)
    disk_space.check([command()])
    assert (tmp_path / "ballast").stat().st_size == MAX_BALLAST

    disk.free = least - 1
    with pytest.raises(Full, match=r"disk full: .* has .* free, and new jobs need more than the .* min_free"):
        disk_space.check()
    disk.free = least + 1
    disk_space.check()


def test_batch_that_would_not_fit_is_refused(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, 10**9, 500_000_000)
    disk_space = DiskSpace(str(tmp_path), None)
    big = command("/bin/echo", "x" * 100_000)
    disk_space.check([big] * 10)
    disk.free = 50_000_000 + 1_000_000

    disk_space.check([big])
    with pytest.raises(Full):
        disk_space.check([big] * 10)


def test_free_pages_of_the_database_count_as_room(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, 10**12, 10**12)
    unused = [0]
    disk_space = DiskSpace(str(tmp_path), None, lambda: unused[0])
    disk_space.check()
    disk.free = 100_000_000
    with pytest.raises(Full):
        disk_space.check([command()])
    unused[0] = 150_000_000

    disk_space.check([command()])


@pytest.mark.parametrize("has_ballast", [False, True])
@pytest.mark.parametrize("unused", [0, 100_000, 3_000_000])
@pytest.mark.parametrize("free", [100_000, 125_100, 200_000, 325_000, 460_000, 1_000_000])
def test_the_doctor_expects_what_happens_to_new_jobs(tmp_path, monkeypatch, free, unused, has_ballast):
    disk = Disk(monkeypatch, 4_000_000, free)
    disk.ballast = tmp_path / "ballast"
    if has_ballast:
        disk.ballast.write_bytes(bytes(250_000))
        disk.free += 250_000

    room, least = room_on(disk(None), None, unused, 250_000 if has_ballast else 0)
    told = f"disk full: {shortage(str(tmp_path), room, least)}: {MAKE_ROOM}"
    refused = pytest.raises(Full, match=f"^{re.escape(told)}$") if room <= least else nullcontext()
    with refused:
        DiskSpace(str(tmp_path), None, lambda: unused).check([command()])


def test_disk_is_checked_once_a_second(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, 10**12, 10**12)
    monkeypatch.setattr(space, "CHECK_EVERY", 1.0)
    monkeypatch.setattr("bgd.daemon.space.time.monotonic", lambda: 5.0)
    disk_space = DiskSpace(str(tmp_path), None)
    for _ in range(100):
        disk_space.check()

    assert disk.asked == 1


def test_released_ballast_is_restored_before_a_job_is_accepted(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, 10**12, 10**12)
    disk_space = DiskSpace(str(tmp_path), 1000)
    disk_space.check()
    assert disk_space.release_ballast()
    assert not disk_space.release_ballast()

    disk.free = MAX_BALLAST
    with pytest.raises(Full):
        disk_space.check()
    disk.free = 1000 + 2 * MAX_BALLAST
    disk_space.check()
    assert (tmp_path / "ballast").exists()


def test_small_disk_has_a_small_ballast(tmp_path, monkeypatch):
    Disk(monkeypatch, 4_000_000, 3_000_000)
    DiskSpace(str(tmp_path), None).check()

    assert (tmp_path / "ballast").stat().st_size == 250_000


def test_free_pages_of_the_database_stand_for_half_of_the_ballast_until_the_disk_has_room(
    tmp_path, monkeypatch
):
    disk = Disk(monkeypatch, 4_000_000, 200_000)
    unused = [0]
    disk_space = DiskSpace(str(tmp_path), None, lambda: unused[0])
    ballast = tmp_path / "ballast"
    with pytest.raises(Full):
        disk_space.check()
    assert not ballast.exists()

    unused[0] = 3_000_000
    disk.free = 125_000  # just half: none of it would be left
    with pytest.raises(Full):
        disk_space.check()
    disk.free, disk.ballast = 200_000, ballast
    disk_space.check()
    assert ballast.stat().st_size == 125_000

    disk.free = 2_000_000
    disk_space.check()
    assert ballast.stat().st_size == 250_000


async def test_write_without_room_is_retried_until_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "RETRY_EVERY", 0.0)
    disk_space = DiskSpace(str(tmp_path), None)
    (tmp_path / "ballast").touch()
    states = []

    async def write():
        states.append((disk_space.is_stuck, os.path.exists(tmp_path / "ballast")))  # noqa: PTH110, ASYNC240 - a test
        if len(states) < 4:
            raise DiskFull("disk full")
        return 7

    assert await soon(disk_space.retry_while_full(write)) == 7
    assert states == [(False, True), (False, False), (True, False), (True, False)]
    assert not disk_space.is_stuck


async def test_while_nothing_can_be_written_only_lists_are_answered(config, launcher, monkeypatch):
    monkeypatch.setattr(space, "RETRY_EVERY", 0.01)
    async with running_supervisor(config, launcher) as life:
        held = await life.submit(command(hold=True))
        life.commits.failure = DiskFull("disk full")
        await life.actions.do("cancel", held)
        saved = asyncio.ensure_future(life.supervisor.saved())
        await soon(life.supervisor.saved_unless_stuck())  # waits until the disk is known to be full
        await soon(life.supervisor.saved_unless_stuck())
        view = await life.store.read(read.view, held)
        assert view is not None
        assert view.state is State.HELD
        assert not saved.done()

        life.commits.failure = None
        await soon(saved)
        assert (await life.view(held)).state is State.CANCELLED


async def test_client_is_told_that_the_disk_is_full(config, launcher, monkeypatch):
    disk = Disk(monkeypatch, 10**12, 10**12)
    async with served(config, launcher) as life:
        await life.submit()
        disk.free = 1000
        with pytest.raises(Full, match="disk full"):
            life.actions.check([command()])
