"""The journal as a file: what is read back, whatever happened while it was written."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import stat
import threading

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.launcher.journal import AttemptRecords, Began, Finished, FirstProcess, Journal, JournalContents, read
from bgd.wire.launching import AttemptEnded, AttemptKey, Launch
from tests.support import DEADLINE

KEY = AttemptKey("store", 7, 1)
BEGAN = Began(KEY, 4711, 12.5, 1_700_000_000.0)
FIRST = FirstProcess(KEY, 99, 1250)
ENDED = AttemptEnded(key=KEY, outcome=Outcome.EXIT, exit_code=3, finished_at=1_700_000_001.0, result=b"{}")
ENDED_RECORD = Finished(ENDED)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "launcher.journal"


@pytest.fixture
def journal(path):
    journal = Journal(path, "boot:1", JournalContents())
    yield journal
    journal.close()


def reopened(path, instance="boot:2"):
    """Return the contents and the instance for a launcher that takes over the journal."""
    left = read(path)
    journal = Journal(path, instance, left)
    journal.close()
    return left, journal.instance


def test_without_a_journal_nothing_is_remembered_and_that_proves_nothing(path):
    assert read(path) == JournalContents(is_whole=False)


def test_a_damaged_record_is_dropped_and_those_after_it_are_read(path, journal):
    journal.add_step(BEGAN)
    size = path.stat().st_size
    journal.add_step(FIRST)
    damaged = bytearray(path.read_bytes())
    damaged[10] ^= 1  # in the first record, the instance
    damaged[size - 1] ^= 1  # the last byte of Began
    path.write_bytes(damaged)

    left = read(path)

    assert (left.instance, left.attempts, left.is_whole) == (None, {KEY: AttemptRecords(None, FIRST)}, False)


def test_every_record_is_read_back(path, journal):
    journal.record_supervisor("store", 5, 0)
    journal.add_step(BEGAN)
    journal.add_step(FIRST)
    journal.add_end(ENDED, durable=True)

    left = read(path)

    assert left.instance == journal.instance
    assert left.generations == {"store": 5}
    assert left.attempts == {KEY: AttemptRecords(BEGAN, FIRST, ENDED_RECORD)}
    assert left.is_whole


def test_what_is_forgotten_stays_forgotten(path, journal):
    journal.add_step(BEGAN)
    journal.add_end(ENDED, durable=False)
    journal.forget(KEY)

    assert read(path).attempts == {}


def test_what_still_counts_passes_on_to_the_next_launcher_and_the_one_after(path, journal):
    journal.record_supervisor("store", 5, 0)
    journal.add_step(BEGAN)
    journal.add_end(ENDED, durable=False)
    expected = read(path)
    reopened(path)

    left, instance = reopened(path, "boot:3")

    assert (left.generations, left.attempts) == (expected.generations, expected.attempts)
    assert instance.covers == ["boot:1", "boot:2"]


def test_launchers_of_another_boot_are_not_covered(path, journal):
    journal.add_step(BEGAN)

    _, instance = reopened(path, "later:1")

    assert instance.covers == []


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_record_cut_short_is_dropped_and_what_stands_before_it_is_kept(path, journal, cut):
    journal.add_step(BEGAN)
    size = path.stat().st_size
    journal.add_step(FIRST)
    os.truncate(path, min(size + cut, path.stat().st_size - 1))

    left = read(path)

    assert left.attempts == {KEY: AttemptRecords(BEGAN)}
    assert not left.is_whole


def test_any_flipped_bit_is_noticed(path, journal):
    journal.add_step(BEGAN)
    journal.add_end(ENDED, durable=False)
    whole = path.read_bytes()
    for position, bit in itertools.product(range(len(whole)), range(8)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)

        assert not read(path).is_whole


def test_it_is_private(path, journal):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert journal.instance.id == "boot:1"


def test_it_shrinks_when_everything_in_it_is_obsolete(path, journal):
    for job in range(2000):
        key = AttemptKey("store", job, 1)
        journal.add_step(Began(key, 1, 1.0, 1.0))
        journal.add_end(AttemptEnded(key=key, outcome=Outcome.SUCCEEDED, finished_at=1.0), durable=False)
        journal.forget(key)

    assert path.stat().st_size < 100_000
    assert read(path).instance == journal.instance


def test_it_shrinks_and_keeps_the_records_that_count(path, journal):
    journal.record_supervisor("store", 5, 0)
    journal.add_step(BEGAN)
    journal.add_step(FIRST)
    for job in range(100, 20_100):
        key = AttemptKey("store", job, 1)
        journal.add_step(Began(key, 1, 1.0, 1.0))
        journal.forget(key)
    journal.add_end(ENDED, durable=False)

    left = read(path)

    assert path.stat().st_size < 1_200_000
    assert left.attempts == {KEY: AttemptRecords(BEGAN, FIRST, ENDED_RECORD)}
    assert left.generations == {"store": 5}


def test_the_highest_generation_of_each_store_is_remembered(path, journal):
    journal.record_supervisor("one", 5, 0)
    journal.record_supervisor("other", 1, 0)

    assert (journal.generation("one"), journal.generation("other"), journal.generation("third")) == (5, 1, 0)
    assert read(path).generations == {"one": 5, "other": 1}


def test_a_full_disk_leaves_it_as_it_was(path, journal, monkeypatch):
    """The kernel wrote a part and then had no space: records after half a record could not be read."""
    journal.add_step(BEGAN)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))

    with pytest.raises(OSError, match="No space left") as caught:
        journal.add_step(FIRST)

    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    journal.add_end(ENDED, durable=False)
    assert read(path).attempts == {KEY: AttemptRecords(BEGAN, None, ENDED_RECORD)}


def test_ends_are_synced_when_no_supervisor_is_there_to_store_them(journal, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    journal.add_end(ENDED, durable=False)
    assert len(synced) == 0
    journal.sync()
    assert len(synced) == 1
    journal.sync()
    assert len(synced) == 1
    journal.add_end(ENDED, durable=True)
    assert len(synced) == 2


def test_what_runs_on_a_cluster_is_synced_when_the_next_launcher_takes_over(path, monkeypatch):
    launch = Launch(key=KEY, argv=["true"], env={}, cwd="/")
    far = replace(BEGAN, launch=launch)
    journal = Journal(path, "boot:1", JournalContents())
    journal.add_step(far)
    journal.close()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    left, _ = reopened(path)

    assert left.attempts == {KEY: AttemptRecords(far)}
    assert len(synced) == 1


def test_after_a_failed_sync_what_counts_is_written_to_a_new_file(path, journal, monkeypatch):
    journal.add_step(BEGAN)
    before = path.stat().st_ino
    failing = [OSError(errno.EIO, "Input/output error"), OSError(errno.EIO, "Input/output error")]
    sync = os.fdatasync
    synced: list[int] = []

    def fdatasync(fd: int) -> None:
        if failing:
            raise failing.pop()
        sync(fd)
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError, match="Input/output error"):  # the new file cannot be synced either
        journal.add_end(ENDED, durable=True)

    journal.sync()

    assert path.stat().st_ino != before
    assert synced == [path.stat().st_ino]
    assert read(path).attempts == {KEY: AttemptRecords(BEGAN, None, ENDED_RECORD)}


class Disk:
    """A disk whose syncs by a thread wait until they are released; those by the event loop do not."""

    def __init__(self) -> None:
        self.syncs: list[str] = []  # of files: by "thread" or by "loop"
        self.begun = threading.Semaphore(0)
        self._released = threading.Semaphore(0)
        self.failures: list[OSError] = []
        self._sync = os.fdatasync

    def fdatasync(self, fd: int) -> None:
        is_beside = threading.current_thread() is not threading.main_thread()
        self.syncs.append("thread" if is_beside else "loop")
        if is_beside:
            self.begun.release()
            assert self._released.acquire(timeout=DEADLINE)
        if self.failures:
            raise self.failures.pop()
        self._sync(fd)

    async def has_begun(self) -> None:
        """Return once a thread has begun one more sync."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=DEADLINE)

    def release(self, count: int = 1) -> None:
        self._released.release(count)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    return disk


async def test_attempts_that_wait_for_the_disk_at_the_same_time_share_a_sync_by_a_thread(journal, disk):
    keys = [AttemptKey("store", number, 1) for number in range(4)]
    async with asyncio.TaskGroup() as group:
        for key in keys:
            journal.add_step(Began(key, 1, 1.0, 1.0))
            group.create_task(journal.make_durable(key))
            if key is keys[0]:
                await disk.has_begun()
        await asyncio.sleep(0)
        disk.release(2)

    assert disk.syncs == ["thread", "thread"]
    journal.sync()
    assert disk.syncs == ["thread", "thread"]


async def test_what_is_added_during_a_sync_waits_for_the_next_one(path, journal, disk):
    journal.add_step(BEGAN)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(journal.make_durable(KEY))
        await disk.has_begun()
        journal.add_end(ENDED, durable=False)
        second = group.create_task(journal.make_durable(KEY))
        disk.release()
        await disk.has_begun()
        assert (first.done(), second.done()) == (True, False)
        disk.release()

    assert disk.syncs == ["thread", "thread"]
    assert read(path).attempts == {KEY: AttemptRecords(BEGAN, None, ENDED_RECORD)}


async def test_a_sync_by_the_event_loop_does_not_count_on_one_that_a_thread_has_begun(journal, disk):
    journal.add_step(BEGAN)
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.make_durable(KEY))
        await disk.has_begun()
        journal.sync()
        assert disk.syncs == ["thread", "loop"]
        disk.release()


async def test_a_file_that_is_replaced_during_a_sync_is_synced_first(path, journal, disk, monkeypatch):
    monkeypatch.setattr("bgd.launcher.journal._LARGE", 0)
    other = AttemptKey("store", 8, 1)
    journal.add_step(BEGAN)
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.make_durable(KEY))
        await disk.has_begun()
        before = path.stat().st_ino
        for _ in range(5):
            journal.add_step(Began(other, 1, 1.0, 1.0))
        journal.forget(other)
        assert path.stat().st_ino != before
        assert disk.syncs == ["thread", "loop"]
        disk.release()

    assert read(path).attempts == {KEY: AttemptRecords(BEGAN)}


async def test_after_a_failed_sync_by_a_thread_what_counts_is_written_to_a_new_file(path, journal, disk):
    journal.add_step(BEGAN)
    before = path.stat().st_ino
    disk.failures = [OSError(errno.EIO, "Input/output error"), OSError(errno.EIO, "Input/output error")]
    disk.release()

    with pytest.raises(OSError, match="Input/output error"):  # the new file cannot be synced either
        await journal.make_durable(KEY)
    assert path.stat().st_ino == before
    await journal.make_durable(KEY)

    assert path.stat().st_ino != before
    assert disk.syncs == ["thread", "loop", "loop"]


async def test_without_room_for_a_thread_the_event_loop_syncs(journal, disk, monkeypatch):
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_room)
    journal.add_step(BEGAN)

    await journal.make_durable(KEY)

    assert disk.syncs == ["loop"]


async def test_what_is_forgotten_before_its_sync_needs_none(journal, disk):
    journal.add_step(BEGAN)
    journal.forget(KEY)

    await journal.make_durable(KEY)

    assert disk.syncs == []
