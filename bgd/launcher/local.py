"""Attempts on this machine: how the first process starts, in a warm worker or on its own, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.core.spec import StopSignal
from bgd.launcher import spawn
from bgd.launcher.attempt import Attempt, end_of
from bgd.launcher.cgroup import Group, Usage
from bgd.launcher.children import Child, LostChild, has_ended
from bgd.launcher.context import Context
from bgd.launcher.deadlines import readable
from bgd.launcher.journal import Began
from bgd.launcher.output import AttemptOutput
from bgd.launcher.problems import CannotStart, explained, no_input_problem, one_line, reason_of
from bgd.launcher.process import new_tag
from bgd.launcher.tree import DUMP_SIGNAL, Execution, Ladder, ProcessEnd, StopReason, Tree
from bgd.launcher.warm.attempts import NotAccepted
from bgd.launcher.warm.worker import NoWarmWorker, Worker, WorkerPool
from bgd.system.clock import elapsed
from bgd.text.units import format_size
from bgd.wire.launching import AttemptEnded, Launch, NotStarted, WarmStart
from bgd.wire.limits import NO_LIMITS, problem_with_limits

log = logging.getLogger(__name__)

Begin = Callable[[AttemptOutput, int | None], Awaitable[Execution | None]]
"""Start a first process with this output and tag; None: the attempt was stopped instead."""


class LocalExecutor:
    """Starts attempts on this machine: what they need first, and how their first process is started."""

    def __init__(self, context: Context, workers: WorkerPool) -> None:
        self._context = context
        self._workers = workers

    async def execute(self, attempt: Attempt) -> LocalRun | None:
        """Start an attempt; return None if it is to end before it ran (see Executor)."""
        launch, log_text = attempt.launch, b""
        # limits do not apply to a fork
        if launch.warm is not None and launch.limits == NO_LIMITS:
            try:
                return await self._start_in_worker(attempt, launch.warm)
            except NoWarmWorker as reason:
                log_text = f"bgd: a fresh interpreter for this job, as {reason}\n".encode()
        waits_for = self._context.mounts.that_may_hang(launch)
        with spawn.standard_input(launch, self._context.state, in_fork=waits_for is not None) as source:
            if spawn.is_fifo(source):
                problem = "no process wrote to it within the time limit"
                attempt.wait_to_start(f"no process writes to {launch.stdin_path} yet")
                with attempt.limited(no_input_problem(launch.stdin_path or "", problem)):
                    await readable(source, attempt.stop_asked)  # as a shell does when it opens one
            if not await attempt.may_start():
                return None
            group = self._group(launch)
            running: LocalRun | None = None
            try:
                begin = partial(self._spawn, attempt, source, group, waits_for)
                running = await self._start_process(attempt, begin, log_text, elapsed(), group)
            finally:
                if running is None and group is not None:
                    group.remove()
            return running

    async def _start_in_worker(self, attempt: Attempt, warm: WarmStart) -> LocalRun | None:
        problem = "its warm worker used up its time limit"

        async def hand_over(worker: Worker, output: AttemptOutput, tag: int | None) -> Execution:
            with attempt.limited(problem):
                return await worker.run(attempt.launch, output.job_end, tag, attempt.stop_asked)

        while True:
            with attempt.limited(problem):
                worker = await self._workers.lease(attempt.launch, warm, attempt.stop_asked)
            if worker is None:
                return None
            log_text, worker.log_text = worker.log_text, b""
            begin, running = partial(hand_over, worker), None
            try:
                if await attempt.may_start():
                    running = await self._start_process(attempt, begin, log_text, worker.since_of_jobs)
            except NotAccepted:
                continue
            finally:
                if running is None:
                    worker.release()
            return running

    def _group(self, launch: Launch) -> Group | None:
        """Return the control group of the attempt; None: it has none of its own."""
        delegation = self._context.delegation
        if launch.limits == NO_LIMITS and not launch.own_group:
            return None
        problem = problem_with_limits(launch.limits, delegation.abilities)
        if problem is not None:
            raise CannotStart(one_line(NotStarted.NO_LIMIT, problem))
        if not (launch.limits.controllers or launch.own_group):
            return None
        where = f"no control group in {delegation.path}"
        with explained(lambda error: one_line(NotStarted.NO_LIMIT, f"{where}: {reason_of(error)}")):
            return delegation.new_group(launch.key, launch.limits)

    async def _start_process(
        self, attempt: Attempt, begin: Begin, log_text: bytes, since: float, group: Group | None = None
    ) -> LocalRun | None:
        """Start its first process with an output of its own, whose log begins with `log_text`.

        No process of the attempt is older than `since` (elapsed clock). None: it was stopped before it ran.
        """
        key, context = attempt.launch.key, self._context
        output = context.new_output(attempt.launch)
        tag = new_tag()
        execution: Execution | None = None
        try:
            output.put(log_text)
            attempt.begin_to_start()
            path = group.path if group else None
            context.journal.add_step(Began(key, output.inode, since, attempt.started_at, tag, path))
            execution = await begin(output, tag)
        except LostChild:
            tree = Tree(key, lambda: output.stream, since, pid=None, tag=tag, group=group)
            await Ladder(tree, context.scanner, context.deadlines, grace=0.0).bring_down()
            raise
        finally:
            if execution is None:
                output.close()
        if execution is None:
            return None
        tree = Tree(key, lambda: output.stream, since, execution.pid, tag=tag, group=group)
        return LocalRun(attempt, context, execution, output, tree)

    async def _spawn(
        self,
        attempt: Attempt,
        source: int | str | None,
        group: Group | None,
        waits_for: str | None,
        output: AttemptOutput,
        tag: int | None,
    ) -> spawn.SpawnedExecution | None:
        launch, context = attempt.launch, self._context
        nothing = output.job_end if launch.pty else context.null
        steps = spawn.steps_of(launch, group)
        result = spawn.ResultFile() if launch.result else None
        process: Child | None = None
        try:
            command = spawn.Command(
                argv=launch.argv,
                env=spawn.environment_of(launch, result),
                cwd=launch.cwd,
                umask=launch.umask,
                input=nothing if source is None else source,
                output=output.job_end,
                passed=() if result is None else (result.fd,),
                steps=steps,
                tag=tag,
            )
            if waits_for is None and not steps:  # most launches: no fork needed
                process = spawn.start_process(launch, command, context.children)
            else:
                process = await self._start_in_fork(attempt, command, waits_for or "the kernel")
        finally:
            if process is None and result is not None:
                result.close()
        return None if process is None else spawn.SpawnedExecution(process, result, context.children)

    async def _start_in_fork(self, attempt: Attempt, command: spawn.Command, waits_for: str) -> Child | None:
        silence, job = f"{waits_for} did not answer", attempt.launch.key.job

        def warn() -> None:
            log.warning("job %d: %s for %g s; it keeps waiting", job, silence, _LONG)
            attempt.wait_to_start(silence)

        def give_up(stuck: str) -> None:
            attempt.problem = f"{silence}; {stuck}"
            log.warning("job %d: %s", job, attempt.problem)

        long = self._context.deadlines.after(_LONG, warn)
        try:
            with attempt.limited(f"{silence} within the time limit"):
                return await spawn.start_in_fork(
                    attempt.launch, command, self._context, attempt.stop_asked, stuck=give_up
                )
        finally:
            long.cancel()


class LocalRun:
    """An attempt whose first process runs here."""

    node = None

    def __init__(
        self, attempt: Attempt, context: Context, execution: Execution, output: AttemptOutput, tree: Tree
    ) -> None:
        self._attempt = attempt
        self.launch = attempt.launch
        self._context = context
        self._execution = execution
        self._output = output
        self.tree = tree
        self._is_intact = True  # only the job itself has acted on its processes
        self._tree_lock = asyncio.Lock()  # so that a suspension and signals to the tree do not interfere
        self._ladder: Ladder | None = None
        self._descent: asyncio.Task[Exception | None] | None = None
        self._leftovers: str | None = None
        self._oom_kills = context.oom_kills()  # before it

    @property
    def pid(self) -> int:
        """The pid of the first process."""
        return self._execution.pid

    @property
    def is_over(self) -> bool:
        """Whether its first process has ended."""
        return self._execution.is_over

    @property
    def has_exited(self) -> bool:
        """Whether its first process has ended, even if that is not known yet."""
        return self._execution.is_over or has_ended(self._execution.pid)

    def begin(self) -> None:
        """Start its time limit, and read its output."""
        self._attempt.limit_run()
        self._attempt.output, self._attempt.log = self._output, self._output.log
        self._output.begin(partial(self._attempt.kill_over_cap, self._output.log))
        self._context.pid_journal.begin(self.launch.key, self._execution)
        self._attempt.runs()

    # --- what may be asked of it

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Signal its first process or its whole tree."""
        self._is_intact = False
        if whole_tree:
            self._begin(self._signal_tree(signum))
            return
        try:
            self._execution.signal(signum)
        except OSError as error:
            log.warning(
                "job %d: cannot send signal %d to process %d: %s",
                *(self.launch.key.job, signum, self._execution.pid, error.strerror),
            )

    def steer(self, *, is_suspended: bool) -> None:
        """Stop all its processes, or continue them."""
        self._is_intact = self._is_intact and not is_suspended
        self._begin(self._stop_or_continue())

    async def settled(self) -> bool:
        """Wait until `steer` is done; return whether its first process has not ended."""
        async with self._tree_lock:  # tasks get it in the order in which they were started
            return not self.has_exited

    def acknowledge(self) -> None:
        """Do nothing: its end is stored nowhere else."""

    def _begin(self, action: Coroutine[None, None, None]) -> None:
        self._context.begin(action, f"job {self.launch.key.job}")

    async def _signal_tree(self, signum: int) -> None:
        """Send every process a signal as if at one instant; processes stopped before stay stopped."""
        async with self._tree_lock:
            await self.tree.signal_all(self._context.scanner, signum)

    async def _stop_or_continue(self) -> None:
        """Stop every process, including new ones; or continue all, if that was the last request."""
        async with self._tree_lock:
            if self._attempt.is_suspended:
                await self.tree.stop_all(self._context.scanner, is_wanted=lambda: self._attempt.is_suspended)
            else:
                await self.tree.signal_all(self._context.scanner, signal.SIGCONT)

    def stop(self, grace: float, told: StopReason = StopReason.OTHER) -> None:
        """Start the stop ladder, which continues the processes that it signals; or shorten it."""
        self._is_intact = False
        if self._ladder is None:
            self._execution.note_stop(told)
            first = signal.Signals[f"SIG{self.launch.stop_signal or StopSignal.TERM}"]
            scanner, deadlines = self._context.scanner, self._context.deadlines
            self._ladder = Ladder(self.tree, scanner, deadlines, grace, first, self._dump)
            self._descent = self._context.group.create_task(self._descend(self._ladder))
        else:
            self._ladder.hasten(grace)

    def _dump(self) -> bool:
        """Let the process of a class job write its stack; return whether it can."""
        if not self.launch.result or self._execution.is_over:
            return False
        self._execution.signal(DUMP_SIGNAL)
        return True

    async def _descend(self, ladder: Ladder) -> Exception | None:
        """Return an error for `ended` to raise: raised here, it would cancel the task group and all jobs."""
        try:
            await self._context.retry(f"job {self.launch.key.job} cannot be ended yet", ladder.bring_down)
        except Exception as error:  # noqa: BLE001  any error concerns only this attempt
            self.tree.kill_unseen()  # otherwise `ended` would wait forever for the first process
            return error
        return None

    def abandon(self) -> None:
        """Kill its processes and release everything, after `ended` has failed."""
        self._context.pid_journal.end(self.launch.key)
        self.tree.kill_unseen()
        self._output.close()
        self._execution.release(is_intact=False)

    # --- what its first process leaves behind, and how it ended

    async def ended(self) -> AttemptEnded:
        """Return how the first process ended, once its leftovers have ended or are to be kept."""
        end = await self._execution.wait()
        code = end.code
        finished_at, run_seconds = time.time(), elapsed() - self._attempt.since
        self._context.pid_journal.end(self.launch.key)
        self._attempt.is_suspended = False
        if self._attempt.limit is not None:
            self._attempt.limit.pause()
        if self._context.outbox is not None and code in _OF_TERM:
            # Slurm takes an allocation away with a TERM for each process, the pilot's after those of its jobs
            await self._context.deadlines.wait(_TERM_PATIENCE, self._attempt.stop_asked)
        # the signal that ends the launcher may have reached its jobs too, for example with `systemctl kill`
        is_interrupted = self._attempt.reason is Outcome.INTERRUPTED and code != 0
        await self._end_leftovers(end)
        if not self._output.drain() and self._descent is None:
            self._leave_output()
        self._output.close()
        figures = await self._closed_group()
        outcome = Outcome.INTERRUPTED if is_interrupted else self._outcome(code, figures)
        ended = self._ended(outcome, end, finished_at, run_seconds, figures)
        self._execution.release(is_intact=self._is_intact)
        return ended

    async def _end_leftovers(self, end: ProcessEnd) -> None:
        what = f"what job {self.launch.key.job} left running cannot be found yet"

        async def has_left_orphans() -> bool:
            return self.tree.left_any(self._context.children.orphans())

        is_closed = self._output.drain()
        has_others = self.tree.has_group() if end.left_others is None else end.left_others
        if self._descent is None and not is_closed:
            # a reader of its output sees the end only now and needs a moment: `program > >(tee file)`
            await self._context.deadlines.wait(_OUTPUT_PATIENCE, self._output.end)
            is_closed = self._output.end.done()
        # a process that escaped, and whose parent has ended, has become a child of the launcher
        has_others = has_others or not is_closed or await self._context.retry(what, has_left_orphans)
        are_left = self._descent is None and has_others and not self.launch.keep_leftovers
        if are_left:
            self.stop(self.launch.grace)
        if self._descent is not None:
            failure = await self._descent
            if failure is not None:
                raise failure
        if are_left and self._ladder is not None:
            self._leftovers = self._ladder.found or None

    def _leave_output(self) -> None:
        try:
            self._output.discard_rest(self._context.null, self._context.children)
        except OSError as error:
            log.warning(
                "job %d: processes that it left running cannot write output, as `cat` cannot be started: %s",
                *(self.launch.key.job, error.strerror),
            )

    async def _closed_group(self) -> Usage | None:
        """Remove its control group; return the usage of the whole tree, None without a group."""
        group = self.tree.group
        if group is None:
            return None
        if self._descent is not None or not self.launch.keep_leftovers:
            over = self._context.deadlines.timer(_GROUP_PATIENCE)
            await group.emptied(over)
            over.cancel()
        figures = group.figures()
        group.remove()
        return figures

    def _outcome(self, code: int, figures: Usage | None) -> Outcome:
        if self._attempt.reason is not None and self.tree.was_signalled:
            return self._attempt.reason
        if code and figures and figures.oom_kills:
            return Outcome.OOM
        if code in _OF_KILL and figures is None and self._context.oom_kills() > self._oom_kills:
            return Outcome.OOM
        if code < 0:
            return Outcome.SIGNAL
        return Outcome.EXIT if code else Outcome.SUCCEEDED

    def _ended(
        self, outcome: Outcome, end: ProcessEnd, finished_at: float, run_seconds: float, figures: Usage | None
    ) -> AttemptEnded:
        code, usage, result, written = end.code, end.usage, end.result, self._output.log
        lacking = "the machine" if self._context.outbox is None else "the allocation of its pilot"
        problem = _out_of_memory(self.launch, lacking) if outcome is Outcome.OOM else written.problem
        return replace(
            end_of(self.launch.key, outcome, problem, written.total, self._attempt.started_at, run_seconds),
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            finished_at=finished_at,
            user_seconds=(figures or usage).user_seconds,
            system_seconds=(figures or usage).system_seconds,
            max_rss_bytes=usage.max_rss_bytes,
            result=None if result is None else result or self.launch.usual_result,
            whole_tree=figures is not None,
            memory_peak_bytes=figures.memory_peak if figures else None,
            log_lost=written.lost,
            log_problem=written.problem,
            leftovers=self._leftovers,
        )


_LONG = 10.0  # seconds without an answer of a file system until a warning is logged
_OUTPUT_PATIENCE = 0.5  # seconds
_OF_TERM = {-signal.SIGTERM, 128 + signal.SIGTERM}  # the second is a shell's, of a program that it ended
_OF_KILL = {-signal.SIGKILL, 128 + signal.SIGKILL}  # likewise
_TERM_PATIENCE = 2.0  # seconds between the first and the last of many signals, on a busy node
_GROUP_PATIENCE = 1.0  # seconds for killed processes to leave their group


def _out_of_memory(launch: Launch, lacking: str) -> str:
    most = launch.limits.memory_max
    if most is None:
        return f"{lacking} was out of memory, and the kernel killed it"
    return f"it used all of its {format_size(most)} of memory, and the kernel killed it"
