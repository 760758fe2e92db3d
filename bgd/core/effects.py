"""Effects: what the Scheduler wants done. Whoever takes them saves first and acts after."""

from __future__ import annotations

from msgspec import Struct

from bgd.core.job import Job
from bgd.core.spec import JobSpec

SUBMIT = "submit"
NOTE = "note"


class Save(Struct, frozen=True):
    """Write the job down. `at` is epoch time; `reason` says for people why, where the outcome does not.

    `what` happened: SUBMIT, a Move, or NOTE where the state stays.
    """

    job: Job
    at: float
    what: str
    reason: str | None = None
    spec: JobSpec | None = None  # of a job that is new


class Start(Struct, frozen=True):
    """Launch the job's attempt number `job.attempt`, in slot `slot`."""

    job: Job
    slot: int


class Stop(Struct, frozen=True):
    """End the job's running attempt: politely, then certainly."""

    job: Job


class Suspend(Struct, frozen=True):
    """Make the processes of the job's running attempt stand still."""

    job: Job


class Continue(Struct, frozen=True):
    """Let them go on."""

    job: Job


Effect = Save | Start | Stop | Suspend | Continue
