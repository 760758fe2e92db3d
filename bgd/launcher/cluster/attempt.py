"""An attempt that a pilot runs, as this launcher sees it: it keeps the log and the record."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bgd.clock import elapsed
from bgd.core.explain import Reason
from bgd.core.job import Outcome
from bgd.launcher.context import Context
from bgd.launcher.journal import Began
from bgd.launcher.output import AttemptOutput, bytes_logged
from bgd.launcher.tree import StopReason
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    ContinueProcesses,
    Launch,
    OutputPart,
    PilotStart,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
    ToLauncher,
)

if TYPE_CHECKING:
    from bgd.launcher.cluster.pilot import Pilot
    from bgd.launcher.cluster.pilots import PilotPool


class PilotAttempt:
    """One attempt by a pilot, with the interface of an Attempt. It waits in the pool until a pilot has room.

    `adopted`: the record of a launcher that has died; the pilot may still run the attempt.
    """

    def __init__(
        self,
        launch: Launch,
        context: Context,
        pool: PilotPool,
        started: Callable[[AttemptStarted], None],
        grew: Callable[[], None],
        adopted: Began | None = None,
    ) -> None:
        self.launch = launch
        self._context = context
        self._pool = pool
        self._report_start = started
        self._grew = grew
        self._adopted = adopted
        self._record = adopted  # the latest in the journal
        self._started_at, self._since = time.time(), elapsed()
        self._pid: int | None = None
        self._pilot: Pilot | None = None
        self._waits: Reason | None = None  # why it has no pilot, or why that has not started it
        self._output: AttemptOutput | None = None
        self._log_bytes = 0  # while it has written nothing to this launcher
        self._log_problem: str | None = None
        self._end: asyncio.Future[AttemptEnded] = asyncio.get_running_loop().create_future()
        # what is asked of it
        self._reason: Outcome | None = None
        self._grace = math.inf
        self._stop_by = math.inf  # when it is overdue to have ended, on the elapsed clock
        self._is_cancel = False
        self._is_suspended = adopted is not None and adopted.suspended
        self._signals: list[SignalProcesses] = []  # that could not be sent yet

    @property
    def start(self) -> PilotStart:
        """What it needs of a pilot."""
        return pilot_start(self.launch)

    @property
    def state(self) -> AttemptStarted:
        """What a supervisor is told of it while it has not ended; without a pilot it has no node."""
        place = self.launch.place
        if place is not None and self._pilot is not None:
            place = replace(place, node=self._pilot.node.name if self._pilot.node else None)
        key, began = self.launch.key, self._started_at
        return AttemptStarted(key, self._pid, began, self._is_suspended, self._since, place, self._waits)

    @property
    def is_waiting(self) -> bool:
        """Whether no pilot has it yet."""
        return self._pilot is None and not self._end.done()

    @property
    def is_overdue(self) -> bool:
        """Whether it was asked to stop so long ago that its pilot cannot be expected to tell its end."""
        return elapsed() > self._stop_by

    def may_be_slurms_doing(self, ended: AttemptEnded) -> bool:
        """Return whether it may have ended so because Slurm ended its allocation."""
        is_killed = ended.signal in {signal.SIGKILL, signal.SIGTERM}
        return self._reason is None and (ended.outcome is Outcome.INTERRUPTED or is_killed)

    @property
    def log_bytes(self) -> int:
        """The size of its output so far."""
        return self._output.log.total if self._output else self._log_bytes

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log; None: no output is missing."""
        return (self._output.log.problem if self._output else None) or self._log_problem

    # --- what may be asked of it

    def stop(self, reason: Outcome, grace: float, told: StopReason = StopReason.OTHER) -> None:
        """Stop it. May be called again: the first reason and the shortest grace count."""
        if self._reason is None:
            self._reason, self._is_cancel = reason, told is StopReason.CANCELLED
        self._is_suspended = False
        self._grace = min(self._grace, grace)
        self._stop_by = min(self._stop_by, elapsed() + grace + _OVERDUE)
        if self._pilot is None and self._adopted is None:
            self._pool.forget(self)
            self.finish(self._ended(self._reason))
        elif self._pilot is not None:
            self._pilot.send(StopProcesses(self.launch.key, self._grace, self._is_cancel))

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Signal its first process, or its whole tree, or as soon as it runs."""
        message = SignalProcesses(self.launch.key, signum, whole_tree)
        if self._pilot is None or not self._pilot.send(message):
            self._signals.append(message)

    def suspend(self) -> None:
        """Stop its processes and its time limit, unless it is to end."""
        if self._reason is None and not self._end.done():
            self._is_suspended = True
            self._steer(SuspendProcesses(self.launch.key))

    def resume(self) -> None:
        """Undo `suspend`, and nothing else."""
        if self._is_suspended:
            self._is_suspended = False
            self._steer(ContinueProcesses(self.launch.key))

    def _steer(self, message: SuspendProcesses | ContinueProcesses) -> None:
        if self._pilot is not None:
            self._pilot.send(message)
            if self.launch.slurm is not None and (self.launch.slurm.nodes or 1) > 1:
                is_stop = isinstance(message, SuspendProcesses)
                self._pilot.signal_steps(signal.SIGSTOP if is_stop else signal.SIGCONT)
        if self._record is not None:
            self._record = self._context.journal.note_suspension(self._record, suspended=self._is_suspended)
            self._context.sync_soon(self.launch.key)

    # --- its life

    async def live(self) -> AttemptEnded:
        """Wait for a pilot and for its end there; return how it ended."""
        if self._adopted is None:
            if not self._end.done():  # else it was stopped at once
                self._pool.add(self)
        elif self._adopted.pilot is None:  # of an earlier bgd, which ran each attempt by an srun of its own
            await self._pool.controller.release(former_name(self.launch.key))
            self._end.set_result(self._ended(Outcome.INTERRUPTED, "an earlier bgd started it"))
        else:
            self._started_at = self._adopted.started_at
            self._log_bytes = bytes_logged(self._context.log_path(self.launch))
            self._pool.adopt(self, self._adopted)
        ended = await self._end
        self._close_output()
        return ended

    def abandon(self, problem: str) -> AttemptEnded:
        """Return an end with outcome `unknown` after an error in the launcher."""
        self._close_output()
        return self._ended(Outcome.UNKNOWN, problem)

    def _ended(self, outcome: Outcome, problem: str | None = None) -> AttemptEnded:
        key, now = self.launch.key, time.time()
        return AttemptEnded(key=key, outcome=outcome, finished_at=now, problem=problem)

    def acknowledge(self) -> None:
        """Let its pilot forget it; call it once its end is in the journal."""
        if self._pilot is not None:
            self._pool.acknowledge(self._pilot, self.launch.key)

    def wait_for(self, reason: Reason) -> None:
        """Tell why it waits, unless that was told."""
        if reason != self._waits:
            self._waits = reason
            self._report_start(self.state)

    def stand_alone(self) -> None:
        """Want a pilot of its own, as it is too large for the others."""
        assert self.launch.slurm is not None  # noqa: S101  as below
        slurm = replace(self.launch.slurm, pilot=replace(self.start, alone=True))
        self.launch = replace(self.launch, slurm=slurm)

    # --- what its pilot does

    def given_to(self, pilot: Pilot, record: Began) -> None:
        """Note which pilot has it, as the journal says."""
        self._pilot, self._record, self._waits = pilot, record, None

    def is_taken_back(self) -> bool:
        """Let it wait for a pilot again; return False, and end it, if it is to stop."""
        self._pilot, self._adopted = None, None
        if self._reason is not None:
            self.stop(self._reason, 0.0)
            return False
        self._report_start(self.state)
        return True

    def messages(self, variables: dict[str, str]) -> list[ToLauncher]:
        """Return what to tell its pilot over a new connection. It may know it already (R2).

        `variables`: those of Slurm; the environment may have others, of a job that its sender is in.
        """
        key = self.launch.key
        env = {
            **{name: value for name, value in self.launch.env.items() if not name.startswith(_OF_SLURM)},
            **variables,
        }
        launch = replace(self.launch, env=env, slurm=None, place=None, position=0)
        # it may have been suspended or continued while there was no connection
        steer = SuspendProcesses(key) if self._is_suspended else ContinueProcesses(key)
        asked: list[ToLauncher] = [launch, *self._signals, steer]
        self._signals = []
        if self._reason is not None:
            asked.append(StopProcesses(key, self._grace, self._is_cancel))
        return asked

    def started(self, message: AttemptStarted) -> None:
        """Take over what its pilot says of its start."""
        self._waits = message.waits
        if self._pid is None and message.pid is not None:
            self._pid = message.pid
            if self._adopted is None:
                self._started_at, self._since = time.time(), elapsed()
        self._report_start(self.state)

    def write(self, part: OutputPart) -> int:
        """Append output to its log; return the size of the log."""
        data = part.data[max(self.log_bytes - part.offset, 0) :]
        if data:
            if self._output is None:
                self._output = self._context.new_output(self.launch, continues=self._adopted is not None)
            self._output.put(data)
            if self.launch.log_kill and self._output.log.is_over_cap and self._reason is None:
                self.stop(Outcome.LOG_LIMIT, 0.0)
            self._grew()
        return self.log_bytes

    def finish(self, ended: AttemptEnded) -> None:
        """Take its end from its pilot, with the times of this machine's clock."""
        if self._end.done():
            return
        if self._adopted is not None:
            self._report_start(self.state)  # where it ran
        outcome = ended.outcome
        if self._reason is not None and outcome in _OF_A_STOP:
            outcome = self._reason
        missing = ended.log_bytes - self.log_bytes
        if missing > 0:
            self._log_problem = f"{missing} bytes are missing: they were lost with its pilot"
        self._end.set_result(
            replace(
                ended,
                outcome=outcome,
                started_at=None if ended.started_at is None else self._started_at,
                finished_at=time.time(),
                log_bytes=self.log_bytes,
                log_problem=self.log_problem,
                problem=ended.problem or self.log_problem,
            )
        )

    def _close_output(self) -> None:
        if self._output is not None:
            self._output.close()


def pilot_start(launch: Launch) -> PilotStart:
    """Return what an attempt needs of a pilot."""
    assert launch.slurm is not None  # noqa: S101  checked by the caller
    return launch.slurm.pilot or replace(_FORMER, executor=launch.place.executor if launch.place else "")


def former_name(key: AttemptKey) -> str:
    """Return the name that the job of an attempt had in Slurm before each went to a pilot."""
    return f"bgd-{key.store}-{key.job}-{key.attempt}"


_OF_A_STOP = {Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.UNKNOWN}  # how it may end after a stop
_OF_SLURM = ("SLURM_", "SRUN_")
_OVERDUE = 60.0  # seconds after the grace time
# of what an earlier bgd started without a pilot
_FORMER = PilotStart(executor="", nodes=0, options=[], keep_idle=0.0, cpus=1, memory=0)
