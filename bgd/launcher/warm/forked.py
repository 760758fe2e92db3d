"""An attempt that runs in a process forked from a warm worker, which stays its parent."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable

from bgd.launcher.children import LostChild
from bgd.launcher.deadlines import Deadline
from bgd.launcher.execution import Usage
from bgd.launcher.process import Process, read_process
from bgd.launcher.tools import Tools
from bgd.launcher.tree import Tree
from bgd.launcher.warm.line import Said


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
