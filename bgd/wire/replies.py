"""What the daemon answers: one struct a reply, each with the id of the request it is for."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from bgd.core.job import State
from bgd.errors import BgdError, ConfigError, Full, NoSuchJob, NotAllowed, ProtocolError, Refused
from bgd.wire.requests import RequestId
from bgd.wire.views import AttemptView, EventView, Finding, JobError, JobProgress, JobView, QueueView


class ErrorCode(StrEnum):
    PROTOCOL = "protocol"  # not a message this daemon knows; the connection is closed
    REFUSED = "refused"
    NOT_ALLOWED = "not_allowed"
    NO_SUCH_JOB = "no_such_job"
    FULL = "full"
    CONFIG = "config"  # answers reload alone


class Submitted(Struct, frozen=True, tag="submitted"):
    """The jobs' ids, in the order of their specs.

    `found`: those that were there already, unfinished and with the same key, and stand for the new ones.
    `created`: there are none of these. `obstacle`: why no job can start now, None: nothing is known to be in
    the way.
    """

    id: RequestId
    jobs: list[int]
    created: bool = True
    found: list[int] = []
    obstacle: str | None = None


class JobsPart(Struct, frozen=True, tag="jobs"):
    id: RequestId
    jobs: list[JobView]


class ProgressPart(Struct, frozen=True, tag="progress"):
    id: RequestId
    jobs: list[JobProgress]


class Shown(Struct, frozen=True, tag="shown"):
    id: RequestId
    job: JobView


class AttemptsPart(Struct, frozen=True, tag="attempts"):
    id: RequestId
    attempts: list[AttemptView]


class Result(Struct, frozen=True, tag="result"):
    """`value`: JSON text of a class job's result, None if there is none. `view`: the job as it stands."""

    id: RequestId
    job: JobView
    value: str | None
    error: JobError | None


class LogPart(Struct, frozen=True, tag="log"):
    """A piece of an attempt's output.

    `times`: with `timestamps`, (offset in data, epoch seconds) from which offset on the bytes arrived at
    that time. `left_out`: so many bytes before this piece are gone: they were over the log's limit, unless
    `missing` says another reason. `offset`: of the first byte in the attempt's output; to go on after this
    piece ask for `offset` and its length.
    """

    id: RequestId
    attempt: int
    data: bytes
    times: list[tuple[int, float]] = []
    left_out: int = 0
    offset: int = 0
    missing: str = ""


class ActResult(Struct, frozen=True):
    """What became of one job: its new state, or the code and text of a refusal."""

    job: int
    state: State | None = None
    code: ErrorCode | None = None
    message: str | None = None


class Acted(Struct, frozen=True, tag="acted"):
    id: RequestId
    results: list[ActResult]


class Pruned(Struct, frozen=True, tag="pruned"):
    """So many jobs have gone so far, with so many bytes of logs; or would go."""

    id: RequestId
    jobs: int
    log_bytes: int


class BackupPart(Struct, frozen=True, tag="backup"):
    """A piece of a copy of the database; the pieces of a whole one have `size` bytes together."""

    id: RequestId
    size: int
    data: bytes


class Checkup(Struct, frozen=True, tag="checkup"):
    id: RequestId
    findings: list[Finding]


class Queues(Struct, frozen=True, tag="queues", kw_only=True):
    """`configured_slots`: what `slots` is without SetSlots. `paused`: nothing is started at all.

    `obstacle`: as in Submitted.
    """

    id: RequestId
    slots: int
    configured_slots: int
    taken: int
    paused: bool
    queues: list[QueueView]
    obstacle: str | None = None


class EventsPart(Struct, frozen=True, tag="events"):
    """The first part comes at once, without events. `last`: to go on after this part, ask since this event.

    `lost`: events after the asked one are no longer kept; look at the jobs themselves.
    """

    id: RequestId
    events: list[EventView]
    last: int
    lost: bool = False


class Stats(Struct, frozen=True, tag="stats", kw_only=True):
    """Figures; None where nothing happened.

    `counts`: jobs by state. `outcomes`: attempts that ended within the window, by outcome. `wait` and `run`:
    seconds a job waited for its first attempt, and an attempt took, of those that ended within the window:
    half of them at most so long, and nineteen of twenty, by the newest 10,000 of them. All of it reaches
    back only as far as events are kept: the newest 100,000. `oldest_queued_at`: submit time of the queued
    job with the lowest id.
    """

    id: RequestId
    window: float
    counts: dict[str, int]
    outcomes: dict[str, int]
    wait_median: float | None
    wait_p95: float | None
    run_median: float | None
    run_p95: float | None
    oldest_queued_at: float | None


class Info(Struct, frozen=True, tag="info", kw_only=True):
    id: RequestId
    version: str
    pid: int
    started_at: float
    state_dir: str
    socket: str
    config: str | None  # the file read, None: built-in defaults
    slots: int
    running: int
    counts: dict[str, int]  # jobs by state
    launcher_pid: int | None
    store_id: str
    http: str | None = None  # where the pages are, None: there are none
    obstacle: str | None = None  # as in Submitted


class Login(Struct, frozen=True, tag="login"):
    """A link for a browser of the same user: it works once, and for a minute."""

    id: RequestId
    url: str


class Reloaded(Struct, frozen=True, tag="reloaded"):
    """`config`: the file that was read, None: there is none. `postponed`: what changes at the next start."""

    id: RequestId
    config: str | None
    postponed: list[str] = []


class Done(Struct, frozen=True, tag="done"):
    id: RequestId


class End(Struct, frozen=True, tag="end"):
    """The stream is complete."""

    id: RequestId


class Failed(Struct, frozen=True, tag="failed"):
    id: RequestId
    code: ErrorCode
    message: str


Reply = (
    Submitted
    | JobsPart
    | ProgressPart
    | Shown
    | AttemptsPart
    | Result
    | LogPart
    | Acted
    | Pruned
    | BackupPart
    | Checkup
    | Queues
    | EventsPart
    | Stats
    | Info
    | Login
    | Reloaded
    | Done
    | End
    | Failed
)


def code_of(error: BgdError) -> ErrorCode:
    """Return what a refusal is called on the wire: what it is, or else what the nearest of its kind is."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return ErrorCode.REFUSED


def error_of(code: ErrorCode, message: str) -> BgdError:
    """Return a refusal from the wire as the exception that callers know."""
    return _ERRORS[code](message)


_ERRORS: dict[ErrorCode, type[BgdError]] = {
    ErrorCode.PROTOCOL: ProtocolError,
    ErrorCode.REFUSED: Refused,
    ErrorCode.NOT_ALLOWED: NotAllowed,
    ErrorCode.NO_SUCH_JOB: NoSuchJob,
    ErrorCode.FULL: Full,
    ErrorCode.CONFIG: ConfigError,
}
_CODES: dict[type, ErrorCode] = {kind: code for code, kind in _ERRORS.items()}
