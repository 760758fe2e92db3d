"""The start of an attempt: what has to be there before, and what it is started with."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from bgd.clock import elapsed
from bgd.launcher.input import Input
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
from bgd.wire.launching import Launch, log_name


class Starting:
    """Tries to start one attempt, as often as it is asked to. `started_at`: of the latest try."""

    def __init__(self, launch: Launch, tools: Tools, orders: Orders, grew: Callable[[], None]) -> None:
        self.started_at = time.time()
        self._launch = launch
        self._tools = tools
        self._orders = orders
        self._grew = grew

    async def once(self) -> Running | None:
        """Start it; None: it is to end, before it ran.

        Raises:
            CannotStart: for a reason that lies in the Launch.
            OSError: for one that lies in the machine; it was not started and may be tried again.
            LostChild: it was started and had to be killed at once.
        """
        with closing(Input(self._launch, self._tools.state)) as given:
            if given.is_fifo:
                await self._wait_for_writer(given)
            return await self._spawned(given) if await self._orders.let_go() else None

    async def _wait_for_writer(self, given: Input) -> None:
        problem = no_input(self._launch.stdin_path or "", "nobody wrote to it within the time limit")
        with self._orders.limited(self._launch.timeout or None, problem):
            await given.begun(self._orders.asked)

    async def _spawned(self, given: Input) -> Running:
        launch, tools = self._launch, self._tools
        output = self._output()
        nothing = output.job_end if launch.pty else tools.null
        try:
            since = elapsed()
            self.started_at = time.time()
            stamp = new_stamp()
            tools.journal.note(Began(launch.key, output.inode, since, self.started_at, stamp))
            standard_input = nothing if given.fd is None else given.fd
            with wearing(stamp):
                execution = await spawn(launch, standard_input, output.job_end, tools)
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
