"""The launcher's children: those asyncio waits for, with what they used, and orphans, which it reaps."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# asyncio's way to a child's end; kept because Children puts its own function in the module's place
open_pidfd = os.pidfd_open

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class LostChild(Exception):
    """A process was started and could not be watched, so it was killed: it must not be started again."""


Ended = Callable[[int, resource.struct_rusage], None]
"""Is told a child's exit code, or the negated number of the signal that ended it, and what it used."""


class Children:
    """Keeps apart what asyncio started, and so waits for, and what was left to this process by others.

    asyncio tells nobody which children it watches, nor what they used, so the two calls it watches
    children with are replaced for this process: pidfd_open, made once for each child in the same step that
    starts it, and waitpid, made once for each that ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: set[int] = set()
        self._usages: dict[int, resource.struct_rusage] = {}
        self._peak = 0  # of this process, as far as known, in KiB
        self._is_blocked = False
        self._list = -1
        self._fostered: dict[int, Ended] = {}
        self.hear_of_orphans: Callable[[], None] = lambda: None
        """Called before an orphan is reaped that is not expected: somebody may have told of it already."""

    def install(self) -> None:
        """Become the parent of all orphans below, and take over asyncio's waiting."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot become the parent of orphans (prctl)")
        with suppress(FileNotFoundError):
            # kept open: it is read at every job's end
            self._list = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        os.pidfd_open = self._watch
        os.waitpid = self._wait
        if sys.version_info < (3, 12):  # later ones take pidfds by themselves
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(self._loop)
            asyncio.set_child_watcher(watcher)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap_orphans)

    def is_watched(self, pid: int) -> bool:
        """Whether this is a child that was not reaped, so that the number cannot be another's."""
        return pid in self._watched

    def orphans(self) -> list[int]:
        """Return the children that were left to this process; none where the kernel keeps no list of them."""
        if self._list < 0:
            return []
        listed = bytearray()
        while part := os.pread(self._list, _PAGE, len(listed)):
            listed += part
            if (
                len(part) < _PAGE // 2
            ):  # the kernel hands out nearly a page at a time, as long as there is more
                break
        return [pid for pid in map(int, listed.split()) if pid not in self._watched]

    def kill(self, pid: int) -> None:
        """Kill a child that asyncio waits for, if it was not reaped.

        asyncio's own way would reap it if it has just ended, and then warn that nobody knows how.
        """
        if pid in self._watched:
            os.kill(pid, signal.SIGKILL)

    def take_usage(self, pid: int) -> resource.struct_rusage | None:
        """Return what an ended child used, once."""
        return self._usages.pop(pid, None)

    def foster(self, pid: int, ended: Ended) -> None:
        """Expect another process's child, unreaped as yet: if it is left to this one, its end is told."""
        self._fostered[pid] = ended

    def give_up(self, pid: int) -> None:
        """Expect it no more, as its own parent reaps it."""
        self._fostered.pop(pid, None)

    def peak_of(self, usage: resource.struct_rusage) -> int | None:
        """Return a child's peak memory in bytes, None if it may be this process's, as it is until exec.

        This process's own ru_maxrss is no measure: it shows its parent's in the same way.
        """
        if usage.ru_maxrss > self._peak:
            self._peak = _peak_of_this() + _INEXACT
        return usage.ru_maxrss * 1024 if usage.ru_maxrss > self._peak else None

    def _watch(self, pid: int, flags: int = 0) -> int:
        try:
            pidfd = open_pidfd(pid, flags)
        except OSError as error:
            # it runs already: an error that looks like a failed start would have it started twice
            os.killpg(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            raise LostChild(f"could not watch process {pid}, so killed it: {error.strerror}") from error
        self._watched.add(pid)
        return pidfd

    def _wait(self, pid: int, options: int, /) -> tuple[int, int]:
        reaped, status, usage = os.wait4(pid, options)
        if reaped in self._watched:  # else a child that never became the program; asyncio forgot it too
            self._watched.discard(reaped)
            self._usages[reaped] = usage
            if self._is_blocked:
                self._is_blocked = False
                self._loop.call_soon(self._reap_orphans)
        return reaped, status

    def _reap_orphans(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid in self._watched:
                # the kernel shows the same one until asyncio has taken it, so look again after that
                self._is_blocked = True
                return
            if ended.si_pid not in self._fostered:
                self.hear_of_orphans()
            pid, status, usage = os.wait4(ended.si_pid, os.WNOHANG)
            if pid in self._fostered:
                self._fostered.pop(pid)(os.waitstatus_to_exitcode(status), usage)


_PAGE = 4096  # bytes
_INEXACT = 512  # KiB by which the kernel's two ways to count may differ


def _peak_of_this() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0])
