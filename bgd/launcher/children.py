"""Reaps the launcher's children, recording their usage, and orphans."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from bgd.launcher.process import own_status, read_silent

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_PTRACE_DETACH = 17  # linux/ptrace.h


class LostChild(Exception):
    """A process was started, could not be watched and was killed: it must not be started again."""


OnEnd = Callable[[int, resource.struct_rusage], object]
"""Takes a child's exit code, or the negated number of the signal that ended it, and what it used."""


class Children:
    """Reap every child of this process; distinguish own children from orphans.

    Only SIGCHLD is used: a descriptor for each child would cost more, and would not report orphans.
    """

    def __init__(self) -> None:
        self._watched: dict[int, OnEnd] = {}
        self._peak = 0  # KiB, of this process, as far as known
        self._list = -1
        self._signals = -1
        self._expected: dict[int, OnEnd] = {}
        self.on_orphan: Callable[[], None] = lambda: None
        """Called before an unexpected orphan is reaped: a message about it may be waiting."""
        self.on_reaped: Callable[[], None] = lambda: None
        """Called after the ends of all children that had ended were reported."""

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Become the parent of all orphans below this process, and begin to reap."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot become the parent of orphans (prctl)")
        with suppress(FileNotFoundError):
            # kept open, because it is read at the end of every job
            self._list = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        # a signal handled by the event loop itself would cost three more system calls
        self._signals, written_to = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._signals, self._reap)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.siginterrupt(signal.SIGCHLD, False)
        # one signal is enough for many ends, so a full pipe is no reason to warn
        signal.set_wakeup_fd(written_to, warn_on_full_buffer=False)

    def watch(self, pid: int, ended: OnEnd) -> None:
        """Report a child's end; must be called in the step of the loop that started it."""
        self._watched[pid] = ended

    def orphans(self) -> list[int]:
        """Return the pids of orphans that became children; none if the kernel keeps no list of children."""
        if self._list < 0:
            return []
        listed = bytearray()
        while part := os.pread(self._list, _PAGE, len(listed)):
            listed += part
            if len(part) < _PAGE // 2:  # the kernel returns nearly a page at a time while there is more
                break
        return [pid for pid in map(int, listed.split()) if pid not in self._watched]

    def kill(self, pid: int, signum: int = signal.SIGKILL) -> None:
        """Send a signal to a child of this process, if it is not reaped."""
        if pid in self._watched:
            os.kill(pid, signum)

    def kill_group(self, pid: int) -> None:
        """Kill a child of this process that leads a session, if it is not reaped, and its process group."""
        if pid in self._watched:
            os.killpg(pid, signal.SIGKILL)

    def expect_orphan(self, pid: int, ended: OnEnd) -> None:
        """Expect another process's unreaped child: report its end if it becomes this process's child."""
        self._expected[pid] = ended

    def forget_orphan(self, pid: int) -> None:
        """Stop expecting it, because its own parent reaps it."""
        self._expected.pop(pid, None)

    def peak_memory(self, usage: resource.struct_rusage) -> int | None:
        """Return a child's peak memory in bytes; None if it may be this process's, as it is until an exec.

        This process's own ru_maxrss is no measure, because it shows its parent's in the same way.
        """
        if usage.ru_maxrss > self._peak:
            try:
                self._peak = int(own_status("VmHWM")) + _INEXACT
            except OSError:  # no descriptor is free
                return None
        return usage.ru_maxrss * 1024 if usage.ru_maxrss > self._peak else None

    def _reap(self) -> None:
        os.read(self._signals, _PAGE)
        while (pid := _ended_child()) is not None:
            if pid not in self._watched and pid not in self._expected:
                self.on_orphan()
            _, status, usage = os.wait4(pid, 0)
            if os.WIFSTOPPED(status):
                _detach(pid, os.WSTOPSIG(status))
                continue
            code = os.waitstatus_to_exitcode(status)
            ended = self._watched.pop(pid, None) or self._expected.pop(pid, None)
            if ended is not None:
                ended(code, usage)
        self.on_reaped()


_PAGE = 4096  # bytes
_INEXACT = 512  # KiB by which the kernel's two counts may differ


def _detach(pid: int, signum: int) -> None:
    """Detach from a child that made this process its tracer (PTRACE_TRACEME) and has stopped for it.

    No other process can continue it. It gets the signal that it stopped at, except SIGTRAP, which only
    tracing causes.
    """
    passed_on = 0 if signum == signal.SIGTRAP else signum
    # the only possible error is that it was killed meanwhile
    ctypes.CDLL(None).ptrace(_PTRACE_DETACH, ctypes.c_long(pid), None, ctypes.c_long(passed_on))


def has_ended(pid: int) -> bool:
    """Return whether a process that this one has not reaped has ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # a warm worker is its parent
        process = read_silent(pid)
        return process is None or process.is_dead


def _ended_child() -> int | None:
    """Return the pid of a child that is a zombie, or is traced by this process and stopped; None: no more."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if ended is None else ended.si_pid


# --- Programs that this process starts.


class Child:
    """A child that this process started; `returncode` and `usage` are None until it is reaped."""

    def __init__(self, pid: int, children: Children) -> None:
        """Watch it; to be called in the step of the loop that started it."""
        self.pid = pid
        self.returncode: int | None = None
        self.usage: resource.struct_rusage | None = None
        self._ended = asyncio.Event()
        children.watch(pid, self._end)

    async def wait(self) -> int:
        """Wait for its end; return its exit code, or the negated number of the signal that ended it."""
        while self.returncode is None:
            await self._ended.wait()
        return self.returncode

    def _end(self, code: int, usage: resource.struct_rusage) -> None:
        self.returncode, self.usage = code, usage
        self._ended.set()


def start_program(
    path: str,
    argv: list[str],
    env: Mapping[str, str],
    standard: tuple[int, int, int],
    passed: Collection[int] = (),
) -> int:
    """Start a program that leads a session, with this process's folder and umask; return its pid.

    `standard` become its standard descriptors. Of all others it keeps `passed`, with the same numbers.

    Raises:
        OSError, ValueError: it cannot be started; no process exists then.
    """
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(standard)]
    for fd in passed:
        os.set_inheritable(fd, True)
    try:
        # the C library needs half of Popen's time, and lets the kernel reset the signals
        return os.posix_spawn(path, argv, env, file_actions=actions, setsid=True, setsigdef=_IGNORED)
    except NotImplementedError:  # Python was built for an older C library, which knows no `setsid`
        options: dict[str, Any] = dict(zip(("stdin", "stdout", "stderr"), standard, strict=True))
        process = subprocess.Popen(
            argv, executable=path, env=env, start_new_session=True, pass_fds=[*passed], **options
        )
        process.returncode = 0  # Children wait for it, not Popen
        return process.pid
    finally:
        for fd in passed:
            os.set_inheritable(fd, False)


_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python


# --- Forks of this process that keep nothing of it except what they need.


def fork(
    run: Callable[[int], object],
    kept: Collection[int] = (),
    is_whole: Callable[[bytearray], bool] = lambda _: False,
) -> tuple[int, asyncio.Future[bytes]]:
    """Call `run` in a fork, with a descriptor to write to; return its pid and what it writes, as `read_all`.

    The fork keeps `kept` and the standard descriptors and closes everything else of this process: it holds
    neither the lock nor pipes by which the processes of other attempts are recognized.

    Raises:
        OSError: the machine has no room for it now.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        written = read_all(reader, is_whole)  # first: a fork that cannot be watched would run all the same
        try:
            pid = os.fork()
            if not pid:
                _run_in_fork(run, writer, {0, 1, 2, writer, *kept})
        except BaseException:
            written.cancel()
            raise
    finally:
        os.close(writer)
    os.read(reader, 1)  # until it has closed the rest, which takes no longer than a fork
    os.set_blocking(reader, False)
    return pid, written


def read_all(fd: int, is_whole: Callable[[bytearray], bool] = lambda _: False) -> asyncio.Future[bytes]:
    """Return a future of what is written to a pipe until it is complete or ends; then close the pipe.

    Raises:
        OSError: the machine has no room to watch it now; the pipe is closed.
    """
    loop, received = asyncio.get_running_loop(), bytearray()
    ended: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        part = os.read(fd, _PIPE)
        received.extend(part)
        if (not part or is_whole(received)) and not ended.done():
            ended.set_result(bytes(received))

    def close(_: object) -> None:
        loop.remove_reader(fd)
        os.close(fd)

    try:
        loop.add_reader(fd, read)
    except OSError:
        os.close(fd)
        raise
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


def _run_in_fork(run: Callable[[int], object], writer: int, kept: Collection[int]) -> NoReturn:
    try:
        gc.disable()  # finalizers may close descriptors whose numbers are reused by then
        signal.set_wakeup_fd(-1)
        for signum in signal.valid_signals():
            # Python ignores SIGPIPE, programs must not
            if signal.getsignal(signum) not in {signal.SIG_DFL, None}:
                signal.signal(signum, signal.SIG_DFL)
        close_all_but(kept)
        os.write(writer, b"\0")
        run(writer)
        os._exit(0)
    finally:
        os._exit(1)


_PIPE = 1 << 16  # bytes that a pipe holds


# --- Readers: many descriptors, which are a single one for the event loop.


class Readers:
    """Call back while a descriptor is readable or at its end.

    A reader of the event loop costs several times as much to add and remove, which very short jobs do all the
    time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._call_back)

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back from now on; not to be called from a callback.

        In a callback the number might be reused: a descriptor just removed may still have its turn to come.
        """
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """Stop calling back; must be called before the descriptor is closed, and may be called again."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _call_back(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is not None:  # no earlier callback has just removed it
                callback()
