"""One attempt, from its Launch to its end; its start may have to wait for the machine."""

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
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Countdown, Deadlines
from bgd.launcher.journal import Began
from bgd.launcher.output import AttemptOutput, LogFile
from bgd.launcher.problems import SHORTAGES, CannotStart, no_input_problem, one_line
from bgd.launcher.process import new_tag, set_tag
from bgd.launcher.running import RunningAttempt
from bgd.launcher.spawn import StandardInput, StuckProcess, spawn, spawn_in_fork
from bgd.launcher.tree import Execution, Ladder, Tree
from bgd.launcher.warm.attempts import NotAccepted
from bgd.launcher.warm.worker import NoWarmWorker, Worker, WorkerPool
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


class Attempt:
    """One attempt: call `started` when its process runs, `grew` when its log has grown."""

    def __init__(
        self,
        launch: Launch,
        context: Context,
        workers: WorkerPool,
        started: Callable[[AttemptStarted], None],
        grew: Callable[[], None],
    ) -> None:
        self.launch = launch
        self._deadlines = context.deadlines
        self._started = started
        self._pending = PendingActions(context.deadlines)
        self._starting = AttemptStart(launch, context, workers, self._pending, grew)
        self._running: RunningAttempt | None = None

    @property
    def state(self) -> AttemptStarted:
        """What a supervisor is told of it while it has not ended."""
        pid = self._running.pid if self._running else None
        start, is_suspended = self._starting, self._pending.is_suspended
        return AttemptStarted(self.launch.key, pid, start.started_at, is_suspended, start.since)

    @property
    def log_bytes(self) -> int:
        """The size of its output so far."""
        return self._running.log_bytes if self._running else 0

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log; None: no output is missing."""
        return self._running.log_problem if self._running else None

    def stop(self, reason: Outcome, grace: float) -> None:
        """Stop it. May be called again; the first reason and the shortest grace count."""
        if self._running is not None:
            self._running.stop(reason, grace)
        else:
            self._pending.stop(reason, grace)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Send its processes a signal; before it runs, keep the signal once, as the kernel does."""
        if self._running is not None:
            self._running.signal(signum, whole_tree=whole_tree)
        else:
            self._pending.signal(signum, whole_tree=whole_tree)

    def suspend(self) -> None:
        """Stop its processes; before it runs, do not start it."""
        self._pending.suspend()
        if self._running is not None:
            self._running.suspend()

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        self._pending.resume()
        if self._running is not None:
            self._running.resume()

    async def live(self) -> AttemptEnded:
        """Run it; return how it ended when no process of it is left."""
        try:
            running = await self._start()
        except CannotStart as error:
            log_bytes = self._starting.write_log(error.log_text) if error.log_text else 0
            return self._never_ran(Outcome.NOT_STARTED, str(error), log_bytes)
        except LostChild as error:
            return self._never_ran(Outcome.UNKNOWN, str(error))
        if running is None:
            return self._never_ran(self._pending.reason or Outcome.CANCELLED, self._pending.problem)
        self._running = running
        self._started(self.state)
        self._pending.hand_to(running)
        return await running.end()

    def abandon(self, problem: str) -> AttemptEnded:
        """Kill its processes after an error in the launcher; return an end with outcome `unknown`."""
        if self._running is not None:
            try:
                self._running.abandon()
            except Exception:  # an error of one job must not end the launcher, and all others with it
                log.exception("job %d: not all of its resources could be released", self.launch.key.job)
        return AttemptEnded(
            key=self.launch.key,
            outcome=Outcome.UNKNOWN,
            started_at=self._starting.started_at,
            finished_at=time.time(),
            log_bytes=self.log_bytes,
            problem=problem,
            run_seconds=elapsed() - self._starting.since if self._running else None,
        )

    async def _start(self) -> RunningAttempt | None:
        """Start it as soon as the machine has room; return None if it is to end before that."""
        pause = _FIRST_PAUSE
        stop_asked = self._pending.stop_asked
        while not stop_asked.done():
            try:
                return await self._starting.try_once()
            except OSError as error:  # the machine's; a problem of the job would be CannotStart
                _complain(self.launch, error, pause)
            over = self._deadlines.timer(pause)
            await asyncio.wait({over, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
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


_FIRST_PAUSE = (
    1.0  # seconds until the next try when the machine has no room; doubled each time, up to the longest
)
_LONGEST_PAUSE = 30.0
_COMPLAINTS_APART = 10.0  # seconds: a machine without room must not be flooded with warnings

_complained_at = -_COMPLAINTS_APART


def _complain(launch: Launch, error: OSError, pause: float) -> None:
    global _complained_at  # noqa: PLW0603  one machine has one shortage, whichever jobs it delays
    if elapsed() - _complained_at >= _COMPLAINTS_APART:
        _complained_at = elapsed()
        log.warning("job %d cannot start yet: %s; next try in %g s", launch.key.job, error.strerror, pause)


# --- The start of an attempt: what it needs first, and how its first process is started.


Begin = Callable[[AttemptOutput, int | None], Awaitable[Execution | None]]
"""Start a first process that writes to the output and has the tag; None: the attempt is to end instead."""


class AttemptStart:
    """Try to start one attempt; may be tried again.

    `started_at` (wall clock) and `since` (elapsed clock) tell when the latest try began.
    """

    def __init__(
        self,
        launch: Launch,
        context: Context,
        workers: WorkerPool,
        pending: PendingActions,
        grew: Callable[[], None],
    ) -> None:
        self.started_at, self.since = time.time(), elapsed()
        self._launch = launch
        self._context = context
        self._workers = workers
        self._pending = pending
        self._grew = grew

    async def try_once(self) -> RunningAttempt | None:
        """Start it; return None if it is to end before it ran.

        Raises:
            CannotStart: the reason lies in the Launch.
            OSError: the reason lies in the machine; nothing was started, so it may be tried again.
            LostChild: it was started and had to be killed at once.
        """
        log_text = b""
        # limits do not apply to a fork
        if self._launch.warm is not None and self._launch.limits == NO_LIMITS:
            try:
                return await self._in_worker(self._launch.warm)
            except NoWarmWorker as reason:
                log_text = f"bgd: a fresh interpreter for this job, as {reason}\n".encode()
        waits_for = self._context.mounts.that_may_hang(self._launch)
        with closing(
            StandardInput(self._launch, self._context.state, in_fork=waits_for is not None)
        ) as given:
            if given.is_fifo:
                await self._wait_for_writer(given)
            if not await self._pending.wait_until_resumed():
                return None
            group = self._group()
            running: RunningAttempt | None = None
            try:
                begin: Begin = partial(self._spawned, given, group=group)
                if waits_for is not None:
                    begin = partial(self._spawned_in_fork, given, group=group, waits_for=waits_for)
                running = await self._run(begin, log_text, elapsed(), group)
            finally:
                if running is None and group is not None:
                    group.remove()
            return running

    def write_log(self, log_text: bytes) -> int:
        """Write text into the log of an attempt that did not start; return the size of the log in bytes."""
        output = self._output()
        try:
            output.log_first(log_text)
        finally:
            output.close()
        return output.log.total

    async def _in_worker(self, warm: WarmStart) -> RunningAttempt | None:
        while True:
            with self._limited():
                worker = await self._workers.lease(self._launch, warm, self._pending.stop_asked)
            if worker is None:
                return None
            log_text, worker.log_text = worker.log_text, b""
            try:
                if await self._pending.wait_until_resumed():
                    return await self._run(partial(self._handed, worker), log_text, worker.since_of_jobs)
            except NotAccepted:
                worker.release()
                continue
            except BaseException:
                worker.release()
                raise
            worker.release()
            return None

    async def _wait_for_writer(self, given: StandardInput) -> None:
        problem = no_input_problem(self._launch.stdin_path or "", "nobody wrote to it within the time limit")
        with self._pending.limited(self._launch.timeout or None, problem):
            await given.first_write(self._pending.stop_asked)

    async def _handed(self, worker: Worker, output: AttemptOutput, tag: int | None) -> Execution:
        with self._limited():
            return await worker.run(self._launch, output.job_end, tag, self._pending.stop_asked)

    def _limited(self) -> AbstractContextManager[None]:
        return self._pending.limited(self._launch.timeout or None, "its warm worker used up its time limit")

    async def _spawned(
        self, given: StandardInput, output: AttemptOutput, tag: int | None, group: Group | None
    ) -> Execution:
        standard_input = self._nothing(output) if given.fd is None else given.fd
        set_tag(tag)  # `spawn` starts the process before its first await, so no other process gets the tag
        try:
            return await spawn(self._launch, standard_input, output.job_end, self._context, group)
        finally:
            set_tag(None)

    async def _spawned_in_fork(
        self,
        given: StandardInput,
        output: AttemptOutput,
        tag: int | None,
        group: Group | None,
        waits_for: str,
    ) -> Execution | None:
        launch, context, pending = self._launch, self._context, self._pending
        standard_input: int | str = self._nothing(output)
        if given.fd is not None:
            standard_input = given.fd
        elif launch.stdin_path is not None:
            standard_input = launch.stdin_path
        silence = f"{waits_for} did not answer"
        warn = partial(log.warning, "job %d: %s for %g s; it keeps waiting", launch.key.job, silence, _LONG)
        long = context.deadlines.after(_LONG, warn)
        try:
            with pending.limited(launch.timeout or None, f"{silence} within the time limit"):
                parts = launch, standard_input, output.job_end, context, group, tag
                return await spawn_in_fork(*parts, stop_asked=pending.stop_asked)
        except StuckProcess as stuck:
            pending.problem = f"{silence}; {stuck}"
            log.warning("job %d: %s", launch.key.job, pending.problem)
            return None
        finally:
            long.cancel()

    def _nothing(self, output: AttemptOutput) -> int:
        """Return the descriptor of standard input for a process that gets no input."""
        return output.job_end if self._launch.pty else self._context.null

    async def _run(
        self, begin: Begin, log_text: bytes, since: float, group: Group | None = None
    ) -> RunningAttempt | None:
        """Start its first process with an output of its own, whose log begins with `log_text`.

        No process of the attempt is older than `since` (elapsed clock). None: it is to end before it ran.
        """
        launch, context = self._launch, self._context
        output = self._output()
        tag = new_tag()
        try:
            output.log_first(log_text)
            self.started_at, self.since = time.time(), elapsed()
            path = group.path if group else None
            context.journal.add_step(Began(launch.key, output.inode, since, self.started_at, tag, path))
            execution = await begin(output, tag)
        except LostChild:
            tree = Tree(launch.key, output.stream, since, pid=None, tag=tag, group=group)
            await Ladder(tree, context.scanner, context.deadlines, grace=0.0).bring_down()
            output.close()
            raise
        except BaseException:
            output.close()
            raise
        if execution is None:
            output.close()
            return None
        tree = Tree(launch.key, output.stream, since, execution.pid, tag=tag, group=group)
        return RunningAttempt(
            launch, context, execution, output, tree, (self.started_at, self.since), self._grew
        )

    def _group(self) -> Group | None:
        """Return the control group for the attempt; None: it gets none of its own."""
        launch, delegation = self._launch, self._context.delegation
        if launch.limits == NO_LIMITS and not launch.own_group:
            return None
        problem = problem_with_limits(launch.limits, self._context.abilities)
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

    def _output(self) -> AttemptOutput:
        launch = self._launch
        path = f"{self._context.logs}/{log_name(launch.key.job, launch.key.attempt)}"
        log_file = LogFile(
            path,
            launch.log_cap,
            keeps_tail=not launch.log_kill,
            null=self._context.null,
            folder=self._context.log_folder,
        )
        return AttemptOutput(log_file, self._context.readers, with_terminal=launch.pty)


_LONG = 10.0  # seconds without an answer until a warning is logged


# --- Actions asked of an attempt before it runs: they may cancel its start, or are passed on when it runs.


class PendingActions:
    """`stop_asked` is done when the attempt is to end: for `reason`, and sometimes with a `problem`."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.stop_asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_suspended = False
        self.reason: Outcome | None = None
        self.problem: str | None = None
        self._grace = 0.0
        self._deadlines = deadlines
        self._resumed: asyncio.Future[None] | None = None  # while `wait_until_resumed` waits
        self._limit: Countdown | None = None  # while a `limited` block runs
        self._signals: dict[int, bool] = {}  # signum -> whether it is for the whole tree

    def stop(self, reason: Outcome, grace: float) -> None:
        """End the attempt before it runs; the first reason counts."""
        if self.reason is None:
            self.reason, self._grace = reason, grace
            self.stop_asked.set_result(None)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Keep a signal once, as the kernel does."""
        self._signals[signum] = whole_tree or self._signals.get(signum, False)

    def suspend(self) -> None:
        """Pause the start, and the time limit of what the start waits for."""
        self.is_suspended = True
        if self._limit is not None:
            self._limit.pause()

    def resume(self) -> None:
        """Let the start go on after `suspend`."""
        self.is_suspended = False
        if self._limit is not None:
            self._limit.resume()
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    async def wait_until_resumed(self) -> bool:
        """Wait while it is suspended; return False if it is to end instead."""
        while self.is_suspended and self.reason is None:
            self._resumed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._resumed, self.stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        return self.reason is None

    @contextmanager
    def limited(self, seconds: float | None, problem: str) -> Iterator[None]:
        """Time the attempt out, with this problem, if the block takes longer; None: no limit."""

        def time_out() -> None:
            self.problem = problem
            self.stop(Outcome.TIMEOUT, 0.0)

        self._limit = Countdown(self._deadlines, seconds, time_out)
        if self.is_suspended:
            self._limit.pause()
        try:
            yield
        finally:
            self._limit.pause()
            self._limit = None

    def hand_to(self, running: RunningAttempt) -> None:
        """Pass the pending actions on to the running attempt."""
        if self.is_suspended:
            running.suspend()
        for signum, whole_tree in self._signals.items():
            running.signal(signum, whole_tree=whole_tree)
        if self.reason is not None:
            running.stop(self.reason, self._grace)
