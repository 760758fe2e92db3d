"""Attempts that run in a warm worker or in a process forked from it, and the line to the worker.

What comes from a worker is trusted as little as any job: users' code runs there.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import resource
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from bgd.launcher.children import Children, LostChild
from bgd.launcher.context import Tools
from bgd.launcher.deadlines import Deadline
from bgd.launcher.process import Process, read_process
from bgd.launcher.spawn import unnamed
from bgd.launcher.tree import Tree, Usage

# --- The launcher's end of the line to a warm worker: a message a packet, descriptors beside it.


class Said(Struct, frozen=True, kw_only=True):
    """What a worker says, of itself or of the job with the number `id`: see bgd/worker/warm.py."""

    importing: str | None = None
    failed: str | None = None
    ready: int | None = None
    unfit: str | None = None
    skew: bool = False
    id: int | None = None
    stale: str | None = None
    errno: int | None = None
    lost: str | None = None
    code: int | None = None
    usage: tuple[float, float, int] | None = None
    left_children: bool = False
    spent: bool = False


class WorkerLine:
    """`heard` is called with each message and the descriptor that came with it, which is then the hearer's.

    `hung_up` is called when nothing more will come, or what came was no message.
    """

    def __init__(self, heard: Callable[[Said, int | None], None], hung_up: Callable[[], None]) -> None:
        """Make both ends; `far_end` is for the worker, and to be closed here once that has it."""
        self._heard = heard
        self._hung_up = hung_up
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, list[int], int | None]] = deque()
        self._is_full = False  # so that the loop says when there is room
        self._socket, self.far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self.hear)

    def say(self, content: object, descriptors: Sequence[int], folder: str) -> None:
        """Send a message with descriptors, which stay open until it is answered.

        Raises:
            OSError: it is too long for a packet, and there is no room for a file of it in `folder`.
        """
        text = msgspec.json.encode(content)
        sent, file = list(descriptors), None
        if len(text) > _MAX_PACKET:
            file = unnamed(folder, text)
            sent, text = [*sent, file], b""
        self._unsent.append((text, sent, file))
        if len(self._unsent) == 1:
            self._send()

    def hear(self) -> bool:
        """Take what has come, at most some messages of it in a row; return whether there may be more."""
        for _ in range(_IN_A_ROW):
            try:
                text, descriptors = self._received()
            except BlockingIOError:
                return False
            except OSError:
                text, descriptors = b"", []
            try:
                said = _decode(text)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):  # nothing, or nonsense
                _close_all(descriptors)
                self.close()
                self._hung_up()
                return False
            _close_all(descriptors[1:])
            self._heard(said, descriptors[0] if descriptors else None)
        return True

    def hear_rest(self) -> None:
        """Take all that has come; only once nobody is there who could go on for ever."""
        while self.hear():
            pass

    def close(self) -> None:
        """Hang up: the worker ends once it has done what it does."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        for _, _, file in self._unsent:
            if file is not None:
                os.close(file)
        self._unsent.clear()

    def _received(self) -> tuple[bytes, list[int]]:
        if self._socket.fileno() < 0:
            raise BlockingIOError
        text, beside, flags, _ = self._socket.recvmsg(_MAX_PACKET, _ROOM, _CLOEXEC)
        descriptors = array.array("i")
        for level, kind, data in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if flags & _CUT:
            text = b""
        return text, descriptors.tolist()

    def _send(self) -> None:
        while self._unsent:
            text, descriptors, file = self._unsent[0]
            try:
                self._socket.sendmsg([text], _beside(descriptors))
            except BlockingIOError:
                self._is_full = True
                self._loop.add_writer(self._socket, self._send)
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._loop.call_later(_AGAIN, self._send)
                    return
                break  # it is gone; who waits for an answer is told when its process has ended
            self._unsent.popleft()
            if file is not None:
                os.close(file)
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._socket)


WORKER_PROTOCOL = 1  # bgd/worker/channel.py has it too, and the next
_MAX_PACKET = 65_536  # bytes
_ROOM = socket.CMSG_SPACE(4)
# plain numbers, as an operation on an enum's takes as long as a system call
_CLOEXEC, _CUT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC)
# of the kernel's memory, or of descriptors on their way between the user's processes; they pass
_SHORTAGES = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_AGAIN = 0.1  # seconds
_IN_A_ROW = 64  # messages, so that a worker that talks for ever holds up nobody

_decode = msgspec.json.Decoder(Said).decode


def _beside(descriptors: list[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def _close_all(descriptors: Sequence[int]) -> None:
    for each in descriptors:
        os.close(each)


# --- An attempt that runs in a warm worker itself, which has it alone as long as it lasts.


Totals = tuple[float, float, int]
"""Of a worker since it began: seconds for the user and in the system, its peak of memory in KiB."""


class Reused:
    """`before`: what the worker had used when it began with this.

    `returned` is called once it is no longer needed: whether it is fit for another attempt.
    """

    def __init__(
        self, pid: int, result: int, before: Totals, children: Children, returned: Callable[[bool], None]
    ) -> None:
        self.pid = pid
        self.result: int | None = result
        self._children = children
        self._before = before
        self._returned = returned
        self._usage = Usage()
        self._has_left_children = False
        self._is_worker_dead = False
        self._is_spent = False
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self._end.done()

    def signal(self, signum: int) -> None:
        if not self.is_over:
            self._children.kill(self.pid, signum)

    async def wait(self) -> int:
        return await self._end

    def usage(self) -> Usage:
        return self._usage

    def has_left_others(self, tree: Tree) -> bool:
        return tree.has_group() if self._is_worker_dead else self._has_left_children

    def release(self, *, is_intact: bool) -> None:
        """Give the worker back."""
        self._returned(is_intact and not self._is_spent and not self._has_left_children)

    def hear(self, said: Said) -> None:
        """Take what the worker says of it."""
        if said.code is not None and said.usage is not None:
            self._has_left_children = said.left_children
            self._is_spent = said.spent
            self._finish(said.code, said.usage)

    def lose_worker(self, code: int, usage: resource.struct_rusage | None) -> None:
        """Take that the worker has ended so, by the job's own doing or another's."""
        self._is_worker_dead = True
        self._finish(code, usage and (usage.ru_utime, usage.ru_stime, usage.ru_maxrss))

    def _finish(self, code: int, totals: Totals | None) -> None:
        if self._end.done():
            return
        if totals is not None:
            user, system, peak = totals
            self._usage = Usage(
                round(user - self._before[0], 6), round(system - self._before[1], 6), peak * 1024
            )
        self._end.set_result(code)


# --- An attempt that runs in a process forked from a warm worker, which stays its parent.


class Forked:
    """Hears of its end from the worker, which says how it ended, and reaps it once it may.

    `reap` is called when it may: until then its number is kept, so that this process is surely the one that
    is signalled and whose group is looked at. If the worker dies before, this process inherits the child,
    even a dead one, and reads its end itself. `ended` is called when it is over, and `silent` if the worker
    says nothing of an end that `pidfd`, of which this one has a copy, has shown.
    """

    def __init__(
        self,
        child: Process,
        pidfd: int,
        result: int,
        tools: Tools,
        *,
        reap: Callable[[], None],
        ended: Callable[[], None],
        silent: Callable[[], None],
    ) -> None:
        """Begin to wait for its end.

        Raises:
            OSError: it cannot be waited for.
        """
        self.pid = child.pid
        self.result: int | None = result
        self._pidfd = os.dup(pidfd)
        self._tools = tools
        self._reap = reap
        self._ended = ended
        self._silent = silent
        self._patience: Deadline | None = None
        self._code: int | None = None
        self._usage = Usage()
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            tools.readers.add(self._pidfd, self._see_end)
        except OSError:
            os.close(self._pidfd)
            raise
        tools.children.foster(self.pid, self._take)

    @property
    def is_over(self) -> bool:
        return self._code is not None

    def signal(self, signum: int) -> None:
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signum)

    async def wait(self) -> int:
        return await self._end

    def usage(self) -> Usage:
        return self._usage

    def has_left_others(self, tree: Tree) -> bool:
        return tree.has_group()

    def release(self, *, is_intact: bool) -> None:
        """The worker is what it was, whatever became of its child."""

    def hear(self, said: Said) -> None:
        """Take what the worker says of it."""
        if said.code is not None and self._code is None:
            self._code = said.code
            self._reap()
        if said.usage is not None and self._code is not None:
            user, system, peak = said.usage
            self._finish(self._code, Usage(round(user, 6), round(system, 6), peak * 1024))

    def lose_worker(self, _code: int, _usage: resource.struct_rusage | None) -> None:
        """Take that the worker is dead, and reaped. The child is now this process's, unless it is no more."""
        if self._code is None:
            return
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped, and nobody can say any more what it had used
            self._finish(self._code, Usage())

    def _see_end(self) -> None:
        self._close()
        self._patience = self._tools.deadlines.after(_PATIENCE, self._silent)

    def _take(self, code: int, usage: resource.struct_rusage) -> None:
        self._finish(code, Usage(round(usage.ru_utime, 6), round(usage.ru_stime, 6), usage.ru_maxrss * 1024))

    def _finish(self, code: int, usage: Usage) -> None:
        if self._end.done():
            return
        self._tools.children.give_up(self.pid)
        self._close()
        if self._patience is not None:
            self._patience.cancel()
        self._code, self._usage = code, usage
        self._end.set_result(code)
        self._ended()

    def _close(self) -> None:
        if self._pidfd >= 0:
            self._tools.readers.remove(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def child_of(parents: set[int], pidfd: int) -> Process:
    """Return the process of a pidfd that was handed over by one of these, whose child it must be.

    Raises:
        LostChild: it is not.
    """
    pid = _pid_of(pidfd)
    child = read_process(pid) if pid > 0 else None
    try:
        signal.pidfd_send_signal(pidfd, 0)  # it is still there, so what was read was it
    except OSError:
        child = None
    if child is None or child.parent not in parents:
        raise LostChild("its warm worker named a process that is not its child")
    return child


def _pid_of(pidfd: int) -> int:
    """Return the number the kernel has for it; -1: it is gone, or this is no pidfd."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, _MOST_FDINFO)
    finally:
        os.close(fd)
    _, found, rest = text.partition(b"\nPid:")
    return int(rest.split(maxsplit=1)[0]) if found else -1


_PATIENCE = 5.0  # seconds for a worker to tell of an end; it may wait for its turn to compute
_MOST_FDINFO = 4096
