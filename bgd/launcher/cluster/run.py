"""An attempt on a pilot, seen from this launcher, which keeps its log and record."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bgd.core.explain import Reason
from bgd.core.job import EXPIRED, UNSEEN, Outcome
from bgd.launcher.attempt import Attempt
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Deadline
from bgd.launcher.journal import Began, or_without
from bgd.launcher.log_file import bytes_logged
from bgd.launcher.output import AttemptOutput
from bgd.launcher.tree import StopReason
from bgd.system.clock import elapsed
from bgd.wire import launching
from bgd.wire.launching import AttemptEnded, AttemptStarted, ToLauncher

if TYPE_CHECKING:
    from bgd.launcher.cluster.pilot import Pilot
    from bgd.launcher.cluster.pilots import PilotPool

log = logging.getLogger(__name__)


class PilotRun:
    """An attempt that waits in the pool, then runs on a pilot."""

    has_exited = False  # as far as this launcher knows
    tree = None

    def __init__(self, attempt: Attempt, context: Context, pool: PilotPool) -> None:
        self.launch = attempt.launch
        assert attempt.launch.slurm is not None  # noqa: S101  checked by the caller
        self.start = attempt.launch.slurm.pilot  # what it needs of a pilot
        self.pid: int | None = None
        self._attempt = attempt
        self._context = context
        self._pool = pool
        self._adopted = attempt.adopted
        self._record = attempt.adopted  # the latest in the journal
        self._pilot: Pilot | None = None
        self._output: AttemptOutput | None = None
        self._end: asyncio.Future[AttemptEnded] = asyncio.get_running_loop().create_future()
        self._stop: launching.StopProcesses | None = None  # that it was asked for
        self._stop_by = math.inf  # when its end is overdue, on the elapsed clock
        self._signals: list[launching.SignalProcesses] = []  # that could not be sent yet
        self._steps: asyncio.Task[None] | None = None  # which stops or continues those on other nodes
        self._expiry: Deadline | None = None

    @property
    def node(self) -> str | None:
        """The node of its pilot."""
        return self._pilot.node.name if self._pilot is not None and self._pilot.node else None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._end.done()

    @property
    def is_waiting(self) -> bool:
        """Whether no pilot has it yet."""
        return self._pilot is None and not self._end.done()

    @property
    def is_overdue(self) -> bool:
        """Whether it was stopped so long ago that its pilot will not report its end."""
        return elapsed() > self._stop_by

    def may_be_slurms_doing(self, ended: AttemptEnded, *, is_alone: bool) -> bool:
        """Return whether Slurm may have ended it with its allocation, which it may have alone."""
        is_killed = is_alone and ended.signal in {signal.SIGKILL, signal.SIGTERM}
        return self._stop is None and (ended.outcome is Outcome.INTERRUPTED or is_killed)

    # --- what may be asked of it

    def begin(self) -> None:
        """Let it wait for a pilot, or find the pilot that has it."""
        if self._adopted is None:
            self._limit_wait()
            self._pool.add(self)
        else:
            self._attempt.started_at = self._adopted.started_at
            self._attempt.logged = bytes_logged(self._context.log_path(self.launch))
            self._pool.adopt(self, self._adopted)

    def stop(self, grace: float, told: StopReason) -> None:
        """Stop it; if it waits, it ends at once."""
        self._stop = launching.StopProcesses(self.launch.key, grace, told is StopReason.CANCELLED)
        self._stop_by = min(self._stop_by, elapsed() + grace + _OVERDUE)
        if self._pilot is not None:
            self._pilot.send(self._stop)
        elif self._adopted is None:
            self._pool.forget(self)
            self.finish(self._attempt.never_ran(self._attempt.reason or Outcome.CANCELLED, None))

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Signal its first process, or its whole tree, or as soon as it runs."""
        message = launching.SignalProcesses(self.launch.key, signum, whole_tree)
        if self._pilot is None or not self._pilot.send(message):
            self._signals.append(message)

    def steer(self, *, is_suspended: bool) -> None:
        """Stop all its processes, or continue them."""
        if self._pilot is not None:
            self._pilot.send(self._steering)
            if self.launch.slurm is not None and (self.launch.slurm.nodes or 1) > 1:
                signum = signal.SIGSTOP if is_suspended else signal.SIGCONT
                self._steps = self._pilot.signal_steps(signum)
        if self._record is not None:
            self._record = self._context.journal.note_suspension(self._record, suspended=is_suspended)
            key = self.launch.key
            self._context.begin(self._context.journal.make_durable(key), f"the journal of job {key.job}")

    async def settled(self) -> bool | None:
        """Wait until its pilot has stopped or continued its processes; None: it does not say."""
        if self._pilot is None:
            return not self.is_over
        if (answer := self._pilot.ask(self.launch.key)) is None:
            return None
        if self._steps is not None:
            await asyncio.wait({self._steps})
        await asyncio.wait({answer})
        return answer.result()

    @property
    def is_suspended(self) -> bool:
        """Whether its processes should be stopped."""
        return self._attempt.is_suspended

    @property
    def _steering(self) -> launching.SuspendProcesses | launching.ContinueProcesses:
        is_suspended = self._attempt.is_suspended
        kind = launching.SuspendProcesses if is_suspended else launching.ContinueProcesses
        return kind(self.launch.key)

    # --- its life

    async def ended(self) -> AttemptEnded:
        """Return how it ended."""
        try:
            return await self._end
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close its log."""
        if self._output is not None:
            self._output.close()
        if self._expiry is not None:
            self._expiry.cancel()

    def acknowledge(self) -> None:
        """Let its pilot forget it."""
        if self._pilot is not None:
            self._pool.acknowledge(self._pilot, self.launch.key)

    def wait_for(self, reason: Reason | None) -> None:
        """Report why it waits, None: no longer, if that is new."""
        self._attempt.wait_for(reason)

    def refuse(self, problem: str) -> None:
        """End it, as no pilot can run it."""
        self.finish(self._attempt.never_ran(Outcome.NOT_STARTED, problem))

    def cancel(self, problem: str) -> None:
        """End it, as it was cancelled from outside before it ran."""
        self.finish(self._attempt.never_ran(Outcome.CANCELLED, problem))

    def lost(self, problem: str) -> AttemptEnded:
        """Return its end if its pilot is gone and has not told it."""
        return self._attempt.never_ran(Outcome.UNKNOWN, problem)

    def stand_alone(self) -> None:
        """Request a pilot of its own, because it is too large for the others."""
        assert self.launch.slurm is not None  # noqa: S101  as below
        self.start = replace(self.start, alone=True)
        self.launch = replace(self.launch, slurm=replace(self.launch.slurm, pilot=self.start))

    def _limit_wait(self) -> None:
        if self.launch.start_by is not None:
            left = max(self.launch.start_by - elapsed(), 0.0)
            self._expiry = self._context.deadlines.after(left, self._expire)

    def _expire(self) -> None:
        if self.is_waiting:
            self._pool.forget(self)
            self.cancel(EXPIRED)

    # --- what its pilot does

    def given_to(self, pilot: Pilot, record: Began) -> None:
        """Record its pilot in the journal."""
        self._pilot, self._record = pilot, record
        self._attempt.waits = None
        if self._expiry is not None:
            self._expiry.cancel()

    def is_taken_back(self) -> bool:
        """Let it wait for a pilot again; return False, and end it, if it was stopped."""
        self._pilot, self._adopted, self._record = None, None, None
        with or_without(f"the loss of the pilot of job {self.launch.key.job}"):  # then it counts as started
            self._context.journal.forget(self.launch.key)
        if self._stop is not None:
            self.stop(0.0, StopReason.OTHER)
            return False
        self._limit_wait()
        self._attempt.report()
        return True

    def messages(self, variables: dict[str, str]) -> list[ToLauncher]:
        """Return the messages to its pilot over a new connection. It may know them already (R2).

        `variables`: those of Slurm; the environment may have others, of a job that its sender is in.
        """
        env = {
            **{name: value for name, value in self.launch.env.items() if not name.startswith(_OF_SLURM)},
            **variables,
        }
        launch = replace(self.launch, env=env, slurm=None, place=None, position=0)
        # it may have been suspended or continued while there was no connection
        asked: list[ToLauncher] = [launch, *self._signals, self._steering]
        self._signals = []
        if self._stop is not None:
            asked.append(self._stop)
        return asked

    def started(self, message: AttemptStarted) -> None:
        """Record the start that its pilot reports."""
        self._attempt.waits = message.waits
        if self.pid is None and message.pid is not None:
            self.pid = message.pid
            if self._adopted is None:
                self._attempt.begin_to_start()
        self._attempt.report()

    def write(self, part: launching.OutputPart) -> int:
        """Append output to its log; return the size of the log."""
        data = part.data[max(self._attempt.log_bytes - part.offset, 0) :]
        if data:
            if self._output is None:
                self._output = self._context.new_output(self.launch, continues=self._adopted is not None)
                self._attempt.log = self._output.log
            self._output.put(data)
            self._attempt.kill_over_cap(self._output.log)
        return self._attempt.log_bytes

    def finish(self, ended: AttemptEnded) -> None:
        """Record the end that its pilot reports, in times of this machine's clock."""
        if self._end.done():
            return
        if self._adopted is not None:
            self._attempt.report()  # where it ran
        reason, outcome = self._attempt.reason, ended.outcome
        if reason is not None and outcome in _OF_A_STOP:
            outcome = reason
        may_have_run = ended.started_at is not None or ended.outcome in UNSEEN
        self._pool.note_time(self, ended)
        log_bytes, log_problem = self._attempt.log_bytes, self._attempt.log_problem
        if log_problem is None and ended.log_bytes > log_bytes:
            log_problem = f"{ended.log_bytes - log_bytes} bytes are missing: they were lost with its pilot"
        self._end.set_result(
            replace(
                ended,
                outcome=outcome,
                started_at=self._attempt.started_at if may_have_run else None,
                finished_at=time.time(),
                log_bytes=log_bytes,
                log_problem=log_problem,
                problem=ended.problem or log_problem,
            )
        )


_OF_A_STOP = {Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.UNKNOWN}  # possible outcomes after a stop
_OF_SLURM = ("SLURM_", "SRUN_")
_OVERDUE = 60.0  # seconds after the grace time
