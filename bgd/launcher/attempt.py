"""One attempt, from its Launch to its end: it starts, for which it may have to wait, and then it runs."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from functools import partial

from msgspec import Struct

from bgd.clock import elapsed
from bgd.core.explain import Cause, Reason
from bgd.core.job import Outcome
from bgd.core.spec import StopSignal
from bgd.launcher.cgroup import Group, GroupFigures
from bgd.launcher.children import LostChild, has_ended
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Countdown
from bgd.launcher.journal import Began
from bgd.launcher.output import AttemptOutput, Log
from bgd.launcher.problems import SHORTAGES, CannotStart, no_input_problem, one_line
from bgd.launcher.process import new_tag
from bgd.launcher.spawn import StandardInput, StuckProcess, spawn, spawn_in_fork, steps_of
from bgd.launcher.tree import DUMP_SIGNAL, Execution, Ladder, StopReason, Tree
from bgd.launcher.warm.attempts import NotAccepted
from bgd.launcher.warm.worker import NoWarmWorker, Worker, WorkerPool
from bgd.units import format_size
from bgd.wire.launching import (
    NO_LIMITS,
    AttemptEnded,
    AttemptStarted,
    Launch,
    NotStarted,
    WarmStart,
    problem_with_limits,
)

log = logging.getLogger(__name__)


class _Running(Struct, frozen=True):
    """What an attempt has once its first process runs."""

    execution: Execution
    output: AttemptOutput
    tree: Tree


Begin = Callable[[AttemptOutput, int | None], Awaitable[Execution | None]]
"""Start a first process that writes to the output and has the tag; None: the attempt is to end instead."""


class Attempt:
    """One attempt: it starts, and from then on it has `_running`.

    `started` is called when its first process runs, `grew` when its log has grown. What is asked of it while
    it starts takes effect at once if that prevents its start, and otherwise as soon as it runs.
    """

    def __init__(
        self,
        launch: Launch,
        context: Context,
        workers: WorkerPool,
        started: Callable[[AttemptStarted], None],
        grew: Callable[[], None],
    ) -> None:
        self.launch = launch
        self._context = context
        self._workers = workers
        self._report_start = started
        self._grew = grew
        self._started_at, self._since = time.time(), elapsed()  # when the latest try to start it began
        self._waits: Reason | None = None  # why it has no process yet, if that may take longer
        self._running: _Running | None = None
        self._limit: Countdown | None = None  # on the run, or on what the start waits for
        # what is asked of it
        self._reason: Outcome | None = None  # why it is to end: the first reason that was given
        self._told = StopReason.OTHER
        self._grace = math.inf
        self._stop_asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_suspended = False
        self._resumed: asyncio.Future[None] | None = None  # while the start waits for `resume`
        self._signals: dict[int, bool] = {}  # for its start: signum -> whether it is for the whole tree
        # what became of it
        self._problem: str | None = None  # why its start ended
        self._is_intact = True  # only the job itself has acted on its processes
        self._tree_lock = asyncio.Lock()  # so that a suspension and signals to the tree do not interfere
        self._ladder: Ladder | None = None
        self._descent: asyncio.Task[Exception | None] | None = None
        self._leftovers: str | None = None

    @property
    def state(self) -> AttemptStarted:
        """What a supervisor is told of it while it has not ended."""
        pid = self._running.execution.pid if self._running else None
        since, place = self._since, self.launch.place
        return AttemptStarted(
            self.launch.key, pid, self._started_at, self._is_suspended, since, place, self._waits
        )

    @property
    def has_exited(self) -> bool:
        """Whether its first process has ended, even if that is not known yet."""
        running = self._running
        return running is not None and (running.execution.is_over or has_ended(running.execution.pid))

    @property
    def log_bytes(self) -> int:
        """The size of its output so far."""
        return self._running.output.log.total if self._running else 0

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log; None: no output is missing."""
        return self._running.output.log.problem if self._running else None

    # --- what may be asked of it while it starts or runs

    def stop(self, reason: Outcome, grace: float, told: StopReason = StopReason.OTHER) -> None:
        """Stop it, and let a class job know why. May be called again.

        The first reason and the shortest grace count.
        """
        if self._reason is None:
            self._reason, self._told = reason, told
        self._grace = min(self._grace, grace)
        self._is_suspended = False
        if not self._stop_asked.done():
            self._stop_asked.set_result(None)
        if self._running is not None:
            self._bring_down(self._running, self._grace)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Signal its first process or its whole tree, unless the first process has ended.

        Before it runs, keep each signal once, and SIGCONT until it is suspended, as the kernel does.
        """
        running = self._running
        if running is None:
            self._signals[signum] = whole_tree or self._signals.get(signum, False)
            return
        if running.execution.is_over:
            return
        self._is_intact = False
        if whole_tree:
            self._begin(self._signal_tree(running.tree, signum))
            return
        try:
            running.execution.signal(signum)
        except OSError as error:
            log.warning(
                "job %d: cannot send signal %d to process %d: %s",
                *(self.launch.key.job, signum, running.execution.pid, error.strerror),
            )

    def suspend(self) -> None:
        """Stop its processes and its time limit, unless it is to end; before it runs, do not start it."""
        running = self._running
        if self._reason is not None or (running is not None and running.execution.is_over):
            return
        self._is_suspended = True
        if self._limit is not None:
            self._limit.pause()
        if running is None:
            self._signals.pop(signal.SIGCONT, None)  # which was asked for before
        else:
            self._is_intact = False
            self._begin(self._stop_or_continue(running.tree))

    def resume(self) -> None:
        """Undo `suspend`, and nothing else."""
        if not self._is_suspended:
            return
        self._is_suspended = False
        if self._limit is not None:
            self._limit.resume()
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        if self._running is not None:
            self._begin(self._stop_or_continue(self._running.tree))

    def go_on(self) -> None:
        """Resume reading its output, now that enough of it is stored."""
        if self._running is not None:
            self._running.output.go_on()

    def _begin(self, action: Coroutine[None, None, None]) -> None:
        self._context.begin(action, f"job {self.launch.key.job}")

    async def _signal_tree(self, tree: Tree, signum: int) -> None:
        """Send every process a signal as if at one instant; processes stopped before stay stopped."""
        async with self._tree_lock:
            await tree.signal_all(self._context.scanner, signum)

    async def _stop_or_continue(self, tree: Tree) -> None:
        """Stop every process, also those started meanwhile; or continue all, if that was asked last."""
        async with self._tree_lock:
            if self._is_suspended:
                await tree.stop_all(self._context.scanner, is_wanted=lambda: self._is_suspended)
            else:
                await tree.signal_all(self._context.scanner, signal.SIGCONT)

    def _bring_down(self, running: _Running, grace: float) -> None:
        """Start the stop ladder, which continues the processes that it signals; or hasten it."""
        self._is_intact = False
        if self._ladder is None:
            running.execution.note_stop(self._told)
            first = signal.Signals[f"SIG{self.launch.stop_signal or StopSignal.TERM}"]
            scanner, deadlines = self._context.scanner, self._context.deadlines
            dump = partial(self._dump, running.execution)
            self._ladder = Ladder(running.tree, scanner, deadlines, grace, first, dump)
            self._descent = self._context.group.create_task(self._descend(self._ladder, running.tree))
        else:
            self._ladder.hasten(grace)

    def _dump(self, execution: Execution) -> bool:
        """Let the process of a class job write where it is; return whether it may do so."""
        if not self.launch.result or execution.is_over:
            return False
        execution.signal(DUMP_SIGNAL)
        return True

    async def _descend(self, ladder: Ladder, tree: Tree) -> Exception | None:
        """Return an error for `_end` to raise: raised here, it would cancel the task group and all jobs."""
        try:
            await self._context.retry(f"job {self.launch.key.job} cannot be ended yet", ladder.bring_down)
        except Exception as error:  # noqa: BLE001  any error concerns only this attempt
            tree.kill_unseen()  # else `_end` would wait forever for the first process
            return error
        return None

    # --- its life

    async def live(self) -> AttemptEnded:
        """Run it; return how it ended when no process of it is left."""
        try:
            what = f"job {self.launch.key.job} cannot start yet"
            running = await self._context.retry(what, self._start, self._stop_asked, self._wait_for)
        except CannotStart as error:
            log_bytes = self._write_log(error.log_text) if error.log_text else 0
            return self._never_ran(Outcome.NOT_STARTED, str(error), log_bytes)
        except LostChild as error:
            return self._never_ran(Outcome.UNKNOWN, str(error))
        if running is None:
            return self._never_ran(self._reason or Outcome.CANCELLED, self._problem)
        self._run(running)
        return await self._end(running)

    def abandon(self, problem: str) -> AttemptEnded:
        """Kill its processes after an error in the launcher; return an end with outcome `unknown`."""
        if self._running is not None:
            try:
                self._release(self._running)
            except Exception:  # an error of one job must not end the launcher, and all others with it
                log.exception("job %d: not all of its resources could be released", self.launch.key.job)
        return AttemptEnded(
            key=self.launch.key,
            outcome=Outcome.UNKNOWN,
            started_at=self._started_at,
            finished_at=time.time(),
            log_bytes=self.log_bytes,
            problem=problem,
            run_seconds=elapsed() - self._since if self._running else None,
        )

    def _release(self, running: _Running) -> None:
        """Kill its processes and release everything, after `_end` has failed."""
        self._context.pid_journal.end(self.launch.key)
        if self._limit is not None:
            self._limit.pause()
        running.tree.kill_unseen()
        running.output.close()
        running.execution.release(is_intact=False)

    def _write_log(self, log_text: bytes) -> int:
        """Write text into the log of an attempt that did not start; return the size of the log in bytes."""
        output = self._context.new_output(self.launch, with_terminal=self.launch.pty)
        try:
            output.put(log_text)
        finally:
            output.close()
        return output.log.total

    def _never_ran(self, outcome: Outcome, problem: str | None, log_bytes: int = 0) -> AttemptEnded:
        key, now = self.launch.key, time.time()
        return AttemptEnded(key=key, outcome=outcome, finished_at=now, log_bytes=log_bytes, problem=problem)

    # --- it starts: what it needs first, and how its first process is started

    def _wait_for(self, problem: str) -> None:
        """Say why it has no process yet."""
        waits = Reason(cause=Cause.START, problem=problem)
        if waits != self._waits:
            self._waits = waits
            self._report_start(self.state)

    async def _start(self) -> _Running | None:
        """Start it; return None if it is to end before it ran.

        Raises:
            CannotStart: the reason lies in the Launch.
            OSError: the reason lies in the machine; nothing was started, so it may be tried again.
            LostChild: it was started and had to be killed at once.
        """
        if self._stop_asked.done():
            return None
        log_text = b""
        # limits do not apply to a fork
        if self.launch.warm is not None and self.launch.limits == NO_LIMITS:
            try:
                return await self._start_in_worker(self.launch.warm)
            except NoWarmWorker as reason:
                log_text = f"bgd: a fresh interpreter for this job, as {reason}\n".encode()
        waits_for = self._context.mounts.that_may_hang(self.launch)
        with closing(StandardInput(self.launch, self._context.state, in_fork=waits_for is not None)) as given:
            if given.is_fifo:
                problem = "no process wrote to it within the time limit"
                self._wait_for(f"no process writes to {self.launch.stdin_path} yet")
                with self._limited(no_input_problem(self.launch.stdin_path or "", problem)):
                    await given.first_write(self._stop_asked)
            if not await self._may_start():
                return None
            group = self._group()
            running: _Running | None = None
            try:
                begin = partial(self._spawn, given, group, waits_for)
                running = await self._start_process(begin, log_text, elapsed(), group)
            finally:
                if running is None and group is not None:
                    group.remove()
            return running

    async def _start_in_worker(self, warm: WarmStart) -> _Running | None:
        problem = "its warm worker used up its time limit"

        async def hand_over(worker: Worker, output: AttemptOutput, tag: int | None) -> Execution:
            with self._limited(problem):
                return await worker.run(self.launch, output.job_end, tag, self._stop_asked)

        while True:
            with self._limited(problem):
                worker = await self._workers.lease(self.launch, warm, self._stop_asked)
            if worker is None:
                return None
            log_text, worker.log_text = worker.log_text, b""
            try:
                if await self._may_start():
                    return await self._start_process(
                        partial(hand_over, worker), log_text, worker.since_of_jobs
                    )
            except NotAccepted:
                worker.release()
                continue
            except BaseException:
                worker.release()
                raise
            worker.release()
            return None

    async def _may_start(self) -> bool:
        """Wait while it is suspended; return False if it is to end instead."""
        while self._is_suspended:
            self._resumed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._resumed, self._stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        return self._reason is None

    @contextmanager
    def _limited(self, problem: str) -> Iterator[None]:
        """Time the attempt out, with this problem, if the block takes longer than the attempt may."""

        def time_out() -> None:
            self._problem = problem
            self.stop(Outcome.TIMEOUT, 0.0)

        self._limit = Countdown(self._context.deadlines, self.launch.timeout or None, time_out)
        if self._is_suspended:
            self._limit.pause()
        try:
            yield
        finally:
            self._limit.pause()
            self._limit = None

    def _group(self) -> Group | None:
        """Return the control group for the attempt; None: it gets none of its own."""
        launch, delegation = self.launch, self._context.delegation
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

    async def _start_process(
        self, begin: Begin, log_text: bytes, since: float, group: Group | None = None
    ) -> _Running | None:
        """Start its first process with an output of its own, whose log begins with `log_text`.

        No process of the attempt is older than `since` (elapsed clock). None: it is to end before it ran.
        """
        key, context = self.launch.key, self._context
        output = self._context.new_output(self.launch, with_terminal=self.launch.pty)
        tag = new_tag()
        execution: Execution | None = None
        try:
            output.put(log_text)
            self._started_at, self._since = time.time(), elapsed()
            path = group.path if group else None
            context.journal.add_step(Began(key, output.inode, since, self._started_at, tag, path))
            execution = await begin(output, tag)
        except LostChild:
            tree = Tree(key, output.stream, since, pid=None, tag=tag, group=group)
            await Ladder(tree, context.scanner, context.deadlines, grace=0.0).bring_down()
            raise
        finally:
            if execution is None:
                output.close()
        if execution is None:
            return None
        tree = Tree(key, output.stream, since, execution.pid, tag=tag, group=group)
        return _Running(execution, output, tree)

    async def _spawn(
        self,
        given: StandardInput,
        group: Group | None,
        waits_for: str | None,
        output: AttemptOutput,
        tag: int | None,
    ) -> Execution | None:
        launch, context = self.launch, self._context
        nothing = output.job_end if launch.pty else context.null
        standard_input = nothing if given.source is None else given.source
        steps = steps_of(launch, group)
        parts = launch, standard_input, output.job_end, context, steps, tag
        if waits_for is None and not steps:  # most launches: no fork needed
            return spawn(*parts)
        silence = f"{waits_for or 'the kernel'} did not answer"

        def warn() -> None:
            log.warning("job %d: %s for %g s; it keeps waiting", launch.key.job, silence, _LONG)
            self._wait_for(silence)

        long = context.deadlines.after(_LONG, warn)
        try:
            with self._limited(f"{silence} within the time limit"):
                return await spawn_in_fork(*parts, stop_asked=self._stop_asked)
        except StuckProcess as stuck:
            self._problem = f"{silence}; {stuck}"
            log.warning("job %d: %s", launch.key.job, self._problem)
            return None
        finally:
            long.cancel()

    # --- it runs: its time limit, what its first process leaves behind, and how it ended

    def _run(self, running: _Running) -> None:
        """Report that it runs, and do what was asked of it while it started."""
        launch = self.launch
        self._running, self._waits = running, None
        time_out = partial(self.stop, Outcome.TIMEOUT, launch.grace, StopReason.TIMEOUT)
        self._limit = Countdown(self._context.deadlines, launch.timeout or None, time_out)
        running.output.begin(partial(self._output_moved, running.output.log))
        self._context.pid_journal.begin(launch.key, running.execution)
        self._report_start(self.state)
        if self._is_suspended:
            self.suspend()
        for signum, whole_tree in self._signals.items():
            self.signal(signum, whole_tree=whole_tree)
        if self._reason is not None:
            self._bring_down(running, self._grace)

    def _output_moved(self, written: Log) -> None:
        if self.launch.log_kill and written.is_over_cap and self._reason is None:
            self.stop(Outcome.LOG_LIMIT, 0.0)
        self._grew()

    async def _end(self, running: _Running) -> AttemptEnded:
        """Return how the first process ended, once all its leftovers have ended or are left to run."""
        code = await running.execution.wait()
        finished_at, run_seconds = time.time(), elapsed() - self._since
        self._context.pid_journal.end(self.launch.key)
        self._is_suspended = False
        if self._limit is not None:
            self._limit.pause()
        if self._context.outbox is not None and code in _OF_TERM:
            # Slurm takes an allocation away with a TERM for each process, the pilot's after those of its jobs
            await self._context.deadlines.wait(_TERM_PATIENCE, self._stop_asked)
        # the signal that ends the launcher may have reached its jobs too, for example with `systemctl kill`
        is_interrupted = self._reason is Outcome.INTERRUPTED and code != 0
        await self._end_leftovers(running)
        if not running.output.drain() and self._descent is None:
            self._leave_output(running.output)
        running.output.close()
        figures = await self._closed_group(running.tree.group)
        outcome = Outcome.INTERRUPTED if is_interrupted else self._outcome(code, running.tree, figures)
        ended = self._ended(running, outcome, code, finished_at, run_seconds, figures)
        running.execution.release(is_intact=self._is_intact)
        return ended

    async def _end_leftovers(self, running: _Running) -> None:
        what = f"what job {self.launch.key.job} left running cannot be found yet"

        async def has_left_orphans() -> bool:
            return running.tree.left_any(self._context.children.orphans())

        is_closed = running.output.drain()
        has_others = running.execution.has_left_others(running.tree)
        if self._descent is None and not is_closed:
            # a reader of its output sees the end only now and needs a moment: `program > >(tee file)`
            over = self._context.deadlines.timer(_OUTPUT_PATIENCE)
            is_closed = await running.output.ended(over)
            over.cancel()
        # a process that escaped, and whose parent has ended, has become a child of the launcher
        has_others = has_others or not is_closed or await self._context.retry(what, has_left_orphans)
        are_left = self._descent is None and has_others and not self.launch.keep_leftovers
        if are_left:
            self._bring_down(running, self.launch.grace)
        if self._descent is not None:
            failure = await self._descent
            if failure is not None:
                raise failure
        if are_left and self._ladder is not None:
            self._leftovers = self._ladder.found or None

    def _leave_output(self, output: AttemptOutput) -> None:
        try:
            output.discard_rest(self._context.null, self._context.children)
        except OSError as error:
            log.warning(
                "job %d: processes that it left running cannot write output, as `cat` cannot be started: %s",
                *(self.launch.key.job, error.strerror),
            )

    async def _closed_group(self, group: Group | None) -> GroupFigures | None:
        """Remove its control group; return what the whole tree used by its account, None without a group."""
        if group is None:
            return None
        if self._descent is not None or not self.launch.keep_leftovers:
            over = self._context.deadlines.timer(_GROUP_PATIENCE)
            await group.emptied(over)
            over.cancel()
        figures = group.figures()
        group.remove()
        return figures

    def _outcome(self, code: int, tree: Tree, figures: GroupFigures | None) -> Outcome:
        if self._reason is not None and tree.was_signalled:
            return self._reason
        if code and figures and figures.oom_kills:
            return Outcome.OOM
        if code < 0:
            return Outcome.SIGNAL
        return Outcome.EXIT if code else Outcome.SUCCEEDED

    def _ended(
        self,
        running: _Running,
        outcome: Outcome,
        code: int,
        finished_at: float,
        run_seconds: float,
        figures: GroupFigures | None,
    ) -> AttemptEnded:
        usage = running.execution.usage()
        written = running.output.log
        result = running.execution.read_result()
        return AttemptEnded(
            key=self.launch.key,
            outcome=outcome,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            started_at=self._started_at,
            finished_at=finished_at,
            user_seconds=figures.user_seconds if figures else usage.user_seconds,
            system_seconds=figures.system_seconds if figures else usage.system_seconds,
            max_rss_bytes=usage.max_rss_bytes,
            log_bytes=written.total,
            problem=_out_of_memory(self.launch) if outcome is Outcome.OOM else written.problem,
            result=None if result is None else result or self.launch.usual_result,
            whole_tree=figures is not None,
            memory_peak_bytes=figures.memory_peak if figures else None,
            log_lost=written.lost,
            log_problem=written.problem,
            run_seconds=run_seconds,
            leftovers=self._leftovers,
        )


_LONG = 10.0  # seconds without an answer of a file system until a warning is logged
_OUTPUT_PATIENCE = 0.5  # seconds
_OF_TERM = {-signal.SIGTERM, 128 + signal.SIGTERM}  # the second is a shell's, of a program that it ended
_TERM_PATIENCE = 2.0  # seconds between the first and the last of many signals, on a busy node
_GROUP_PATIENCE = 1.0  # seconds for killed processes to leave their group


def _out_of_memory(launch: Launch) -> str:
    most = launch.limits.memory_max
    if most is None:
        return "the machine was out of memory, and the kernel killed it"
    return f"it used all of its {format_size(most)} of memory, and the kernel killed it"
