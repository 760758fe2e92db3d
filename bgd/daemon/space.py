"""Watch the disk of the database: refuse jobs before it is full, and keep ballast to free when it is."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from bgd.core.spec import JobSpec
from bgd.daemon.storage.database import DiskFull
from bgd.errors import Full
from bgd.text.units import format_size
from bgd.wire.launching import ballast_on

logger = logging.getLogger(__name__)

R = TypeVar("R")

CHECK_EVERY = 1.0  # seconds between two checks of the disk, however many jobs arrive, while there is room
RETRY_EVERY = 1.0  # seconds until a write that found no room is tried again
BALLAST_NAME = "ballast"
MAKE_ROOM = "make room there, for example with `bgctl prune`"
_AUTO_FLOOR = 200_000_000  # bytes kept free, except on a small disk
_AUTO_SHARE = 20  # there it is a twentieth of the disk
_WRITE_FACTOR = 4  # limit on the disk space of a job, in times its own size: -wal file, database and indices
_TIGHT = 100_000_000  # bytes above the floor that a large transaction may take
_PLENTY = 1 << 30  # bytes above the floor, more than any batch takes


class DiskSpace:
    """Free space on the disk of one folder, checked only when work arrives or a write found no room.

    Args:
        floor: bytes to leave free; None to derive it from the size of the disk.
        unused: returns the free bytes inside the database, which new jobs take first.

    Attributes:
        is_stuck: whether decisions cannot be written now.
        check_folder: raises Refused if the folder is not in its place.
        when_changed: called when the disk became full, or has room again.
    """

    def __init__(self, folder: str, floor: int | None, unused: Callable[[], int] = int) -> None:
        self._folder = folder
        self._floor = floor
        self._unused = unused
        self._has_ballast = False
        self._ballast = Path(folder, BALLAST_NAME)
        self._looked_at = -CHECK_EVERY
        self._free = self._least = 0
        self.is_stuck = False
        self._was_full = False
        self.check_folder: Callable[[], None] = lambda: None
        self.when_changed: Callable[[], None] = lambda: None
        self._stuck_events: set[asyncio.Event] = set()

    def configure(self, floor: int | None) -> None:
        """Set another floor."""
        self._floor = floor
        self._looked_at = -CHECK_EVERY

    def check(self, specs: Iterable[JobSpec] = ()) -> None:
        """Check that there is room for new jobs.

        Raises:
            Full: there is not.
            Refused: the state folder is not in its place, so the jobs would not be found again.
        """
        self.check_folder()
        if self._room() >= _PLENTY:
            return
        wanted = _WRITE_FACTOR * sum(len(msgspec.msgpack.encode(spec)) for spec in specs)
        if self._room() < wanted:  # an estimate: what was taken is subtracted since the last look
            self._look()
        if self._room() < wanted:
            free = self._least + self._room()
            raise Full(f"disk full: {shortage(self._folder, free, self._least)}: {MAKE_ROOM}")
        self._free -= wanted

    def is_full(self) -> bool:
        """Return whether new jobs are refused, or decisions cannot be written."""
        self._room()
        return self._was_full

    def is_short(self) -> bool:
        """Return whether a large transaction may find no room."""
        return self._room() < _TIGHT

    def release_ballast(self) -> bool:
        """Delete the ballast to make room for necessary writes; return False if there is none."""
        self._looked_at = -CHECK_EVERY
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        logger.warning("disk full: %s; new jobs are refused until there is room again", self._folder)
        return True

    def release_if_full(self) -> None:
        """Release the ballast if the disk has less free than half of it: a start writes to the disk."""
        disk = os.statvfs(self._folder)
        whole = ballast_on(disk.f_blocks * disk.f_frsize)
        if disk.f_bavail * disk.f_frsize < whole // 2 or lacks_inodes(disk):
            self.release_ballast()

    async def retry_while_full(self, write: Callable[[], Awaitable[R]]) -> R:
        """Call `write` until the disk has room for it, and return its result."""
        while True:
            try:
                result = await write()
            except DiskFull as error:
                if self.release_ballast():
                    continue
                if not self.is_stuck:
                    logger.error("%s; nothing is lost, but bgd waits until then", error)  # noqa: TRY400 - no bug
                self.is_stuck = True
                for event in self._stuck_events:
                    event.set()
                self._report_change()
                await asyncio.sleep(RETRY_EVERY)
            else:
                if self.is_stuck:
                    logger.warning("there is room again in %s: bgd continues", self._folder)
                    self.is_stuck = False
                    self._report_change()
                return result

    @contextmanager
    def set_when_stuck(self, event: asyncio.Event) -> Iterator[None]:
        """Set the event as soon as nothing can be written, for the duration of the block."""
        self._stuck_events.add(event)
        if self.is_stuck:
            event.set()
        try:
            yield
        finally:
            self._stuck_events.discard(event)

    def _room(self) -> int:
        """Return the bytes that new jobs may take."""
        if time.monotonic() - self._looked_at >= CHECK_EVERY:
            self._look()
        return self._room_seen()

    def _room_seen(self) -> int:
        unused = self._unused() if self._has_ballast else 0  # without ballast, only what must be written is
        return self._free - self._least + unused

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            disk = os.statvfs(self._folder)
        except OSError:  # others report what is wrong with the folder
            self._free, self._least = 2 * _PLENTY, 0
            return
        size = disk.f_blocks * disk.f_frsize
        self._free = disk.f_bavail * disk.f_frsize
        self._least = min_free_on(size, self._floor)
        self._restore_ballast(ballast_on(size))
        self._report_change()

    def _report_change(self) -> None:
        is_full = self.is_stuck or self._room_seen() <= 0
        if is_full != self._was_full:
            self._was_full = is_full
            self.when_changed()

    def _restore_ballast(self, whole: int) -> None:
        """Restore the ballast if there is room, or half of it if the database has the rest.

        One half is for the -wal file, the other for the database. Its free pages serve as well for that, and
        are all that a removal of jobs frees: the file keeps its size.
        """
        try:
            size = self._ballast.stat().st_size
        except FileNotFoundError:
            size = 0
        growth = _growth_of_ballast(size, whole, self._free, self._unused())
        self._has_ballast = growth is not None
        if growth is None:
            self._least += _half_of_ballast(whole, self._unused())  # it is restored first
        elif growth:
            self._extend_ballast(size, size + growth)

    def _extend_ballast(self, size: int, wanted: int) -> None:
        try:
            fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, wanted)
            finally:
                os.close(fd)
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            logger.warning("no ballast is kept for a full disk: %s: %s", self._ballast, error.strerror)
        else:
            self._free -= wanted - size


def lacks_inodes(disk: os.statvfs_result) -> bool:
    """Return whether no file can be made on a disk."""
    return bool(disk.f_files) and not disk.f_favail  # some file systems do not count them


def room_on(disk: os.statvfs_result, floor: int | None, unused: int, ballast: int) -> tuple[int, int]:
    """Return how many bytes would be free for new jobs, and how many they leave: what DiskSpace would see.

    Args:
        disk: what statvfs says of the state folder's disk.
        floor: as of DiskSpace.
        unused: free bytes inside the database.
        ballast: size of the ballast; 0: there is none.
    """
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    least, whole = min_free_on(size, floor), ballast_on(size)
    growth = _growth_of_ballast(ballast, whole, free, unused)
    if growth is None:
        return free, least + _half_of_ballast(whole, unused)
    return free - growth + unused, least


def shortage(folder: str, free: int, least: int) -> str:
    """Return why new jobs are refused, in words."""
    return (
        f"{folder} has {format_size(free)} free, and new jobs need more than the {format_size(least)}"
        " that [daemon] min_free and the ballast reserve"
    )


def _growth_of_ballast(size: int, whole: int, free: int, unused: int) -> int | None:
    """Return by how many bytes the ballast grows before new jobs are accepted; None: they are refused."""
    half = _half_of_ballast(whole, unused)
    if not (size or free > half):
        return None
    if whole > size and free > whole - size:
        return whole - size
    return 0 if size else half


def _half_of_ballast(whole: int, unused: int) -> int:
    return max(whole - unused, whole // 2)


def min_free_on(size: int, floor: int | None) -> int:
    """Return the bytes that new jobs leave free: `floor`, or if that is None, a share of the disk's size."""
    return min(_AUTO_FLOOR, size // _AUTO_SHARE) if floor is None else floor
