"""Attempts that run in a warm worker or in a process forked from it, and the line to the worker.

What comes from a worker is trusted as little as any job: users' code runs there.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import resource
import signal
from collections.abc import Callable

from bgd.launcher.children import Children, LostChild
from bgd.launcher.context import Tools
from bgd.launcher.deadlines import Deadline
from bgd.launcher.problems import SHORTAGES, CannotStart, one_line, why_not_started
from bgd.launcher.process import Process, read_process
from bgd.launcher.spawn import environment_of, unnamed
from bgd.launcher.tree import Tree, Usage, mark
from bgd.launcher.warm.channel import Said, WorkerLine
from bgd.wire.launching import Launch, NotStarted

# --- The attempts that one warm worker was given, from being handed over to their ends.


class NotTaken(Exception):
    """The worker did not take the attempt, and nothing of it ran: another worker may."""


class Jobs:
    """`process` is the worker's, `environment` what it was started with.

    `ended` is called at the end of each that began, `retire` before that if the worker is fit for no other,
    `kill` if it does not do its part.
    """

    def __init__(
        self,
        tools: Tools,
        line: WorkerLine,
        process: Process,
        environment: dict[str, str],
        *,
        ended: Callable[[], None],
        retire: Callable[[], None],
        kill: Callable[[], None],
    ) -> None:
        self._tools = tools
        self._line = line
        self._process = process
        self._environment = environment
        self._ended = ended
        self._retire = retire
        self._kill = kill
        self._numbers = itertools.count(1)
        self._handed: dict[int, _Handed] = {}
        self._begun: dict[int, Forked | Reused] = {}

    @property
    def is_running(self) -> bool:
        """Whether one has begun and not ended."""
        return bool(self._begun)

    async def run(self, launch: Launch, output: int, stamp: int | None) -> Forked | Reused:
        """Have the worker run an attempt of this stamp, whose output goes there.

        Raises:
            NotTaken: it does not.
            CannotStart, OSError, LostChild: as from `bgd.launcher.spawn.spawn`.
        """
        result = unnamed(self._tools.state)
        number = next(self._numbers)
        handed = self._handed[number] = _Handed(launch, result)
        try:
            content = _description(launch, self._environment)
            self._line.say({"id": number, "stamp": stamp, **content}, (output, result), self._tools.state)
            return await handed.begun
        except BaseException:
            os.close(result)
            raise
        finally:
            self._handed.pop(number, None)

    def hear(self, said: Said, descriptor: int | None) -> None:
        """Take what the worker says of a job.

        Raises:
            LookupError: it was given none of that number.
        """
        number = said.id or 0
        if number in self._begun:
            self._begun[number].hear(said)
            return
        handed = self._handed.pop(number)
        try:
            _check(said, handed.launch, self._tools)
            if said.usage is not None:  # which only a worker that runs it itself tells at once
                begun: Forked | Reused = self._reused(number, handed.result, said.usage)
            else:
                begun = self._forked(number, handed.result, descriptor)
        except (NotTaken, CannotStart, OSError, LostChild) as error:
            handed.begun.set_exception(error)
        else:
            self._begun[number] = begun
            handed.begun.set_result(begun)

    def lose_worker(self, code: int, usage: resource.struct_rusage | None) -> None:
        """Take that the worker has ended so, and is reaped."""
        for handed in self._handed.values():
            # it moves a result file on before it does anything with the job
            is_taken = os.lseek(handed.result, 0, os.SEEK_CUR) > 0
            handed.begun.set_exception(
                LostChild("its warm worker died while it started it") if is_taken else NotTaken()
            )
        self._handed.clear()
        for begun in list(self._begun.values()):
            begun.lose_worker(code, usage)

    def _reused(self, number: int, result: int, before: Totals) -> Reused:
        def take_back(is_fit: bool) -> None:  # noqa: FBT001  what is asked of it is in its name
            del self._begun[number]
            if not is_fit:
                self._retire()
            self._ended()

        return Reused(self._process.pid, result, before, self._tools.children, take_back)

    def _forked(self, number: int, result: int, pidfd: int | None) -> Forked:
        if pidfd is None:
            raise LostChild("its warm worker named no process")

        def reap() -> None:
            self._line.say({"reap": number}, (), self._tools.state)

        def end() -> None:
            self._begun.pop(number, None)
            self._ended()

        try:
            # where the worker has died since, the child is this process's
            child = child_of({self._process.pid, os.getpid()}, pidfd)
            return Forked(child, pidfd, result, self._tools, reap=reap, ended=end, silent=self._kill)
        except OSError as error:  # it runs already: as an error of the machine it would be tried again
            raise LostChild(f"its process could not be watched: {error.strerror}") from error


class _Handed:
    """What the worker has not answered yet."""

    def __init__(self, launch: Launch, result: int) -> None:
        self.launch = launch
        self.result = result
        self.begun: asyncio.Future[Forked | Reused] = asyncio.get_running_loop().create_future()


def _description(launch: Launch, environment: dict[str, str]) -> dict[str, object]:
    """Return what a worker of this environment is told of a job."""
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


def _check(said: Said, launch: Launch, tools: Tools) -> None:
    """Raise what the worker's answer means, if it is not that the job runs."""
    if said.stale is not None:
        raise NotTaken
    if said.lost is not None:
        raise LostChild(said.lost)
    if said.errno is not None:
        error = OSError(said.errno, os.strerror(said.errno))
        if said.errno in SHORTAGES and said.errno != errno.ENOSPC:
            raise error
        if tools.mounts.folder_that_may_hang(launch.cwd) is not None:  # to look there might take for ever
            raise CannotStart(one_line(NotStarted.NO_DIRECTORY, f"{launch.cwd}: {error.strerror}")) from error
        raise CannotStart(why_not_started(launch, error)) from error


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
