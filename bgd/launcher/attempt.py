"""One attempt, from its Launch to its end: first it has to start, which may take patience."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.launcher.cgroup import Group
from bgd.launcher.children import LostChild
from bgd.launcher.context import Tools
from bgd.launcher.deadlines import Countdown, Deadlines
from bgd.launcher.journal import Began
from bgd.launcher.output import LogFile, Output
from bgd.launcher.problems import SHORTAGES, CannotStart, no_input, one_line
from bgd.launcher.process import new_stamp, wear
from bgd.launcher.running import Running
from bgd.launcher.spawn import Input, Stuck, spawn, spawn_apart
from bgd.launcher.tree import Execution, Ladder, Tree
from bgd.launcher.warm.attempts import NotTaken
from bgd.launcher.warm.worker import Unfit, Worker, Workers
from bgd.wire.launching import (
    NO_LIMITS,
    AttemptEnded,
    AttemptStarted,
    Launch,
    NotStarted,
    WarmStart,
    log_name,
    problem_with_limits,
)

log = logging.getLogger(__name__)

# --- What is asked of an attempt before it runs: it waits no longer than that allows, and then runs with it.


class Orders:
    """`asked` is done once it is to end: `reason` says why, and `problem` where that says too little."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_suspended = False
        self.reason: Outcome | None = None
        self.problem: str | None = None
        self._grace = 0.0
        self._deadlines = deadlines
        self._let_go: asyncio.Future[None] | None = None  # while it waits for that
        self._limit: Countdown | None = None  # while it waits for what takes of its time
        self._signals: dict[int, bool] = {}  # whether for the whole tree

    def stop(self, reason: Outcome, grace: float) -> None:
        if self.reason is None:
            self.reason, self._grace = reason, grace
            self.asked.set_result(None)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Keep a signal, once, as the kernel would."""
        self._signals[signum] = whole_tree or self._signals.get(signum, False)

    def suspend(self) -> None:
        self.is_suspended = True
        if self._limit is not None:
            self._limit.stand_still()

    def go_on(self) -> None:
        self.is_suspended = False
        if self._limit is not None:
            self._limit.go_on()
        if self._let_go is not None and not self._let_go.done():
            self._let_go.set_result(None)

    async def let_go(self) -> bool:
        """Wait as long as it is suspended; return False if it is to end instead."""
        while self.is_suspended and self.reason is None:
            self._let_go = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._let_go, self.asked}, return_when=asyncio.FIRST_COMPLETED)
        return self.reason is None

    @contextmanager
    def limited(self, seconds: float | None, problem: str) -> Iterator[None]:
        """Have it end, for this problem, if what is done meanwhile takes so long; None: no limit."""

        def time_out() -> None:
            self.problem = problem
            self.stop(Outcome.TIMEOUT, 0.0)

        self._limit = Countdown(self._deadlines, seconds, time_out)
        if self.is_suspended:
            self._limit.stand_still()
        try:
            yield
        finally:
            self._limit.stand_still()
            self._limit = None

    def hand_over(self, running: Running) -> None:
        """Pass on to what runs now what was asked of it before."""
        if self.is_suspended:
            running.suspend()
        for signum, whole_tree in self._signals.items():
            running.signal(signum, whole_tree=whole_tree)
        if self.reason is not None:
            running.stop(self.reason, self._grace)


# --- The start of an attempt: what has to be there before, and what it is started with.


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

    async def _in_worker(self, warm: WarmStart) -> Running | None:
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
        problem = problem_with_limits(launch.limits, self._tools.abilities)
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


class Attempt:
    """`started` is called when its process runs, `grew` when its log did."""

    def __init__(
        self,
        launch: Launch,
        tools: Tools,
        workers: Workers,
        started: Callable[[AttemptStarted], None],
        grew: Callable[[], None],
    ) -> None:
        self.launch = launch
        self._deadlines = tools.deadlines
        self._started = started
        self._orders = Orders(tools.deadlines)
        self._starting = Starting(launch, tools, workers, self._orders, grew)
        self._running: Running | None = None

    @property
    def state(self) -> AttemptStarted:
        pid = self._running.pid if self._running else None
        starting, is_suspended = self._starting, self._orders.is_suspended
        return AttemptStarted(self.launch.key, pid, starting.started_at, is_suspended, starting.since)

    @property
    def log_bytes(self) -> int:
        return self._running.log_bytes if self._running else 0

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log, None: none is."""
        return self._running.log_problem if self._running else None

    def stop(self, reason: Outcome, grace: float) -> None:
        """End it. May be said again; the first reason and the shortest grace count."""
        if self._running is not None:
            self._running.stop(reason, grace)
        else:
            self._orders.stop(reason, grace)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Send its processes a signal; before there are any it is kept, once, as the kernel would."""
        if self._running is not None:
            self._running.signal(signum, whole_tree=whole_tree)
        else:
            self._orders.signal(signum, whole_tree=whole_tree)

    def suspend(self) -> None:
        """Let its processes stand still; before there are any, let none be started."""
        self._orders.suspend()
        if self._running is not None:
            self._running.suspend()

    def go_on(self) -> None:
        """Let it run again after `suspend`."""
        self._orders.go_on()
        if self._running is not None:
            self._running.go_on()

    async def live(self) -> AttemptEnded:
        """Return how it ended, when nothing of it is left."""
        try:
            running = await self._start()
        except CannotStart as error:
            log_bytes = self._starting.say(error.words) if error.words else 0
            return self._never_ran(Outcome.NOT_STARTED, str(error), log_bytes)
        except LostChild as error:
            return self._never_ran(Outcome.UNKNOWN, str(error))
        if running is None:
            return self._never_ran(self._orders.reason or Outcome.CANCELLED, self._orders.problem)
        self._running = running
        self._started(self.state)
        self._orders.hand_over(running)
        return await running.end()

    def abandon(self, problem: str) -> AttemptEnded:
        """Return the end nobody saw, after an error of the launcher's own; its processes are killed."""
        if self._running is not None:
            try:
                self._running.abandon()
            except Exception:  # one job's trouble must not end the others with the launcher
                log.exception("job %d: something of it could not be given back", self.launch.key.job)
        return AttemptEnded(
            key=self.launch.key,
            outcome=Outcome.UNKNOWN,
            started_at=self._starting.started_at,
            finished_at=time.time(),
            log_bytes=self.log_bytes,
            problem=problem,
            run_seconds=elapsed() - self._starting.since if self._running else None,
        )

    async def _start(self) -> Running | None:
        """Start it as soon as the machine has room; None: asked to end before that."""
        pause = _FIRST_PAUSE
        asked = self._orders.asked
        while not asked.done():
            try:
                return await self._starting.once()
            except OSError as error:  # of the machine, not of the job: that would be CannotStart
                _complain(self.launch, error, pause)
            over = self._deadlines.passed(pause)
            await asyncio.wait({over, asked}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            pause = min(pause * 2, _LONGEST_PAUSE)
        return None

    def _never_ran(self, outcome: Outcome, problem: str | None, log_bytes: int = 0) -> AttemptEnded:
        return AttemptEnded(
            key=self.launch.key,
            outcome=outcome,
            finished_at=time.time(),
            log_bytes=log_bytes,
            problem=problem,
        )


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
