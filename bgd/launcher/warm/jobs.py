"""The attempts that one warm worker was given, from being handed over to their ends."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import resource
from collections.abc import Callable

from bgd.launcher.children import LostChild
from bgd.launcher.input import unnamed
from bgd.launcher.problems import SHORTAGES, CannotStart, one_line, why_not_started
from bgd.launcher.process import Process
from bgd.launcher.spawn import environment_of
from bgd.launcher.tools import Tools
from bgd.launcher.tree import mark
from bgd.launcher.warm.forked import Forked, child_of
from bgd.launcher.warm.line import Said, WorkerLine
from bgd.launcher.warm.reused import Reused, Totals
from bgd.wire.launching import Launch, NotStarted


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
