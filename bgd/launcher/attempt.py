"""One attempt, from its Launch to its end: requests to it, and reports to its supervisor."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from msgspec.structs import replace

from bgd.core.explain import Cause, Reason
from bgd.core.job import Outcome
from bgd.launcher.children import LostChild
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Countdown, settle
from bgd.launcher.journal import Began
from bgd.launcher.output import AttemptOutput, Log
from bgd.launcher.problems import CannotStart
from bgd.launcher.tree import StopReason, Tree
from bgd.system.clock import elapsed
from bgd.wire.launching import AttemptEnded, AttemptKey, AttemptStarted, Launch

log = logging.getLogger(__name__)


class Run(Protocol):
    """A started attempt on an executor: processes here, or a place in a queue for nodes."""

    @property
    def pid(self) -> int | None:
        """The pid of the first process; None: it is not running yet."""

    @property
    def node(self) -> str | None:
        """Its node on a cluster; None: none."""

    @property
    def tree(self) -> Tree | None:
        """Its processes; None: they are not on this machine."""

    @property
    def is_over(self) -> bool:
        """Whether its first process has ended."""

    @property
    def has_exited(self) -> bool:
        """Whether its first process has ended, even if that is not known yet."""

    def begin(self) -> None:
        """Start reading its output and its time limit."""

    def stop(self, grace: float, told: StopReason) -> None:
        """Stop it, and let a class job know why. May be called again, with a shorter grace."""

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Signal its first process, or its whole tree."""

    def steer(self, *, is_suspended: bool) -> None:
        """Stop all its processes, or continue them."""

    async def settled(self) -> bool | None:
        """Wait until `steer` has done so; return whether its first process has not ended; None: unknown."""

    async def ended(self) -> AttemptEnded:
        """Wait until all its processes are gone; return how it ended."""

    def abandon(self) -> None:
        """Kill its processes and release everything, after an error."""

    def acknowledge(self) -> None:
        """Forget its end, which is in the journal."""


class Attempt:
    """One attempt: its executor starts it and returns its run.

    A request during its start takes effect at once if it prevents the start, otherwise as soon as it runs.

    Args:
        report: called with its state when that changes.
        grew: called when its log has grown.
        adopted: its record from a dead launcher; it may still run.

    Attributes:
        started_at, since: when the latest try to start it began: epoch time, elapsed clock.
        reason: why it is to end: the first reason that was given. `grace`: how soon.
        stop_asked: done once it is to end.
        problem: why its start ended.
        limit: on the run, or on what the start waits for.
        waits: why it does not run yet, if that may take longer.
        life: the task that sees to its end; None: it has not begun.
        output: of its processes on this machine; None: none run here yet.
        log: of its output; None: nothing is written here, and earlier launchers have written `logged` bytes.
    """

    def __init__(
        self,
        launch: Launch,
        context: Context,
        executor: Executor,
        report: Callable[[AttemptStarted], None],
        grew: Callable[[], None],
        adopted: Began | None = None,
    ) -> None:
        self.launch = launch
        self.grew = grew
        self.adopted = adopted
        self.started_at, self.since = time.time(), elapsed()
        self.reason: Outcome | None = None
        self.grace = math.inf
        self.stop_asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.problem: str | None = None
        self.limit: Countdown | None = None
        self.is_suspended = adopted is not None and adopted.suspended
        self._context = context
        self._executor = executor
        self._report = report
        self._run: Run | None = None
        self.waits: Reason | None = None
        self.life: asyncio.Task[None] | None = None
        self.output: AttemptOutput | None = None
        self.log: Log | None = None
        self.logged = 0
        self._told = StopReason.OTHER
        self._resumed: asyncio.Future[None] | None = None  # while the start waits for `resume`
        self._starting: asyncio.Future[None] | None = None  # while its first process is being started
        self._signals: dict[int, bool] = {}  # for its start: signum -> whether it is for the whole tree

    @property
    def state(self) -> AttemptStarted:
        """The report to a supervisor while it has not ended."""
        run, place = self._run, self.launch.place
        if run is not None and run.node is not None and place is not None:
            place = replace(place, node=run.node)
        pid = run.pid if run is not None else None
        key, at = self.launch.key, self.started_at
        slot = self.launch.slot
        return AttemptStarted(key, pid, at, self.is_suspended, self.since, place, self.waits, slot)

    @property
    def has_exited(self) -> bool:
        """Whether its first process has ended, even if that is not known yet."""
        return self._run is not None and self._run.has_exited

    @property
    def tree(self) -> Tree | None:
        """Its processes, while its first one runs on this machine."""
        return None if self._run is None or self._run.is_over else self._run.tree

    @property
    def log_bytes(self) -> int:
        """The size of its output so far."""
        return self.logged if self.log is None else self.log.total

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log; None: no output is missing."""
        return None if self.log is None else self.log.problem

    # --- what may be asked of it while it starts or runs

    def stop(self, reason: Outcome, grace: float, told: StopReason = StopReason.OTHER) -> None:
        """Stop it, and let a class job know why. May be called again.

        The first reason and the shortest grace count.
        """
        if self.reason is None:
            self.reason, self._told = reason, told
        self.grace = min(self.grace, grace)
        self.is_suspended = False
        settle(self.stop_asked)
        if self._run is not None:
            self._run.stop(self.grace, self._told)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Signal its first process or its whole tree, unless the first process has ended.

        Before it runs, keep each signal once, and SIGCONT until it is suspended, as the kernel does.
        """
        if self._run is None:
            self._signals[signum] = whole_tree or self._signals.get(signum, False)
        elif not self._run.is_over:
            self._run.signal(signum, whole_tree=whole_tree)

    def suspend(self) -> None:
        """Stop its processes and its time limit, unless it is to end; before it runs, do not start it."""
        if self.reason is not None or (self._run is not None and self._run.is_over):
            return
        self.is_suspended = True
        if self.limit is not None:
            self.limit.pause()
        if self._run is None:
            self._signals.pop(signal.SIGCONT, None)  # which was asked for before
        else:
            self._run.steer(is_suspended=True)

    def resume(self) -> None:
        """Undo `suspend`, and nothing else."""
        if not self.is_suspended:
            return
        self.is_suspended = False
        if self.limit is not None:
            self.limit.resume()
        if self._resumed is not None:
            settle(self._resumed)
        if self._run is not None:
            self._run.steer(is_suspended=False)

    async def settled(self) -> bool | None:
        """Wait until its processes are stopped or continued, as was last asked, or it has ended.

        Return whether its first process runs or will run; None: unknown.
        """
        while self._starting is not None:
            await asyncio.wait({self._starting})
        is_alive = True if self._run is None else await self._run.settled()
        if is_alive is False and self.life is not None:
            await asyncio.wait({self.life})
        return is_alive and not (self.life is not None and self.life.done())

    # --- its life

    async def live(self) -> AttemptEnded:
        """Run it; return how it ended when no process of it is left."""
        try:
            return await self._live()
        finally:
            self._note_no_start()

    async def _live(self) -> AttemptEnded:
        try:
            what = f"job {self.launch.key.job} cannot start yet"
            run = await self._context.retry(what, self._start_run, self.stop_asked, self.wait_to_start)
        except CannotStart as error:
            log_bytes = self._write_log(error.log_text) if error.log_text else 0
            return self.never_ran(Outcome.NOT_STARTED, str(error), log_bytes)
        except LostChild as error:
            return self.never_ran(Outcome.UNKNOWN, str(error))
        if run is None:
            return self.never_ran(self.reason or Outcome.CANCELLED, self.problem)
        self._begin(run)
        return await run.ended()

    async def _start_run(self) -> Run | None:
        """Let its executor start it, unless it is to end; what a dead launcher has started is found first."""
        if self.stop_asked.done() and self.adopted is None:
            return None
        return await self._executor(self)

    def _begin(self, run: Run) -> None:
        """Do what was requested during its start."""
        self._run = run
        run.begin()
        if self.is_suspended:
            self.suspend()
        for signum, whole_tree in self._signals.items():
            self.signal(signum, whole_tree=whole_tree)
        if self.reason is not None:
            run.stop(self.grace, self._told)
        self._note_no_start()

    def _note_no_start(self) -> None:
        """Record that its first process is not being started."""
        if self._starting is not None:
            settle(self._starting)
            self._starting = None

    def abandon(self, problem: str) -> AttemptEnded:
        """Kill its processes after an error in the launcher; return an end with outcome `unknown`."""
        run = self._run
        if self.limit is not None:
            self.limit.pause()
        if run is not None:
            try:
                run.abandon()
            except Exception:  # an error of one job must not end the launcher, and all others with it
                log.exception("job %d: not all of its resources could be released", self.launch.key.job)
        ran_for = elapsed() - self.since if run else None
        return end_of(self.launch.key, Outcome.UNKNOWN, problem, self.log_bytes, self.started_at, ran_for)

    def never_ran(self, outcome: Outcome, problem: str | None, log_bytes: int = 0) -> AttemptEnded:
        """Return the end of an attempt that never ran."""
        return end_of(self.launch.key, outcome, problem, log_bytes)

    def acknowledge(self) -> None:
        """Let its executor forget how it ended; call it once that is in the journal."""
        if self._run is not None:
            self._run.acknowledge()

    def _write_log(self, log_text: bytes) -> int:
        """Write text into the log of an attempt that did not start; return the size of the log in bytes."""
        output = self._context.new_output(self.launch)
        try:
            output.put(log_text)
        finally:
            output.close()
        return output.log.total

    # --- what executors use

    def wait_for(self, reason: Reason | None) -> None:
        """Report why it is not running yet, if that is new."""
        if reason != self.waits:
            self.waits = reason
            self.report()

    def wait_to_start(self, problem: str) -> None:
        """Tell what its start waits for on this machine."""
        self.wait_for(Reason(cause=Cause.START, problem=problem))

    def runs(self) -> None:
        """Report that it runs."""
        self.waits = None
        self.report()

    def report(self) -> None:
        """Report its state."""
        self._report(self.state)

    def begin_to_start(self) -> None:
        """Record the beginning of a try to start it."""
        self.started_at, self.since = time.time(), elapsed()

    def kill_over_cap(self, written: Log) -> None:
        """Record that its log has grown; stop it if the log is over its limit."""
        if self.launch.log_kill and written.is_over_cap and self.reason is None:
            self.stop(Outcome.LOG_LIMIT, 0.0)
        self.grew()

    async def may_start(self) -> bool:
        """Wait while it is suspended; return False if it was stopped meanwhile."""
        self._note_no_start()  # of an earlier try
        while self.is_suspended:
            self._resumed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._resumed, self.stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        if self.reason is None:
            self._starting = asyncio.get_running_loop().create_future()
        return self.reason is None

    @contextmanager
    def limited(self, problem: str) -> Iterator[None]:
        """Time the attempt out, with this problem, if the block exceeds its time limit."""

        def time_out() -> None:
            self.problem = problem
            self.stop(Outcome.TIMEOUT, 0.0)

        self.limit = Countdown(self._context.deadlines, self.launch.timeout or None, time_out)
        if self.is_suspended:
            self.limit.pause()
        try:
            yield
        finally:
            self.limit.pause()
            self.limit = None

    def limit_run(self) -> None:
        """Time it out if it exceeds its time limit."""

        def time_out() -> None:
            self.stop(Outcome.TIMEOUT, self.launch.grace, StopReason.TIMEOUT)

        self.limit = Countdown(self._context.deadlines, self.launch.timeout or None, time_out)


def end_of(
    key: AttemptKey,
    outcome: Outcome,
    problem: str | None,
    log_bytes: int,
    started_at: float | None = None,
    run_seconds: float | None = None,
) -> AttemptEnded:
    """Return how an attempt has ended; if it ran here, its run adds what its processes used and left."""
    return AttemptEnded(
        key=key,
        outcome=outcome,
        started_at=started_at,
        finished_at=time.time(),
        log_bytes=log_bytes,
        problem=problem,
        run_seconds=run_seconds,
    )


Executor = Callable[[Attempt], Awaitable[Run | None]]
"""Starts attempts, on this machine or on a cluster; returns None if the attempt is to end before it ran.

Raises:
    CannotStart: the reason lies in the Launch.
    OSError: the reason lies in the machine; nothing was started, so it may be tried again.
    LostChild: it was started and had to be killed at once.
"""
