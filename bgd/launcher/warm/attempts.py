"""Attempts in a warm worker or in a process forked from it.

Messages from a worker are as untrusted as a job, because it runs users' code.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from typing import TYPE_CHECKING

from bgd.launcher.cgroup import Usage
from bgd.launcher.children import LostChild
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Deadline
from bgd.launcher.problems import SHORTAGES, CannotStart, one_line, why_not_started
from bgd.launcher.process import contents, read_process
from bgd.launcher.spawn import ResultFile, environment_of
from bgd.launcher.tree import ProcessEnd, StopReason, mark
from bgd.launcher.warm.channel import SharedMemory, WorkerMessage
from bgd.wire.class_jobs import MAX_DOCUMENT
from bgd.wire.launching import Launch, NotStarted

if TYPE_CHECKING:
    from bgd.launcher.warm.worker import Worker

# --- The handover of an attempt to a worker.


class NotAccepted(Exception):
    """The worker did not start the attempt, so another worker may."""


class Handover:
    """An attempt that may not have begun. `result`: for a worker that forks."""

    def __init__(self, launch: Launch, result: ResultFile | None) -> None:
        self.launch = launch
        self.result = result
        self.begun: asyncio.Future[ForkedExecution | ReusedExecution] = (
            asyncio.get_running_loop().create_future()
        )


def description_of(launch: Launch, environment: dict[str, str]) -> dict[str, object]:
    """Return the description of a job for a worker with this environment."""
    wanted = environment_of(launch)
    changes: dict[str, str | None] = {
        name: value for name, value in wanted.items() if environment.get(name) != value
    }
    changes.update(dict.fromkeys(environment.keys() - wanted.keys()))
    return {
        "text": (launch.stdin or b"").decode(),
        "env": changes,
        "cwd": launch.cwd,
        "umask": launch.umask,
        "mark": mark(launch.key),
    }


def problem_in(message: WorkerMessage, launch: Launch, context: Context) -> Exception | None:
    """Return the error in the worker's answer; None: the job runs."""
    if message.stale is not None:
        return NotAccepted()
    if message.lost is not None:
        return LostChild(message.lost)
    if message.errno is None:
        return None
    error = OSError(message.errno, os.strerror(message.errno))
    if message.errno in SHORTAGES and message.errno != errno.ENOSPC:
        return error
    if context.mounts.folder_that_may_hang(launch.cwd) is not None:  # inspecting it might take forever
        return CannotStart(one_line(NotStarted.NO_DIRECTORY, f"{launch.cwd}: {error.strerror}"))
    return CannotStart(why_not_started(launch, error))


# --- An attempt that runs in a warm worker's own process, which runs nothing else meanwhile.


WorkerUsage = tuple[float, float, int]
"""The usage of a worker since its start: user and system seconds, and its peak memory in KiB."""


class ReusedExecution:
    """An attempt that runs in the worker's own process. `before`: what that had used when it began."""

    def __init__(
        self, worker: Worker, number: int, pid: int, memory: SharedMemory, before: WorkerUsage
    ) -> None:
        self.pid = pid
        self._worker = worker
        self._number = number
        self._memory = memory
        self._before = before
        self._is_worker_fit = True
        self._result = ""
        self._end: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self._end.done()

    def signal(self, signum: int) -> None:
        if not self.is_over:
            self._worker.signal(signum)

    def note_stop(self, reason: StopReason) -> None:
        if not self.is_over:
            self._memory.note_stop(reason)

    async def wait(self) -> ProcessEnd:
        return await self._end

    def release(self, *, is_intact: bool) -> None:
        """Give the worker back."""
        self._worker.take_back(self._number, is_fit=is_intact and self._is_worker_fit)

    def receive(self, message: WorkerMessage) -> None:
        """Handle the worker's message about it."""
        if message.result is not None and len(self._result) <= MAX_DOCUMENT:
            self._result += message.result
        if message.code is not None and message.usage is not None:
            self._is_worker_fit = not (message.left_children or message.spent)
            self._finish(message.code, message.usage, left_others=message.left_children)

    def worker_ended(self, code: int, usage: resource.struct_rusage | None) -> None:
        """Handle the end of the worker, whatever caused it."""
        self._finish(code, usage and (usage.ru_utime, usage.ru_stime, usage.ru_maxrss), left_others=None)

    def _finish(self, code: int, totals: WorkerUsage | None, *, left_others: bool | None) -> None:
        if self._end.done():
            return
        usage = Usage()
        if totals is not None:
            user, system, peak = totals
            usage = _usage_of(user - self._before[0], system - self._before[1], peak)
        self._end.set_result(ProcessEnd(code, usage, self._result.encode(), left_others))


# --- An attempt that runs in a process forked from a warm worker, which stays its parent.


class ForkedExecution:
    """An attempt in a process that the worker forked. The worker reports its end, and reaps it when told.

    Until then its pid is not reused, so it is safe to signal it and to inspect its group. If the worker dies
    before that, this process inherits the child, alive or dead, and reads its end itself. A worker that does
    not report an end that the pidfd, of which this object keeps a copy, has shown is killed.
    """

    def __init__(
        self, worker: Worker, number: int, pid: int, pidfd: int, result: ResultFile, context: Context
    ) -> None:
        """Begin to wait for its end.

        Raises:
            OSError: it cannot be waited for.
        """
        self.pid = pid
        self._worker = worker
        self._number = number
        self._result = result
        self._pidfd = os.dup(pidfd)
        self._context = context
        self._patience: Deadline | None = None
        self._code: int | None = None
        self._end: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()
        try:
            context.readers.add(self._pidfd, self._see_end)
        except OSError:
            os.close(self._pidfd)
            raise
        context.children.expect_orphan(self.pid, self._take)

    @property
    def is_over(self) -> bool:
        return self._code is not None

    def signal(self, signum: int) -> None:
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signum)

    def note_stop(self, reason: StopReason) -> None:
        if not self.is_over:
            self._result.note_stop(reason)

    async def wait(self) -> ProcessEnd:
        return await self._end

    def release(self, *, is_intact: bool) -> None:  # noqa: ARG002  only a reused worker needs to know
        """Close its result file: the end of a child leaves the worker as it was."""
        self._result.close()

    def receive(self, message: WorkerMessage) -> None:
        """Handle the worker's message about it."""
        if message.code is not None and self._code is None:
            self._code = message.code
            self._worker.reap(self._number)
        if message.usage is not None and self._code is not None:
            self._finish(self._code, _usage_of(*message.usage))

    def worker_ended(self, _code: int, _usage: resource.struct_rusage | None) -> None:
        """Handle the death of the worker. The child is now this process's, unless the worker reaped it."""
        if self._code is None:
            return
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped: what it used is lost
            self._finish(self._code, Usage())

    def _see_end(self) -> None:
        self._close()
        self._patience = self._context.deadlines.after(_PATIENCE, self._worker.kill)

    def _take(self, code: int, usage: resource.struct_rusage) -> None:
        self._finish(code, _usage_of(usage.ru_utime, usage.ru_stime, usage.ru_maxrss))

    def _finish(self, code: int, usage: Usage) -> None:
        if self._end.done():
            return
        self._context.children.forget_orphan(self.pid)
        self._close()
        if self._patience is not None:
            self._patience.cancel()
        self._code = code
        self._end.set_result(ProcessEnd(code, usage, self._result.read()))
        self._worker.take_back(self._number)

    def _close(self) -> None:
        if self._pidfd >= 0:
            self._context.readers.remove(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def _usage_of(user: float, system: float, peak: int) -> Usage:
    """Return a usage; `peak` is in KiB."""
    return Usage(round(user, 6), round(system, 6), peak * 1024)


def child_of(parents: set[int], pidfd: int) -> int:
    """Return the pid of a pidfd that a worker sent, which must be of a child of one of these.

    Raises:
        LostChild: it is not.
    """
    pid = _pid_of(pidfd)
    child = read_process(pid) if pid > 0 else None
    try:
        signal.pidfd_send_signal(pidfd, 0)  # it still exists, so it is the process that was read
    except OSError:
        child = None
    if child is None or child.parent not in parents:
        raise LostChild("its warm worker named a process that is not its child")
    return pid


def _pid_of(pidfd: int) -> int:
    """Return the pid of a pidfd; -1 if the process is gone, or if this is not a pidfd."""
    _, found, rest = contents(f"/proc/self/fdinfo/{pidfd}", _MAX_FDINFO).partition(b"\nPid:")
    return int(rest.split(maxsplit=1)[0]) if found else -1


_PATIENCE = 5.0  # seconds for a worker to report an end; it may have to wait for a processor
_MAX_FDINFO = 4096
