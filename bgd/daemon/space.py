"""Space on the database's disk: jobs are refused before it is full, and then there is ballast to give up."""

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

from bgd.core.job import ballast_on
from bgd.core.spec import JobSpec
from bgd.daemon.storage.database import DiskFull
from bgd.errors import Full
from bgd.units import format_size

logger = logging.getLogger(__name__)

R = TypeVar("R")

LOOK_EVERY = 1.0  # seconds in which the disk is looked at once, however many jobs come, while there is room
TRY_EVERY = 1.0  # seconds until what finds no room is tried again
BALLAST_NAME = "ballast"
_AUTO_FLOOR = 200_000_000  # bytes kept free, but on a small disk
_AUTO_SHARE = 20  # a twentieth of it
_WRITTEN = 4  # times a job's bytes, at most: in the -wal file, the database and its indices
_TIGHT = 100_000_000  # bytes above the floor that a large transaction may take
_PLENTY = 1 << 30  # bytes above the floor that no batch takes


class Space:
    """Watches one disk for as little as it takes: when work comes in, and when a write found no room.

    Args:
        floor: bytes to be left free; None: by the size of the disk.
        unused: says how many bytes inside the database are free: new jobs take those first.

    Attributes:
        is_stuck: whether what was decided cannot be written now.
    """

    def __init__(self, folder: str, floor: int | None, unused: Callable[[], int] = int) -> None:
        self._folder = folder
        self._floor = floor
        self._unused = unused
        self._ballast_size = 0  # bytes, 0: it is not there
        self._ballast = Path(folder, BALLAST_NAME)
        self._looked_at = -LOOK_EVERY
        self._free = self._least = 0
        self.is_stuck = False
        self.look_out: Callable[[], None] = lambda: None  # raises Refused if the folder is not in its place
        self._impatient: set[asyncio.Event] = set()

    def configure(self, floor: int | None) -> None:
        """Take another floor."""
        self._floor = floor
        self._looked_at = -LOOK_EVERY

    def check(self, specs: Iterable[JobSpec] = ()) -> None:
        """See that there is room for new jobs.

        Raises:
            Full: there is not.
            Refused: what is written would not be found again.
        """
        self.look_out()
        if self._room() >= _PLENTY:
            return
        wanted = _WRITTEN * sum(map(_bytes_of, specs))
        if self._room() < wanted:  # by what was taken since it was looked at
            self._look()
        if self._room() < wanted:
            raise Full(
                f"disk full: {self._folder} has {format_size(self._free)} free, and new jobs need more than "
                f"the {format_size(self._least)} that [daemon] min_free keeps: make room there, or wait"
            )
        self._free -= wanted

    def is_short(self) -> bool:
        """Tell whether a large transaction may find no room."""
        return self._room() < _TIGHT

    def give_up(self) -> bool:
        """Give the ballast to what has to be written; False: it has been given before."""
        self._looked_at = -LOOK_EVERY
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        logger.warning("disk full: %s; new jobs are refused until there is room again", self._folder)
        return True

    async def press_on(self, write: Callable[[], Awaitable[R]]) -> R:
        """Return what `write` does, which may have to be tried until somebody makes room."""
        while True:
            try:
                result = await write()
            except DiskFull as error:
                if self.give_up():
                    continue
                if not self.is_stuck:
                    logger.error("%s; nothing is lost, and nothing goes on until then", error)  # noqa: TRY400 - no bug
                self.is_stuck = True
                for event in self._impatient:
                    event.set()
                await asyncio.sleep(TRY_EVERY)
            else:
                if self.is_stuck:
                    logger.warning("there is room again in %s: bgd goes on", self._folder)
                    self.is_stuck = False
                return result

    @contextmanager
    def ringing_when_stuck(self, event: asyncio.Event) -> Iterator[None]:
        """Have the event set as soon as nothing can be written, while the block lasts."""
        self._impatient.add(event)
        if self.is_stuck:
            event.set()
        try:
            yield
        finally:
            self._impatient.discard(event)

    def _room(self) -> int:
        """Return the bytes that new jobs may take."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY:
            self._look()
        unused = self._unused() if self._ballast_size else 0  # without ballast, nothing is written unasked
        return self._free - self._least + unused

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            disk = os.statvfs(self._folder)
        except OSError:  # what is wrong with the folder is for others to say
            self._free, self._least = 2 * _PLENTY, 0
            return
        size = disk.f_blocks * disk.f_frsize
        self._free = disk.f_bavail * disk.f_frsize
        self._least = least_on(size, self._floor)
        self._ballast_size = ballast_on(size)
        if not self._ballast.exists():
            if self._free > self._ballast_size:
                self._put_back(self._ballast_size)
            else:
                self._least += self._ballast_size  # it comes first
                self._ballast_size = 0

    def _put_back(self, size: int) -> None:
        try:
            fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            logger.warning("no room is kept for a full disk: %s: %s", self._ballast, error.strerror)
        else:
            self._free -= size


def least_on(size: int, floor: int | None) -> int:
    """Return the bytes that new jobs leave free on a disk of this size; `floor` None: by that size."""
    return min(_AUTO_FLOOR, size // _AUTO_SHARE) if floor is None else floor


def _bytes_of(spec: JobSpec) -> int:
    return len(msgspec.msgpack.encode(spec))
