"""One attempt, from its Launch to its end: first it has to start, which may take patience."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import closing

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.launcher.children import LostChild
from bgd.launcher.deadlines import Countdown
from bgd.launcher.input import Input
from bgd.launcher.logfile import LogFile
from bgd.launcher.output import Output
from bgd.launcher.problems import CannotStart, no_input
from bgd.launcher.records import Began
from bgd.launcher.running import Running
from bgd.launcher.spawn import spawn
from bgd.launcher.tools import Tools
from bgd.launcher.tree import Tree
from bgd.wire.launching import Ended, Launch, Started, log_name

log = logging.getLogger(__name__)


class Attempt:
    """`started` is called when its process runs, `grew` when its log did."""

    def __init__(
        self,
        launch: Launch,
        tools: Tools,
        started: Callable[[Started], None],
        grew: Callable[[], None],
    ) -> None:
        self.launch = launch
        self._tools = tools
        self._started = started
        self._grew = grew
        self._started_at = time.time()
        self._stop: tuple[Outcome, float] | None = None  # asked for before it ran: reason, grace
        self._asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_suspended = False
        self._let_go: asyncio.Future[None] | None = None  # while it waits for that before it runs
        self._limit: Countdown | None = None  # while it waits for its input
        self._problem: str | None = None  # why it was stopped before it ran, where the reason says too little
        self._signals: dict[int, bool] = {}  # asked for before it ran: whether for the whole tree
        self._running: Running | None = None

    @property
    def state(self) -> Started:
        pid = self._running.pid if self._running else None
        return Started(self.launch.key, pid, self._started_at, self._is_suspended)

    @property
    def log_bytes(self) -> int:
        return self._running.log_bytes if self._running else 0

    def stop(self, reason: Outcome, grace: float) -> None:
        """End it. May be said again; the first reason and the shortest grace count."""
        if self._running is not None:
            self._running.stop(reason, grace)
        elif self._stop is None:
            self._stop = reason, grace
            self._asked.set_result(None)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Send its processes a signal; before there are any it is kept, once, as the kernel would."""
        if self._running is not None:
            self._running.signal(signum, whole_tree=whole_tree)
        else:
            self._signals[signum] = whole_tree or self._signals.get(signum, False)

    def suspend(self) -> None:
        """Let its processes stand still; before there are any, let none be started."""
        self._is_suspended = True
        if self._limit is not None:
            self._limit.stand_still()
        if self._running is not None:
            self._running.suspend()

    def go_on(self) -> None:
        """Let it run again after `suspend`."""
        self._is_suspended = False
        if self._limit is not None:
            self._limit.go_on()
        if self._let_go is not None and not self._let_go.done():
            self._let_go.set_result(None)
        if self._running is not None:
            self._running.go_on()

    async def live(self) -> Ended:
        """Return how it ended, when nothing of it is left."""
        try:
            running = await self._start()
        except CannotStart as error:
            return self._never_ran(Outcome.NOT_STARTED, str(error))
        except LostChild as error:
            return self._never_ran(Outcome.INTERRUPTED, str(error))
        if running is None:
            return self._never_ran(self._stop[0] if self._stop else Outcome.CANCELLED, self._problem)
        self._running = running
        self._started(self.state)
        if self._is_suspended:
            running.suspend()
        for signum, whole_tree in self._signals.items():
            running.signal(signum, whole_tree=whole_tree)
        if self._stop is not None:
            running.stop(*self._stop)
        return await running.end()

    def abandon(self, problem: str) -> Ended:
        """Return the end nobody saw, after an error of the launcher's own; its processes are killed."""
        if self._running is not None:
            self._running.abandon()
        return Ended(
            key=self.launch.key,
            outcome=Outcome.UNKNOWN,
            started_at=self._started_at,
            finished_at=time.time(),
            log_bytes=self.log_bytes,
            problem=problem,
        )

    async def _start(self) -> Running | None:
        """Start it as soon as the machine has room; None: asked to end before that."""
        pause = _FIRST_PAUSE
        while self._stop is None:
            try:
                return await self._try_to_start()
            except OSError as error:  # of the machine, not of the job: that would be CannotStart
                _complain(self.launch, error, pause)
            over = self._tools.deadlines.passed(pause)
            await asyncio.wait({over, self._asked}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            pause = min(pause * 2, _LONGEST_PAUSE)
        return None

    async def _try_to_start(self) -> Running | None:
        with closing(Input(self.launch, self._tools.state)) as given:
            if given.is_fifo:
                await self._wait_for_writer(given)
            while self._is_suspended and self._stop is None:
                self._let_go = asyncio.get_running_loop().create_future()
                await asyncio.wait({self._let_go, self._asked}, return_when=asyncio.FIRST_COMPLETED)
            return await self._started_with(given) if self._stop is None else None

    async def _wait_for_writer(self, given: Input) -> None:
        self._limit = Countdown(self._tools.deadlines, self.launch.timeout or None, self._time_out)
        if self._is_suspended:
            self._limit.stand_still()
        try:
            await given.begun(self._asked)
        finally:
            self._limit.stand_still()
            self._limit = None

    def _time_out(self) -> None:
        self._problem = no_input(self.launch.stdin_path or "", "nobody wrote to it within the time limit")
        self.stop(Outcome.TIMEOUT, self.launch.grace)

    async def _started_with(self, given: Input) -> Running:
        launch, tools = self.launch, self._tools
        path = f"{tools.logs}/{log_name(launch.key.job, launch.key.attempt)}"
        log_file = LogFile(path, launch.log_cap, keeps_tail=not launch.log_kill, null=tools.null)
        output = Output(log_file, with_terminal=launch.pty)
        nothing = output.job_end if launch.pty else tools.null
        try:
            since = elapsed()
            self._started_at = time.time()
            tools.journal.note(Began(launch.key, output.inode, since, self._started_at))
            standard_input = nothing if given.fd is None else given.fd
            spawned = await spawn(launch, standard_input, output.job_end, tools.state)
        except BaseException:
            output.close()
            raise
        tree = Tree(launch.key, output.channel, since, spawned.process.pid)
        return Running(launch, tools, spawned, output, tree, self._started_at, self._grew)

    def _never_ran(self, outcome: Outcome, problem: str | None) -> Ended:
        return Ended(key=self.launch.key, outcome=outcome, finished_at=time.time(), problem=problem)


_FIRST_PAUSE = 1.0  # seconds until the next try when the machine has no room, doubled up to the longest
_LONGEST_PAUSE = 30.0
_COMPLAINTS_APART = 10.0  # seconds: a machine without room must not drown in messages about it

_complained_at = -_COMPLAINTS_APART


def _complain(launch: Launch, error: OSError, pause: float) -> None:
    global _complained_at  # noqa: PLW0603  one machine, so one shortage, whichever jobs feel it
    if elapsed() - _complained_at >= _COMPLAINTS_APART:
        _complained_at = elapsed()
        log.warning(
            "job %d waits for the machine: %s; next try in %g s", launch.key.job, error.strerror, pause
        )
