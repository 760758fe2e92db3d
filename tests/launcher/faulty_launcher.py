"""A launcher in which one call of the operating system fails: `python -m tests.launcher.faulty_launcher`.

It wraps what the launcher calls. The place of a call is the way to it: the lines of bgd's code on the stack.
A test learns the places that its jobs reach, and makes the next call from one of them raise an OSError.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import select
import selectors
import socket
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

FOLDER = "BGD_TESTS_FAULTS"  # the variable that names the folder of Faults

_BY_CALL: dict[str, Sequence[int]] = {
    **dict.fromkeys(("pipe2", "dup", "memfd_create", "openpty", "pidfd_open"), (errno.EMFILE,)),
    **dict.fromkeys(("fork", "posix_spawn"), (errno.EAGAIN,)),
    **dict.fromkeys(("mkdir", "link", "rename", "replace", "symlink"), (errno.ENOSPC, errno.EIO)),
    **dict.fromkeys(("unlink", "rmdir", "stat", "lstat", "statvfs", "fstatvfs"), (errno.EIO,)),
    **dict.fromkeys(("fsync", "fdatasync", "ftruncate", "truncate", "splice"), (errno.ENOSPC, errno.EIO)),
    **dict.fromkeys(("listdir", "scandir"), (errno.EMFILE, errno.EIO)),
    **dict.fromkeys(("write", "pwrite"), (errno.ENOSPC, errno.EIO)),
    **dict.fromkeys(("read", "pread"), (errno.EIO,)),
    "open": (errno.EMFILE, errno.ENOSPC, errno.EIO),
}
_OF_DISKS = {errno.ENOSPC, errno.EIO}
_BGD = f"{Path(__file__).parents[2]}/bgd/"
_SHARED = struct.Struct(
    "=IIII"
)  # the place that is to fail, its error, how often it has, which list is current


class Fault(NamedTuple):
    """One error at one place."""

    place: str
    number: int

    def __str__(self) -> str:
        return f"{os.strerror(self.number)}: {self.place}"


class Faults:
    """What a test shares with its faulty launchers, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        memory = folder / "memory"
        if not memory.exists():
            memory.write_bytes(bytes(_SHARED.size))
        with memory.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SHARED.size)

    def begin_list(self) -> None:
        """Forget which places were reached."""
        _SHARED.pack_into(self._memory, 0, 0, 0, 0, self._list + 1)

    @property
    def _list(self) -> int:
        return int(_SHARED.unpack_from(self._memory)[3])

    @property
    def reached(self) -> list[Fault]:
        """All errors that may happen at the places that were reached, each once."""
        lines = (self.folder / f"list-{self._list}").read_text().splitlines()
        parts = [line.rpartition(" ") for line in dict.fromkeys(lines)]
        return [Fault(place, int(number)) for place, _, number in parts]

    def arm(self, fault: Fault) -> None:
        """Let the next call from this place fail."""
        _SHARED.pack_into(self._memory, 0, zlib.crc32(fault.place.encode()), fault.number, 0, self._list)

    def disarm(self) -> bool:
        """Let no more call fail; return whether one has."""
        has_failed = bool(_SHARED.unpack_from(self._memory)[2])
        _SHARED.pack_into(self._memory, 0, 0, 0, 0, self._list)
        return has_failed

    def note(self, place: str, numbers: Sequence[int], known: set[tuple[int, str]]) -> int:
        """Note a place, unless it is known; return the error that its call is to raise, or 0."""
        armed, number, raised, current = _SHARED.unpack_from(self._memory)
        if (current, place) not in known:
            known.add((current, place))
            with _open(self.folder / f"list-{current}", "a") as file:
                file.writelines(f"{place} {each}\n" for each in numbers)
        if raised or armed != zlib.crc32(place.encode()):
            return 0
        _SHARED.pack_into(self._memory, 0, armed, number, 1, current)
        return int(number)


_open = io.open  # before it is wrapped


def install(faults: Faults) -> None:
    """Wrap the calls of this process and its forks."""
    known: set[tuple[int, str]] = set()
    is_own = False  # within the calls of this module

    def wrap(name: str, call: Callable[..., Any], numbers: Sequence[int]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal is_own
            number = 0
            if not is_own:
                is_own = True
                place = _place(name, sys._getframe(1))
                if place is not None and (possible := _possible(name, numbers, arguments)):
                    number = faults.note(place, possible, known)
                is_own = False
            if number:
                raise OSError(number, os.strerror(number))
            return call(*arguments, **options)

        return wrapped

    for name, numbers in _BY_CALL.items():
        setattr(os, name, wrap(name, getattr(os, name), numbers))
    io.open = builtins.open = wrap("open", io.open, _BY_CALL["open"])
    socket.socketpair = wrap("socketpair", socket.socketpair, [errno.EMFILE])
    epoll = select.epoll

    class Epoll:
        """An epoll, which no class can extend."""

        def __init__(self, *arguments: Any) -> None:
            self._epoll = epoll(*arguments)
            self.register = wrap("register", self._epoll.register, [errno.ENOSPC])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._epoll, name)

    select.epoll = selectors.EpollSelector._selector_cls = Epoll  # type: ignore[misc, assignment, attr-defined]


def _place(name: str, frame: FrameType | None) -> str | None:
    """Return the call and how bgd's code has come to it, the latest line first; None: it has not."""
    lines = [f"{'pilot' if '--pilot' in sys.argv else 'launcher'}: {name}"]
    while frame is not None:
        if frame.f_code.co_filename.startswith(_BGD):
            lines.append(f"{frame.f_code.co_filename[len(_BGD) :]}:{frame.f_lineno}")
        elif frame.f_code.co_name in {"_run_once", "new_event_loop"} and len(lines) == 1:
            return None  # a call of the event loop
        frame = frame.f_back
    return " < ".join(lines) if len(lines) > 1 else None


def _possible(name: str, numbers: Sequence[int], arguments: tuple[Any, ...]) -> Sequence[int]:
    """Leave out a disk's errors where the call concerns no file on a disk."""
    if name == "register" or _OF_DISKS.isdisjoint(numbers) or (arguments and _is_on_disk(arguments[0])):
        return numbers
    return [each for each in numbers if each not in _OF_DISKS]


def _is_on_disk(subject: Any) -> bool:
    try:
        if isinstance(subject, int):
            path = os.readlink(f"/proc/self/fd/{subject}")  # noqa: PTH115  a Path would call it, too
            return stat.S_ISREG(os.fstat(subject).st_mode) and not path.startswith(_NOT_ON_DISK)
        return not f"{os.fspath(subject)}/".startswith(_NOT_ON_DISK)
    except OSError:
        return False


_NOT_ON_DISK = ("/proc/", "/sys/", "/dev/", "/memfd:")


def main() -> int:
    """Run a launcher that makes no long pauses."""
    from bgd.launcher import __main__

    for name, module in sys.modules.items():
        if name.startswith("bgd.launcher."):
            for each in _SECONDS.keys() & vars(module).keys():
                setattr(module, each, _SECONDS[each])
            if name.endswith(".controller"):
                vars(module)["_PATIENCE"] = 2.0
    if FOLDER in os.environ:
        install(Faults(Path(os.environ[FOLDER])))
    return __main__.main()


_SECONDS = {"_PAUSE": 0.01, "_FIRST_PAUSE": 0.01, "_RETRY_DELAY": 0.01, "_BEAT": 0.5}


if __name__ == "__main__":
    sys.exit(main())
