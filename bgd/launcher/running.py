"""A started attempt: its time limit, its stop, what its first process leaves behind, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.core.spec import StopSignal
from bgd.launcher.cgroup import GroupFigures
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Countdown
from bgd.launcher.output import AttemptOutput
from bgd.launcher.scan import Scanner
from bgd.launcher.tree import Execution, Ladder, Tree
from bgd.units import format_size
from bgd.wire.class_jobs import MAX_DOCUMENT
from bgd.wire.launching import (
    AttemptEnded,
    Launch,
)

log = logging.getLogger(__name__)


class RunningAttempt:
    """Own the attempt's output and its result file; `end` and `abandon` close both."""

    def __init__(  # noqa: PLR0917  the parts of one running attempt
        self,
        launch: Launch,
        context: Context,
        execution: Execution,
        output: AttemptOutput,
        tree: Tree,
        began: tuple[float, float],  # on the wall clock and on the elapsed one
        grew: Callable[[], None],
    ) -> None:
        self._launch = launch
        self._context = context
        self._execution = execution
        self._result = execution.result
        self._is_intact = True  # nobody except the job itself has acted on its processes
        self._output = output
        self._tree = tree
        self._started_at, self._since = began
        self._grew = grew
        self._is_interrupted = False
        self._reason: Outcome | None = None  # why it is to end: the first reason that was given
        self._ladder: Ladder | None = None
        self._descent: asyncio.Task[Exception | None] | None = None
        self._suspension = Suspension(tree, context.scanner)
        self._limit = Countdown(
            context.deadlines, launch.timeout or None, lambda: self.stop(Outcome.TIMEOUT, launch.grace)
        )
        output.begin(self._output_moved)
        context.pid_journal.begin(launch.key, execution)

    @property
    def pid(self) -> int:
        """The pid of its first process."""
        return self._execution.pid

    @property
    def log_bytes(self) -> int:
        """The size of its output so far."""
        return self._output.log.total

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log; None: no output is missing."""
        return self._output.log.problem

    def stop(self, reason: Outcome, grace: float) -> None:
        """Start the stop ladder. May be called again; the first reason and the shortest grace count."""
        self._reason = self._reason or reason
        self._bring_down(grace)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Send a signal to the first process or to the whole tree; do nothing once the first has ended."""
        if self._execution.is_over:
            return
        self._is_intact = False
        if whole_tree:
            self._begin(self._suspension.signal_all(signum))
            return
        try:
            self._execution.signal(signum)
        except OSError as error:
            log.warning(
                "job %d: cannot send signal %d to process %d: %s",
                *(self._launch.key.job, signum, self.pid, error.strerror),
            )

    def suspend(self) -> None:
        """Stop the tree and its time limit, unless the attempt is being stopped; may be called again."""
        if self._ladder is None and not self._execution.is_over:
            self._is_intact = False
            self._suspension.is_on = True
            self._limit.pause()
            self._begin(self._suspension.carry_out())

    def resume(self) -> None:
        """Undo `suspend`, and nothing else."""
        if self._suspension.is_on:
            self._suspension.is_on = False
            self._limit.resume()
            self._begin(self._suspension.carry_out())

    async def end(self) -> AttemptEnded:
        """Return how the first process ended, once all its leftovers have ended or are left to run."""
        code = await self._execution.wait()
        # whoever stops the launcher may have sent the same signal to its jobs, for example `systemctl kill`
        self._is_interrupted = self._reason is Outcome.INTERRUPTED and code != 0
        finished_at, run_seconds = time.time(), elapsed() - self._since
        self._context.pid_journal.end(self._launch.key)
        self._suspension.is_on = False
        self._limit.pause()
        await self._end_leftovers()
        if not self._output.drain() and self._descent is None:
            await self._leave_output()
        self._output.close()
        ended = self._ended(code, finished_at, run_seconds, await self._closed_group())
        self._execution.release(is_intact=self._is_intact)
        return ended

    def abandon(self) -> None:
        """Kill its processes and release everything, after `end` has failed."""
        self._context.pid_journal.end(self._launch.key)
        self._limit.pause()
        self._tree.kill_unseen()
        self._output.close()
        self._close_result()
        self._execution.release(is_intact=False)

    def _output_moved(self) -> None:
        if self._launch.log_kill and self._output.log.is_over_cap and self._reason is None:
            self.stop(Outcome.LOG_LIMIT, 0.0)
        self._grew()

    def _bring_down(self, grace: float) -> None:
        self._is_intact = False
        if self._ladder is None:
            self._suspension.is_on = False  # the ladder continues the processes that it signals
            first = signal.Signals[f"SIG{self._launch.stop_signal or StopSignal.TERM}"]
            self._ladder = Ladder(self._tree, self._context.scanner, self._context.deadlines, grace, first)
            self._descent = self._context.group.create_task(self._descend(self._ladder))
        else:
            self._ladder.hasten(grace)

    def _begin(self, action: Coroutine[None, None, None]) -> None:
        self._context.group.create_task(self._logged(action))

    async def _logged(self, action: Coroutine[None, None, None]) -> None:
        try:
            await action
        except Exception:  # raised further, it would cancel the task group, and so end every job
            log.exception("job %d: the launcher could not do what was asked", self._launch.key.job)

    async def _descend(self, ladder: Ladder) -> Exception | None:
        """Return an error for `end` to raise: raised here, it would cancel the task group and all jobs."""
        try:
            await ladder.bring_down()
        except Exception as error:  # noqa: BLE001  any error concerns only this attempt
            self._tree.kill_unseen()  # else `end` would wait forever for the first process
            return error
        return None

    async def _end_leftovers(self) -> None:
        is_closed = self._output.drain()
        has_others = self._execution.has_left_others(self._tree)
        if self._descent is None and not is_closed:
            # a reader of its output sees the end only now and needs a moment: `program > >(tee file)`
            over = self._context.deadlines.timer(_OUTPUT_PATIENCE)
            is_closed = await self._output.ended(over)
            over.cancel()
        is_leaving = has_others or not is_closed or self._left_orphans()
        if self._descent is None and is_leaving and not self._launch.keep_leftovers:
            self._bring_down(self._launch.grace)
        if self._descent is not None:
            failure = await self._descent
            if failure is not None:
                raise failure

    async def _leave_output(self) -> None:
        try:
            await self._output.discard_rest(self._context.null)
        except OSError as error:
            log.warning(
                "job %d: processes that it left running cannot write output, as `cat` cannot be started: %s",
                *(self._launch.key.job, error.strerror),
            )

    def _left_orphans(self) -> bool:
        """Return whether a process escaped: one whose parent has ended has become a child of this process."""
        return self._tree.left_any(self._context.children.orphans())

    async def _closed_group(self) -> GroupFigures | None:
        """Remove its control group; return what the whole tree used by its account, None without a group."""
        group = self._tree.group
        if group is None:
            return None
        if self._descent is not None or not self._launch.keep_leftovers:
            over = self._context.deadlines.timer(_GROUP_PATIENCE)
            await group.emptied(over)
            over.cancel()
        figures = group.figures()
        group.remove()
        return figures

    def _ended(
        self, code: int, finished_at: float, run_seconds: float, figures: GroupFigures | None
    ) -> AttemptEnded:
        usage = self._execution.usage()
        outcome = self._outcome(code, figures)
        result = None if self._result is None else _read_result(self._result) or self._launch.usual_result
        self._close_result()
        return AttemptEnded(
            key=self._launch.key,
            outcome=outcome,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            started_at=self._started_at,
            finished_at=finished_at,
            user_seconds=figures.user_seconds if figures else usage.user_seconds,
            system_seconds=figures.system_seconds if figures else usage.system_seconds,
            max_rss_bytes=usage.max_rss_bytes,
            log_bytes=self._output.log.total,
            problem=_out_of_memory(self._launch) if outcome is Outcome.OOM else self._output.log.problem,
            result=result,
            whole_tree=figures is not None,
            memory_peak_bytes=figures.memory_peak if figures else None,
            log_lost=self._output.log.lost,
            log_problem=self._output.log.problem,
            run_seconds=run_seconds,
        )

    def _close_result(self) -> None:
        if self._result is not None:
            os.close(self._result)
            self._result = None

    def _outcome(self, code: int, figures: GroupFigures | None) -> Outcome:
        if self._is_interrupted:
            return Outcome.INTERRUPTED
        if self._reason is not None and self._tree.was_signalled:
            return self._reason
        if code and figures and figures.oom_kills:
            return Outcome.OOM
        if code < 0:
            return Outcome.SIGNAL
        return Outcome.EXIT if code else Outcome.SUCCEEDED


_OUTPUT_PATIENCE = 0.5  # seconds
_GROUP_PATIENCE = 1.0  # seconds for killed processes to leave their group


def _out_of_memory(launch: Launch) -> str:
    most = launch.limits.memory_max
    if most is None:
        return "the machine was out of memory, and the kernel killed it"
    return f"it used all of its {format_size(most)} of memory, and the kernel killed it"


def _read_result(fd: int) -> bytes:
    """Return the content of the result file; of one that is too long, one byte more than allowed."""
    return os.pread(fd, min(os.fstat(fd).st_size, MAX_DOCUMENT + 1), 0)


# --- Suspension of an attempt: every process of its tree is stopped, and continued later.


class Suspension:
    """Set `is_on`, then await `carry_out`: when it returns, the latest value holds."""

    def __init__(self, tree: Tree, scanner: Scanner) -> None:
        self._tree = tree
        self._scanner = scanner
        self._lock = asyncio.Lock()  # so that calls do not interfere
        self.is_on = False

    async def carry_out(self) -> None:
        """Stop every process, also those started meanwhile; or continue all."""
        async with self._lock:
            if self.is_on:
                await self._tree.stop_all(self._scanner, is_wanted=lambda: self.is_on)
            else:
                await self._tree.signal_all(self._scanner, signal.SIGCONT)

    async def signal_all(self, signum: int) -> None:
        """Send every process a signal as if at one instant; processes stopped before stay stopped."""
        async with self._lock:
            await self._tree.signal_all(self._scanner, signum)
