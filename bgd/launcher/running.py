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
from bgd.launcher.cgroup import GroupFigures
from bgd.launcher.context import Tools
from bgd.launcher.deadlines import Countdown
from bgd.launcher.output import Output
from bgd.launcher.scan import Looker
from bgd.launcher.tree import Execution, Ladder, Tree
from bgd.units import format_size
from bgd.wire.class_jobs import MAX_DOCUMENT
from bgd.wire.launching import (
    AttemptEnded,
    Launch,
)

# --- Suspending an attempt: every process of its tree is stopped, and let go on later.


class Suspension:
    """What `is_on` was last set to holds, once the `carry_out` that follows has returned."""

    def __init__(self, tree: Tree, looker: Looker) -> None:
        self._tree = tree
        self._looker = looker
        self._turn = asyncio.Lock()  # they must not get in each other's way
        self.is_on = False

    async def carry_out(self) -> None:
        """Stop every process, also those that are started meanwhile, or let all go on."""
        async with self._turn:
            if self.is_on:
                await self._tree.stop_all(self._looker, is_wanted=lambda: self.is_on)
            else:
                await self._tree.tell_all(self._looker, signal.SIGCONT)

    async def tell_all(self, signum: int) -> None:
        """Send every process a signal as if at one instant; who was stopped before stays stopped."""
        async with self._turn:
            await self._tree.tell_all(self._looker, signum)


# --- A started attempt: its time limit, its stop, what its first process leaves behind, and how it ended.


log = logging.getLogger(__name__)


class Running:
    """Owns the output of what the attempt runs in, and its result; `end` closes both."""

    def __init__(  # noqa: PLR0917  the parts of one running attempt
        self,
        launch: Launch,
        tools: Tools,
        execution: Execution,
        output: Output,
        tree: Tree,
        began: tuple[float, float],  # on the wall clock and on the elapsed one
        grew: Callable[[], None],
    ) -> None:
        self._launch = launch
        self._tools = tools
        self._execution = execution
        self._result = execution.result
        self._is_intact = True  # nobody but the job itself has acted on its processes
        self._output = output
        self._tree = tree
        self._started_at, self._since = began
        self._grew = grew
        self._is_interrupted = False
        self._reason: Outcome | None = None  # why it is to end, as the first said who asked
        self._ladder: Ladder | None = None
        self._descent: asyncio.Task[Exception | None] | None = None
        self._suspension = Suspension(tree, tools.looker)
        self._limit = Countdown(
            tools.deadlines, launch.timeout or None, lambda: self.stop(Outcome.TIMEOUT, launch.grace)
        )
        output.begin(self._output_moved)
        tools.noting.begin(launch.key, execution)

    @property
    def pid(self) -> int:
        return self._execution.pid

    @property
    def log_bytes(self) -> int:
        return self._output.log.total

    @property
    def log_problem(self) -> str | None:
        return self._output.log.problem

    def stop(self, reason: Outcome, grace: float) -> None:
        """Send it down the stop ladder. May be said again; the first reason and the shortest grace count."""
        self._reason = self._reason or reason
        self._bring_down(grace)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Send a signal to the first process or to all of the tree; nothing once the first has ended."""
        if self._execution.is_over:
            return
        self._is_intact = False
        if whole_tree:
            self._begin(self._suspension.tell_all(signum))
            return
        try:
            self._execution.signal(signum)
        except OSError as error:
            log.warning(
                "job %d: cannot send signal %d to process %d: %s",
                *(self._launch.key.job, signum, self.pid, error.strerror),
            )

    def suspend(self) -> None:
        """Stop the whole tree and the time limit; may be said again. Who is being ended is not suspended."""
        if self._ladder is None and not self._execution.is_over:
            self._is_intact = False
            self._suspension.is_on = True
            self._limit.stand_still()
            self._begin(self._suspension.carry_out())

    def go_on(self) -> None:
        """Undo `suspend`, and nothing else."""
        if self._suspension.is_on:
            self._suspension.is_on = False
            self._limit.go_on()
            self._begin(self._suspension.carry_out())

    async def end(self) -> AttemptEnded:
        """Return how the first process ended, when nothing of the tree is left but what is to be kept."""
        code = await self._execution.wait()
        # who ends the launcher may have sent the same signal to its jobs, as `systemctl kill` does
        self._is_interrupted = self._reason is Outcome.INTERRUPTED and code != 0
        finished_at, run_seconds = time.time(), elapsed() - self._since
        self._tools.noting.end(self._launch.key)
        self._suspension.is_on = False
        self._limit.stand_still()
        await self._end_leftovers()
        if not self._output.drain() and self._descent is None:
            await self._leave_output()
        self._output.close()
        ended = self._ended(code, finished_at, run_seconds, await self._closed_group())
        self._execution.release(is_intact=self._is_intact)
        return ended

    def abandon(self) -> None:
        """Kill and close what can be, as seeing to its end has failed."""
        self._tools.noting.end(self._launch.key)
        self._limit.stand_still()
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
            self._suspension.is_on = False  # the ladder lets those go on that it tells to end
            self._ladder = Ladder(self._tree, self._tools.looker, self._tools.deadlines, grace)
            self._descent = self._tools.group.create_task(self._descend(self._ladder))
        else:
            self._ladder.hasten(grace)

    def _begin(self, doing: Coroutine[None, None, None]) -> None:
        self._tools.group.create_task(self._tried(doing))

    async def _tried(self, doing: Coroutine[None, None, None]) -> None:
        try:
            await doing
        except Exception:  # the group of tasks would end every job for it
            log.exception("job %d: its launcher could not do as it was asked", self._launch.key.job)

    async def _descend(self, ladder: Ladder) -> Exception | None:
        """Return what went wrong, for `end` to raise: the group of tasks would end every job for it."""
        try:
            await ladder.bring_down()
        except Exception as error:  # noqa: BLE001  whatever it is, it is this attempt's trouble only
            self._tree.kill_unseen()  # else `end` would wait for the first process for ever
            return error
        return None

    async def _end_leftovers(self) -> None:
        is_closed = self._output.drain()
        has_others = self._execution.has_left_others(self._tree)
        if self._descent is None and not is_closed:
            # what reads from it, as `program > >(tee file)`, sees the end only now and needs a moment
            over = self._tools.deadlines.passed(_LAST_WORDS)
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
            await self._output.leave_to_nowhere(self._tools.null)
        except OSError as error:
            log.warning(
                "job %d: what it left running can write no more output, as `cat` cannot be started: %s",
                *(self._launch.key.job, error.strerror),
            )

    def _left_orphans(self) -> bool:
        """Whether somebody got away: who has no parent any more has become a child of this process."""
        return self._tree.left_any(self._tools.children.orphans())

    async def _closed_group(self) -> GroupFigures | None:
        """Return what all of the tree used, by the account of its control group, None if it has none."""
        group = self._tree.group
        if group is None:
            return None
        if self._descent is not None or not self._launch.keep_leftovers:
            over = self._tools.deadlines.passed(_PARTING)
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


_LAST_WORDS = 0.5  # seconds
_PARTING = 1.0  # seconds for those that were killed to be gone from their group


def _out_of_memory(launch: Launch) -> str:
    most = launch.limits.memory_max
    if most is None:
        return "the machine was out of memory, and the kernel killed it"
    return f"it took all of the {format_size(most)} of memory that it may, and the kernel killed it"


def _read_result(fd: int) -> bytes:
    """Return what the result file holds, and one byte more than is allowed of one that is too long."""
    return os.pread(fd, min(os.fstat(fd).st_size, MAX_DOCUMENT + 1), 0)
