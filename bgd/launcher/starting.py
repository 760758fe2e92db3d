"""The start of an attempt: what has to be there before, and what it is started with."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial

from bgd.clock import elapsed
from bgd.launcher.children import LostChild
from bgd.launcher.execution import Execution
from bgd.launcher.input import Input
from bgd.launcher.ladder import Ladder
from bgd.launcher.logfile import LogFile
from bgd.launcher.orders import Orders
from bgd.launcher.output import Output
from bgd.launcher.problems import no_input
from bgd.launcher.records import Began
from bgd.launcher.running import Running
from bgd.launcher.spawn import spawn
from bgd.launcher.stamp import new_stamp, wearing
from bgd.launcher.tools import Tools
from bgd.launcher.tree import Tree
from bgd.launcher.warm.jobs import NotTaken
from bgd.launcher.warm.worker import Unfit, Worker
from bgd.launcher.warm.workers import Workers
from bgd.wire.launching import Launch, Warm, log_name

Begin = Callable[[Output, int | None], Awaitable[Execution]]
"""Begins a first process that writes to the output and has the stamp."""


class Starting:
    """Tries to start one attempt, as often as it is asked to. `started_at`: of the latest try."""

    def __init__(
        self, launch: Launch, tools: Tools, workers: Workers, orders: Orders, grew: Callable[[], None]
    ) -> None:
        self.started_at = time.time()
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
        if self._launch.warm is not None:
            try:
                return await self._in_worker(self._launch.warm)
            except Unfit as unfit:
                words = f"bgd: a fresh interpreter for this job, as {unfit}\n".encode()
        with closing(Input(self._launch, self._tools.state)) as given:
            if given.is_fifo:
                await self._wait_for_writer(given)
            if not await self._orders.let_go():
                return None
            return await self._run(partial(self._spawned, given), words, elapsed())

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
            with self._orders.limited(self._launch.timeout or None, "its warm worker took all of its time"):
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
        return await worker.run(self._launch, output.job_end, stamp)

    async def _spawned(self, given: Input, output: Output, stamp: int | None) -> Execution:
        nothing = output.job_end if self._launch.pty else self._tools.null
        standard_input = nothing if given.fd is None else given.fd
        with wearing(stamp):
            return await spawn(self._launch, standard_input, output.job_end, self._tools)

    async def _run(self, begin: Begin, words: bytes, since: float) -> Running:
        """Have its first process begun with an output of its own, in whose log the words come first.

        `since`: elapsed clock, no process of the attempt is older.
        """
        launch, tools = self._launch, self._tools
        output = self._output()
        stamp = new_stamp()
        try:
            output.say(words)
            self.started_at = time.time()
            tools.journal.note(Began(launch.key, output.inode, since, self.started_at, stamp))
            execution = await begin(output, stamp)
        except LostChild:
            await self._end_what_may_run(output, since, stamp)
            output.close()
            raise
        except BaseException:
            output.close()
            raise
        tree = Tree(launch.key, output.channel, since, execution.pid, stamp=stamp)
        return Running(launch, tools, execution, output, tree, self.started_at, self._grew)

    def _output(self) -> Output:
        launch = self._launch
        path = f"{self._tools.logs}/{log_name(launch.key.job, launch.key.attempt)}"
        log_file = LogFile(path, launch.log_cap, keeps_tail=not launch.log_kill, null=self._tools.null)
        return Output(log_file, with_terminal=launch.pty)

    async def _end_what_may_run(self, output: Output, since: float, stamp: int | None) -> None:
        tree = Tree(self._launch.key, output.channel, since, pid=None, stamp=stamp)
        await Ladder(tree, self._tools.looker, self._tools.deadlines, grace=0.0).bring_down()
