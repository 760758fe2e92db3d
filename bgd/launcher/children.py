"""The launcher's children: those it started, with what they used, and orphans, all of which it reaps."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

# --- What reads from many descriptors: a group of them that is a single one to the loop.


class Readers:
    """Calls back as long as a descriptor has something to read, or is at its end.

    A reader of the loop's own costs several times as much to add and to remove, which jobs do that are over
    in a moment.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._call_back)

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back from now on; to be said outside of these calls.

        In one of them the number might be that of another just removed, whose turn is still to come.
        """
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """Call back no more, if that was still done; to be said before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _call_back(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is not None:  # none of the others has just removed it
                callback()


_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_PTRACE_DETACH = 17  # linux/ptrace.h


class LostChild(Exception):
    """A process was started and could not be watched, so it was killed: it must not be started again."""


Ended = Callable[[int, resource.struct_rusage], None]
"""Is told a child's exit code, or the negated number of the signal that ended it, and what it used."""


class Children:
    """Reaps every child of this process, and keeps apart its own and what was left to it by others.

    The one signal that says that children have ended is all it goes by: it costs less than a descriptor for
    each, and without it nobody would hear of orphans.
    """

    def __init__(self) -> None:
        self._watched: dict[int, Callable[[int], object]] = {}
        self._usages: dict[int, resource.struct_rusage] = {}
        self._peak = 0  # of this process, as far as known, in KiB
        self._list = -1
        self._signals = -1
        self._fostered: dict[int, Ended] = {}
        self.hear_of_orphans: Callable[[], None] = lambda: None
        """Called before an orphan is reaped that is not expected: somebody may have told of it already."""

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Become the parent of all orphans below, and begin to reap."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot become the parent of orphans (prctl)")
        with suppress(FileNotFoundError):
            # kept open: it is read at every job's end
            self._list = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        # signals of which the loop hears by itself cost it three system calls more each
        self._signals, written_to = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._signals, self._hear)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.siginterrupt(signal.SIGCHLD, False)
        # one signal is as good as hundreds, so there is nothing to warn of
        signal.set_wakeup_fd(written_to, warn_on_full_buffer=False)

    def watch(self, pid: int, ended: Callable[[int], object]) -> None:
        """Tell with what code a child ended; to be called in the step of the loop that started it."""
        self._watched[pid] = ended

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

    def kill(self, pid: int, signum: int = signal.SIGKILL) -> None:
        """Send a signal to a child of this process's own, if it was not reaped."""
        if pid in self._watched:
            os.kill(pid, signum)

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

    def _hear(self) -> None:
        os.read(self._signals, _PAGE)
        while (pid := _ended_child()) is not None:
            if pid not in self._watched and pid not in self._fostered:
                self.hear_of_orphans()
            _, status, usage = os.wait4(pid, 0)
            if os.WIFSTOPPED(status):
                _let_go(pid, os.WSTOPSIG(status))
                continue
            code = os.waitstatus_to_exitcode(status)
            if pid in self._watched:
                self._usages[pid] = usage
                self._watched.pop(pid)(code)
            elif pid in self._fostered:
                self._fostered.pop(pid)(code, usage)


def fork(doing: Callable[[int], object], kept: Collection[int] = ()) -> tuple[int, int]:
    """Have a fork call this with a descriptor to write to; return its pid, and where that can be read.

    It has `kept` and the standard descriptors, and nothing else of this process: neither the lock, nor the
    pipes by which the processes of other attempts are known.

    Raises:
        OSError: there is no room for it now.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if not pid:
            _be_apart(doing, writer, {0, 1, 2, writer, *kept})
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    os.read(reader, 1)  # it has closed the rest, which takes no longer than a fork
    os.set_blocking(reader, False)
    return pid, reader


def all_from(fd: int, is_whole: Callable[[bytearray], bool] = lambda _: False) -> asyncio.Future[bytes]:
    """Return a future of what is written to a pipe until it is whole or ends; the pipe is then closed."""
    loop, said = asyncio.get_running_loop(), bytearray()
    ended: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        part = os.read(fd, _PIPE)
        said.extend(part)
        if (not part or is_whole(said)) and not ended.done():
            ended.set_result(bytes(said))

    def close(_: object) -> None:
        loop.remove_reader(fd)
        os.close(fd)

    loop.add_reader(fd, read)
    ended.add_done_callback(close)
    return ended


def close_all_but(kept: Collection[int]) -> None:
    """Close every descriptor of this process but these."""
    start = 0
    for fd in sorted(kept):
        if start < fd:  # os.closerange(0, 0) closes everything on Python 3.11
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _be_apart(doing: Callable[[int], object], writer: int, kept: Collection[int]) -> NoReturn:
    try:
        gc.disable()  # what it finds may close descriptors by numbers that are others' by now
        signal.set_wakeup_fd(-1)
        for signum in signal.valid_signals():
            if signal.getsignal(signum) not in {
                signal.SIG_DFL,
                None,
            }:  # Python ignores SIGPIPE, programs do not
                signal.signal(signum, signal.SIG_DFL)
        close_all_but(kept)
        os.write(writer, b"\0")
        doing(writer)
        os._exit(0)
    finally:
        os._exit(1)


_PIPE = 1 << 16  # bytes that a pipe holds


_PAGE = 4096  # bytes
_INEXACT = 512  # KiB by which the kernel's two ways to count may differ


def _let_go(pid: int, signum: int) -> None:
    """Trace a child no more that made this process its tracer (PTRACE_TRACEME), and has stopped for it.

    Nobody else can let it go on. It gets the signal that it stopped at, but for the one that only tracing
    makes.
    """
    passed_on = 0 if signum == signal.SIGTRAP else signum
    # the one error there can be: it was killed meanwhile
    ctypes.CDLL(None).ptrace(_PTRACE_DETACH, ctypes.c_long(pid), None, ctypes.c_long(passed_on))


def _ended_child() -> int | None:
    """Return a child that has ended and stays a zombie as yet, or one this process traces; None: no more."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if ended is None else ended.si_pid


def _peak_of_this() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0])


# --- The launcher's event loop: the standard one, but that Children wait for the processes it starts.


P = TypeVar("P", bound=asyncio.BaseProtocol)


class Loop(asyncio.SelectorEventLoop):
    """What asyncio.create_subprocess_exec starts here has no pipes of asyncio's, only given descriptors.

    The ways of asyncio's own to wait for a process cost a third of starting it, a descriptor and a turn of
    the loop more, and tell nobody what the process used.
    """

    def __init__(self, children: Children) -> None:
        super().__init__()
        self._children = children

    async def subprocess_exec(
        self, protocol_factory: Callable[[], P], program: str, *args: str, **options: Any
    ) -> tuple[asyncio.SubprocessTransport, P]:
        """Start a process as subprocess.Popen does, before anything is awaited.

        Raises:
            OSError, ValueError, subprocess.SubprocessError: as Popen does; there is none then.
        """
        process = subprocess.Popen([program, *args], **options)  # noqa: ASYNC220  as long as a vfork
        process.returncode = 0  # it is not for Popen to wait
        transport = _Transport(process.pid)
        self._children.watch(process.pid, transport.end)
        protocol = protocol_factory()
        protocol.connection_made(transport)
        return transport, protocol


def process_of(pid: int, children: Children) -> asyncio.subprocess.Process:
    """Return what asyncio.create_subprocess_exec would have for a child that was just forked."""
    loop = asyncio.get_running_loop()
    transport = _Transport(pid)
    children.watch(pid, transport.end)
    protocol = asyncio.subprocess.SubprocessStreamProtocol(limit=0, loop=loop)
    protocol.connection_made(transport)
    return asyncio.subprocess.Process(transport, protocol, loop)


class _Transport(asyncio.SubprocessTransport):
    """All that asyncio's Process asks of a transport."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid
        self._code: int | None = None
        self._ended = asyncio.Event()

    def get_pid(self) -> int:
        return self._pid

    def get_returncode(self) -> int | None:
        return self._code

    def get_pipe_transport(self, fd: int) -> None:
        """Return none, as there are none."""

    async def _wait(self) -> int | None:
        await self._ended.wait()
        return self._code

    def end(self, code: int) -> None:
        self._code = code
        self._ended.set()
