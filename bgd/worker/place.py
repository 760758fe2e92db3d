"""Where a job runs: its environment, its folder, and the mark by which its processes are found."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # as typing's: the worker keeps its memory small
if TYPE_CHECKING:
    from collections.abc import Mapping

_MARK = b"BGD_RUN="
_ENV_START, _ENV_END = 47, 48  # of what /proc/PID/stat says after the program's name


class MarkedPlace:
    """Where in this process's memory /proc finds its mark: that of its start, until it is changed."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  pathlib is slow to import
            fields = file.read().rpartition(b")")[2].split()
        address, end = int(fields[_ENV_START]), int(fields[_ENV_END])
        found = ctypes.string_at(address, end - address) if address else b""
        self._length = max(found.find(b"\0"), 0) if found.startswith(_MARK) else 0
        self._room = (ctypes.c_char * self._length).from_address(address)

    def show(self, mark: str) -> None:
        """Let /proc/PID/environ show another mark; where there is no room for it nothing changes."""
        text = _MARK + mark.encode(errors="surrogateescape")
        if len(text) <= self._length:
            self._room.raw = text.ljust(self._length, b"\0")


def change_environment(changes: Mapping[str, str | None]) -> None:
    """Set variables, and drop those that are None."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Environment:
    """The variables as they are now, for later."""

    def __init__(self) -> None:
        self._variables = os.environ
        # as bytes, for to look at them through os.environ decodes each of them
        self._present: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
        self._kept = dict(self._present)

    def restore(self) -> None:
        """Put back those that were changed."""
        os.environ = self._variables  # noqa: B003 - the very object, whatever a job has put in its place
        for name in {name for name, _ in self._kept.items() ^ self._present.items()}:
            if name in self._kept:
                os.environb[name] = self._kept[name]
            else:
                del os.environb[name]
