"""The start of an attempt: what has to be there before, and what it is started with."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, closing
from functools import partial

from bgd.clock import elapsed
from bgd.launcher.cgroup import Group
from bgd.launcher.children import LostChild
from bgd.launcher.execution import Execution
from bgd.launcher.input import Input
from bgd.launcher.ladder import Ladder
from bgd.launcher.logfile import LogFile
from bgd.launcher.orders import Orders
from bgd.launcher.output import Output
from bgd.launcher.problems import SHORTAGES, CannotStart, no_input, one_line
from bgd.launcher.records import Began
from bgd.launcher.running import Running
from bgd.launcher.spawn import Stuck, spawn, spawn_apart
from bgd.launcher.stamp import new_stamp, wear
from bgd.launcher.tools import Tools
from bgd.launcher.tree import Tree
from bgd.launcher.warm.jobs import NotTaken
from bgd.launcher.warm.worker import Unfit, Worker
from bgd.launcher.warm.workers import Workers
from bgd.wire.launching import Launch, NotStarted, Warm, log_name
from bgd.wire.limits import NO_LIMITS, problem_with

log = logging.getLogger(__name__)

Begin = Callable[[Output, int | None], Awaitable[Execution | None]]
"""Begins a first process that writes to the output and has the stamp; None: it is to end instead."""


class Starting:
    """Tries to start one attempt, as often as it is asked to.

    `started_at`, and `since` on the elapsed clock: when the latest try began.
    """

    def __init__(
        self, launch: Launch, tools: Tools, workers: Workers, orders: Orders, grew: Callable[[], None]
    ) -> None:
        self.started_at, self.since = time.time(), elapsed()
        self._launch = launch
        self._tools = tools
        self._workers = workers
        self._orders = orders
        self._grew = grew

    async def once(self) -> Running | None:
        """Start it; None: it is to end, before it ran.

        Raises:
            CannotStart: for a reason that lies in the Launch.
            OSError: for one that lies in the machine; it was not started and may be tried again.
            LostChild: it was started and had to be killed at once.
        """
        words = b""
        if self._launch.warm is not None and self._launch.limits == NO_LIMITS:  # which a fork is not held to
            try:
                return await self._in_worker(self._launch.warm)
            except Unfit as unfit:
                words = f"bgd: a fresh interpreter for this job, as {unfit}\n".encode()
        waits_for = self._tools.mounts.that_may_hang(self._launch)
        with closing(Input(self._launch, self._tools.state, is_apart=waits_for is not None)) as given:
            if given.is_fifo:
                await self._wait_for_writer(given)
            if not await self._orders.let_go():
                return None
            group = self._group()
            running: Running | None = None
            try:
                begin: Begin = partial(self._spawned, given, group=group)
                if waits_for is not None:
                    begin = partial(self._spawned_apart, given, group=group, waits_for=waits_for)
                running = await self._run(begin, words, elapsed(), group)
            finally:
                if running is None and group is not None:
                    group.remove()
            return running

    def say(self, words: bytes) -> int:
        """Write words into the log of an attempt that did not start; return how many bytes that holds."""
        output = self._output()
        try:
            output.say(words)
        finally:
            output.close()
        return output.log.total

    async def _in_worker(self, warm: Warm) -> Running | None:
        while True:
            with self._limited():
                worker = await self._workers.lease(self._launch, warm, self._orders.asked)
            if worker is None:
                return None
            words, worker.words = worker.words, b""
            try:
                if await self._orders.let_go():
                    return await self._run(partial(self._handed, worker), words, worker.since_of_jobs)
            except NotTaken:
                worker.release()
                continue
            except BaseException:
                worker.release()
                raise
            worker.release()
            return None

    async def _wait_for_writer(self, given: Input) -> None:
        problem = no_input(self._launch.stdin_path or "", "nobody wrote to it within the time limit")
        with self._orders.limited(self._launch.timeout or None, problem):
            await given.begun(self._orders.asked)

    async def _handed(self, worker: Worker, output: Output, stamp: int | None) -> Execution:
        with self._limited():
            return await worker.run(self._launch, output.job_end, stamp, self._orders.asked)

    def _limited(self) -> AbstractContextManager[None]:
        return self._orders.limited(self._launch.timeout or None, "its warm worker took all of its time")

    async def _spawned(
        self, given: Input, output: Output, stamp: int | None, group: Group | None
    ) -> Execution:
        standard_input = self._nothing(output) if given.fd is None else given.fd
        wear(stamp)  # it is started in the first step of what follows, before anybody else can be
        try:
            return await spawn(self._launch, standard_input, output.job_end, self._tools, group)
        finally:
            wear(None)

    async def _spawned_apart(
        self, given: Input, output: Output, stamp: int | None, group: Group | None, waits_for: str
    ) -> Execution | None:
        launch, tools, orders = self._launch, self._tools, self._orders
        standard_input: int | str = self._nothing(output)
        if given.fd is not None:
            standard_input = given.fd
        elif launch.stdin_path is not None:
            standard_input = launch.stdin_path
        silence = f"{waits_for} did not answer"
        say = partial(log.warning, "job %d: %s for %g s; it goes on waiting", launch.key.job, silence, _LONG)
        long = tools.deadlines.after(_LONG, say)
        try:
            with orders.limited(launch.timeout or None, f"{silence} within the time limit"):
                parts = launch, standard_input, output.job_end, tools, group, stamp
                return await spawn_apart(*parts, asked=orders.asked)
        except Stuck as stuck:
            orders.problem = f"{silence}; {stuck}"
            log.warning("job %d: %s", launch.key.job, orders.problem)
            return None
        finally:
            long.cancel()

    def _nothing(self, output: Output) -> int:
        """Return the descriptor of who is given nothing to read."""
        return output.job_end if self._launch.pty else self._tools.null

    async def _run(
        self, begin: Begin, words: bytes, since: float, group: Group | None = None
    ) -> Running | None:
        """Have its first process begun with an output of its own, in whose log the words come first.

        `since`: elapsed clock, no process of the attempt is older. None: it is to end, before it ran.
        """
        launch, tools = self._launch, self._tools
        output = self._output()
        stamp = new_stamp()
        try:
            output.say(words)
            self.started_at, self.since = time.time(), elapsed()
            path = group.path if group else None
            tools.journal.note(Began(launch.key, output.inode, since, self.started_at, stamp, path))
            execution = await begin(output, stamp)
        except LostChild:
            tree = Tree(launch.key, output.channel, since, pid=None, stamp=stamp, group=group)
            await Ladder(tree, tools.looker, tools.deadlines, grace=0.0).bring_down()
            output.close()
            raise
        except BaseException:
            output.close()
            raise
        if execution is None:
            output.close()
            return None
        tree = Tree(launch.key, output.channel, since, execution.pid, stamp=stamp, group=group)
        return Running(launch, tools, execution, output, tree, (self.started_at, self.since), self._grew)

    def _group(self) -> Group | None:
        """Return the control group it is to be in, None: none of its own."""
        launch, delegation = self._launch, self._tools.delegation
        if launch.limits == NO_LIMITS and not launch.own_group:
            return None
        problem = problem_with(launch.limits, self._tools.abilities)
        if problem is not None:
            raise CannotStart(one_line(NotStarted.NO_LIMIT, problem))
        if not (launch.limits.controllers or launch.own_group):
            return None
        try:
            return delegation.new_group(launch.key, launch.limits)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            problem = f"no control group in {delegation.path}: {error.strerror}"
            raise CannotStart(one_line(NotStarted.NO_LIMIT, problem)) from error

    def _output(self) -> Output:
        launch = self._launch
        path = f"{self._tools.logs}/{log_name(launch.key.job, launch.key.attempt)}"
        log_file = LogFile(
            path,
            launch.log_cap,
            keeps_tail=not launch.log_kill,
            null=self._tools.null,
            folder=self._tools.log_folder,
        )
        return Output(log_file, self._tools.readers, with_terminal=launch.pty)


_LONG = 10.0  # seconds without an answer after which bgd's log says so
