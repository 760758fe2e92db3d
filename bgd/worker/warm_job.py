"""Make a job in a warm worker run as if in a fresh interpreter: environment, up-to-date files, exit."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import time

from .process import flush, log, log_traceback

TYPE_CHECKING = False  # not typing's: a worker keeps its memory small
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MARK = b"BGD_RUN="
_ENV_START, _ENV_END = 47, 48  # indexes in /proc/PID/stat, counted after the program's name


class EnvironmentMark:
    """The mark of the job, where /proc/PID/environ shows it: in the memory that the process started with."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  pathlib is slow to import
            fields = file.read().rpartition(b")")[2].split()
        address, end = int(fields[_ENV_START]), int(fields[_ENV_END])
        found = ctypes.string_at(address, end - address) if address else b""
        self._length = max(found.find(b"\0"), 0) if found.startswith(_MARK) else 0
        self._memory = (ctypes.c_char * self._length).from_address(address)

    def set(self, mark: str) -> None:
        """Show another mark; if it does not fit, change nothing."""
        text = _MARK + mark.encode(errors="surrogateescape")
        if len(text) <= self._length:
            self._memory.raw = text.ljust(self._length, b"\0")


def change_environment(changes: Mapping[str, str | None]) -> None:
    """Set variables; remove those that are None."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class LoadedFiles:
    """The interpreter and the files that modules were loaded from, to see whether one has changed."""

    def __init__(self) -> None:
        self._library = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120  pathlib is slow to import
        self._own = os.path.dirname(__file__) + os.sep  # noqa: PTH120
        # another interpreter has another standard library, and this process has loaded only a part
        self._seen = {file: _state_of(file) for file in [sys.executable or ""]}
        self._modules = 0
        self._next_check_at = 0.0
        self.add_new()

    def add_new(self) -> None:
        """Remember the files of modules that were loaded since the last call."""
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file not in self._seen and self._is_watched(file):
                self._seen[file] = _state_of(file)

    def changed(self) -> str | None:
        """Return a file that has changed since it was loaded, None if none has.

        A call soon after the last check returns None without a check: checks take at most a part of the time.
        """
        began = time.monotonic()
        if began < self._next_check_at:
            return None
        for file, state in self._seen.items():
            if _state_of(file) != state:
                return file
        ended = time.monotonic()
        self._next_check_at = ended + (ended - began) * _CHECK_SHARE
        return None

    def _is_watched(self, file: str) -> bool:
        """Return whether the file may change in a way that matters.

        The standard library changes only with the interpreter. The worker's own files do not matter: this
        worker speaks the protocol of the launcher that started it, and the next release might not.
        """
        if file.startswith(self._library):
            return file.startswith(f"{self._library}site-packages")
        return not file.startswith(self._own)


_CHECK_SHARE = 20  # checks take at most 1/20 of the time; 1,000 files take milliseconds


def _state_of(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116  called too often for a Path
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def exit_code_of(run: Callable[[], int]) -> int:
    """Return what `run` returns, or the exit code that its exception would give an interpreter."""
    try:
        return run()
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        log(f"{leaving.code}\n")
        return 1
    except BaseException as error:  # noqa: BLE001 - the interpreter would end with it
        log_traceback(error)
        return 1


def exit_process(code: int) -> None:
    """Exit as an interpreter does, but do not free memory: in a fork that would copy it first."""
    try:
        # wait for the job's threads; Python has no public function for this
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
        flush()
    finally:
        os._exit(code)
