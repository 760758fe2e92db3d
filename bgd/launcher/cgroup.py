"""A control group (cgroup v2): processes with all their descendants, none of which leaves it by forking."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from msgspec import Struct

from bgd.wire.limits import Limits

log = logging.getLogger(__name__)


class GroupFigures(Struct, frozen=True):
    """What the processes of a group used together; `memory_peak`: in bytes, None where that is not counted.

    `oom_kills`: how many of them were killed because memory was short.
    """

    user_seconds: float
    system_seconds: float
    memory_peak: int | None
    oom_kills: int


class Group:
    """A group by the path of its folder; one that is not there has nobody in it.

    Its processes may own its files, and take away every right to them. A file that cannot be used is as good
    as none: the processes are then found and ended by other signs.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._is_reported = False  # that it cannot be used

    @property
    def entrance(self) -> str:
        """The file to which a process writes 0 to join."""
        return f"{self.path}/cgroup.procs"

    def limit(self, limits: Limits) -> None:
        """Set what of the limits is the group's.

        Raises:
            OSError: it cannot be.
        """
        if limits.memory_max is not None:
            self._write("memory.max", limits.memory_max)
            with suppress(FileNotFoundError):  # where nobody counts swap, or there is none
                self._write("memory.swap.max", 0)
            self._write("memory.oom.group", 1)  # half a job is worse than none
        if limits.cpu_max is not None:
            self._write("cpu.max", f"{limits.cpu_max * _PERIOD // 100} {_PERIOD}")
        if limits.pids_max is not None:
            self._write("pids.max", limits.pids_max)

    def pids(self) -> set[int]:
        """Return all that are in it, also in groups that its processes made below."""
        found: set[int] = set()
        for folder in self._folders():
            with self._if_usable(), open(f"{folder}/cgroup.procs", encoding="ascii") as file:  # noqa: PTH123
                found.update(map(int, file))
        return found

    @property
    def is_populated(self) -> bool:
        """Whether a process that has not ended is in it or below it."""
        with self._if_usable():
            return _POPULATED in self._read("cgroup.events")
        return False

    def kill(self) -> None:
        """Kill all in it and below it, at once, also those that are just forking."""
        with self._if_usable():  # a kernel before 5.14 has no such file: they are killed one by one
            self._write("cgroup.kill", 1)

    async def emptied(self, until: asyncio.Future[None]) -> None:
        """Return when nobody is in it any more, or `until` is done."""
        # the file can always be read; that it has changed is urgent, which is not what a loop waits for
        with self._if_usable(), closing(select.epoll()) as changes:
            events = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            try:
                changes.register(events, select.EPOLLPRI)
                while _POPULATED.encode() in os.pread(events, _MOST, 0) and not until.done():
                    await _readable(changes.fileno(), until)
            finally:
                os.close(events)

    def figures(self) -> GroupFigures | None:
        """Return what its processes have used, None if that cannot be read."""
        used = dict[str, int]()
        with self._if_usable():
            used = self._numbers("cpu.stat")
        if not used:
            return None
        peak, kills = None, 0
        with self._if_usable():  # without the memory controller
            kills = self._numbers("memory.events").get("oom_kill", 0)
            peak = int(self._read("memory.peak"))
        user, system = used.get("user_usec", 0), used.get("system_usec", 0)
        return GroupFigures(user / 1e6, system / 1e6, peak, kills)

    def remove(self) -> bool:
        """Remove it with all below it, if nobody is in it; return whether it is gone."""
        for folder in sorted(self._folders(), key=len, reverse=True):
            try:
                os.rmdir(folder)  # noqa: PTH106  a plain string here
            except FileNotFoundError:
                continue
            except OSError:  # somebody is in it, or in one below that cannot be seen
                return False
        return True

    def _folders(self) -> Iterator[str]:
        """Yield its folder, if only it can be listed, and those below."""
        yield self.path
        for folder, below, _ in os.walk(self.path):
            for name in below:
                yield f"{folder}/{name}"

    @contextmanager
    def _if_usable(self) -> Iterator[None]:
        """Leave out what follows if there is no such file or group any more, or it cannot be used."""
        try:
            yield
        except (OSError, ValueError) as error:  # a file with other content than the kernel's is not a group's
            is_gone = isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ENODEV}
            if not is_gone and not self._is_reported:
                self._is_reported = True
                why = error.strerror if isinstance(error, OSError) else "its files are not the kernel's"
                log.warning(_UNUSABLE, self.path, why)

    def _numbers(self, name: str) -> dict[str, int]:
        pairs = (line.split() for line in self._read(name).splitlines())
        return {key: int(value) for key, value in pairs}

    def _read(self, name: str) -> str:
        with open(f"{self.path}/{name}", encoding="ascii") as file:  # noqa: PTH123  a plain string here
            return file.read()

    def _write(self, name: str, value: object) -> None:
        fd = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)


_PERIOD = 100_000  # microseconds, the kernel's own choice
_POPULATED = "populated 1"
_UNUSABLE = "control group %s cannot be used (%s): its processes are looked for by other signs"
_MOST = 4096


async def _readable(fd: int, until: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def read() -> None:
        loop.remove_reader(fd)
        readable.set_result(None)

    loop.add_reader(fd, read)
    try:
        await asyncio.wait({readable, until}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(fd)
