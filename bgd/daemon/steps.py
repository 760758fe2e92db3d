"""Steps of running attempts: which process may record them, and how many bytes they may have."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from bgd.core.job import Job, JobId
from bgd.daemon.streams import check_running
from bgd.errors import Refused
from bgd.wire.requests import MAX_STEP_BYTES, GetSteps, SaveStep


class StepKeepers(Struct):
    """Knows for each running attempt that has steps the process that records them.

    A request names its attempt only by number, as for progress: anyone who may connect may do everything to
    every job. So this protects a job only from its own other processes and from its earlier attempts.

    Attributes:
        job_of: returns the unfinished job with an id, or None.
        keepers: by job; code that sees an attempt end removes its keeper.
    """

    job_of: Callable[[JobId], Job | None]
    keepers: dict[JobId, _Keeper] = {}

    def admit(self, request: GetSteps, pid: int, size: int, unfinished: dict[int, int]) -> None:
        """Let a process record the steps of its attempt, whose values have `size` bytes until now.

        `unfinished`: those of open steps, by position.

        Raises:
            Refused: the attempt does not run, or another process of it records the steps.
        """
        assert request.attempt is not None  # noqa: S101 - checked by the caller
        if self._keeper_of(request.job, request.attempt, pid) is None:
            self.keepers[JobId(request.job)] = _Keeper(request.attempt, pid, size, unfinished)

    def check(self, step: SaveStep, pid: int) -> None:
        """Check that a process may record a step, and count its bytes.

        Raises:
            Refused: it may not.
        """
        keeper = self._keeper_of(step.job, step.attempt, pid)
        if keeper is None:
            raise Refused(
                f"ask for the steps of attempt {step.attempt} of job {step.job} before you save one"
            )
        before = keeper.unfinished.get(step.position, 0)
        size = keeper.size - before + len(step.value)
        if size > MAX_STEP_BYTES:
            raise Refused(
                f"the steps of job {step.job} have more than {MAX_STEP_BYTES} bytes:"
                " write large values to files, and return their paths"
            )
        keeper.size = size
        if step.done:
            keeper.unfinished.pop(step.position, None)
        else:
            keeper.unfinished[step.position] = len(step.value)

    def _keeper_of(self, job: int, attempt: int, pid: int) -> _Keeper | None:
        """Return the keeper of a running attempt, which is this process; None: it has none yet."""
        check_running(self.job_of, job, attempt, "has steps")
        keeper = self.keepers.get(JobId(job))
        if keeper is None or keeper.attempt != attempt:
            return None
        if keeper.pid != pid:
            raise Refused(
                f"the steps of job {job} are recorded by its process {keeper.pid}, and another of its"
                " processes has begun one: call bgd_job.step in one process of a job"
            )
        return keeper


class _Keeper(Struct):
    """The process that records the steps of an attempt.

    `size`: bytes of all values. `unfinished`: those of open steps, which are replaced, by position.
    """

    attempt: int
    pid: int
    size: int
    unfinished: dict[int, int]
