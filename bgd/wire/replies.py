"""Replies: what the daemon answers, one Struct a reply, each with the `id` of its request."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import UNSET, Struct, UnsetType

from bgd.core.explain import Explanation
from bgd.core.job import State
from bgd.errors import BgdError, ConfigError, Full, NoSuchJob, NotAllowed, ProtocolError, Refused
from bgd.wire.requests import Message
from bgd.wire.views import (
    AttemptView,
    BatchView,
    EventView,
    Finding,
    GroupStats,
    JobEnd,
    JobError,
    JobProgress,
    JobUsage,
    JobView,
    QueueView,
    ResourceView,
    ScheduleEvent,
    StepView,
)


class ErrorCode(StrEnum):
    """Why a request was refused."""

    PROTOCOL = "protocol"  # not a message that this daemon knows; it closes the connection
    REFUSED = "refused"
    NOT_ALLOWED = "not_allowed"
    NO_SUCH_JOB = "no_such_job"
    FULL = "full"
    CONFIG = "config"  # in answers to Reload only


class Reply(Message, frozen=True):
    """What the daemon answers."""


class Submitted(Reply, frozen=True, tag="submitted"):
    """The ids of the jobs, in the order of their specs.

    `found`: those that already were there, unfinished and with the same key, and stand for new ones.
    `created`: nothing was found, all jobs are new. `obstacle`: why no job can start now; None: none is known.
    `batch`: the batch that they belong to.
    """

    jobs: list[int]
    created: bool = True
    found: list[int] = []
    obstacle: str | None = None
    batch: int | UnsetType = UNSET  # left out of the answers to most submits, to keep them short


Run = tuple[int, int, int]
"""A first line of a batch, its job, and how many lines and jobs follow each other from there on."""


def runs_of(lines: Iterable[int], jobs: Iterable[int]) -> list[Run]:
    """Pair the lines of a batch with their jobs, in as few runs as that takes."""
    runs: list[Run] = []
    first = of = count = 0  # the run that may go on
    for line, job in zip(lines, jobs, strict=True):
        if count and line == first + count and job == of + count:
            count += 1
        else:
            if count:
                runs.append((first, of, count))
            first, of, count = line, job, 1
    return [*runs, (first, of, count)] if count else []


class BatchRuns(Reply, frozen=True, tag="batch"):
    """Some of the jobs of a batch, in the order of its lines.

    `last`: the last line of the whole batch that has been taken; 0: none. `batch`: its id.
    """

    runs: list[Run]
    last: int
    batch: int | None = None


class BatchesPart(Reply, frozen=True, tag="batches"):
    """Some batches, the newest first."""

    batches: list[BatchView]


class JobsPart(Reply, frozen=True, tag="jobs"):
    """Some jobs of a list, or a job that has finished."""

    jobs: list[JobView]


class InboxPart(Reply, frozen=True, tag="inbox"):
    """Some ends of jobs from an inbox, the oldest first."""

    ends: list[JobEnd]


class ProgressPart(Reply, frozen=True, tag="progress"):
    """What running jobs last reported about their progress."""

    jobs: list[JobProgress]


class Shown(Reply, frozen=True, tag="shown"):
    """One job; its attempts follow."""

    job: JobView


class Explained(Reply, frozen=True, tag="explained"):
    """What keeps a job from running. `job` and `explanation` are of one moment."""

    job: JobView
    explanation: Explanation


class AttemptsPart(Reply, frozen=True, tag="attempts"):
    """Some attempts of a job."""

    attempts: list[AttemptView]


class StepsPart(Reply, frozen=True, tag="steps"):
    """Some steps of a job. `store`: the id of the database, without which the id of a job is not unique."""

    steps: list[StepView]
    store: str = ""


class Result(Reply, frozen=True, tag="result"):
    """The job, and the JSON text of its result in `value`; None: it has none."""

    job: JobView
    value: str | None
    error: JobError | None


class LogPart(Reply, frozen=True, tag="log"):
    """A piece of an attempt's output.

    * `times`: with `timestamps`, pairs of an offset in `data` and the epoch time when the bytes from there on
      arrived.
    * `left_out`: how many bytes are missing before this piece. They were over the limit of the log, unless
      `missing` names another reason.
    * `offset`: the place of its first byte in the output of the attempt. To go on after this piece, ask for
      `offset` plus its length.
    """

    attempt: int
    data: bytes
    times: list[tuple[int, float]] = []
    left_out: int = 0
    offset: int = 0
    missing: str = ""


class KeyboardOpened(Reply, frozen=True, tag="keyboard", omit_defaults=True):
    """A keyboard: with the first byte of this frame comes, as SCM_RIGHTS, a socket for its packets.

    * `log_bytes`: the size of the attempt's output so far.
    * `descriptor`: of that socket; the client sets it when it arrives.
    """

    attempt: int
    log_bytes: int
    descriptor: int = -1


class ActResult(Struct, frozen=True):
    """The new state of one job, or the code and text of a refusal.

    Of a retry: `along` were cancelled because of the job and are retried, too; `left` were and are not,
    because another job that they wait for did not succeed or they are refused.
    """

    job: int
    state: State | None = None
    code: ErrorCode | None = None
    message: str | None = None
    along: list[int] = []
    left: list[int] = []


class Acted(Reply, frozen=True, tag="acted"):
    """What became of each job that a request named."""

    results: list[ActResult]


class Pruned(Reply, frozen=True, tag="pruned"):
    """How many jobs, and bytes of their logs, are deleted so far; or would be."""

    jobs: int
    log_bytes: int


class BackupPart(Reply, frozen=True, tag="backup"):
    """A piece of a copy of the database. All pieces of a copy have `size` bytes together."""

    size: int
    data: bytes


class Checkup(Reply, frozen=True, tag="checkup"):
    """What a checkup of the installation found."""

    findings: list[Finding]


class Queues(Reply, frozen=True, tag="queues", kw_only=True):
    """The slots of the daemon, and its queues.

    `configured_slots`: what `slots` is without SetSlots. `paused`: no job starts at all. `obstacle`: as in
    Submitted.
    """

    slots: int
    configured_slots: int
    taken: int
    paused: bool
    queues: list[QueueView]
    obstacle: str | None = None
    resources: list[ResourceView] = []


class JobUsages(Reply, frozen=True, tag="usage"):
    """What running jobs use now, by id, without those of which nothing is known.

    `problem`: why nothing is known of any job; None: it is.
    """

    jobs: dict[int, JobUsage]
    problem: str | None = None


class EventsPart(Reply, frozen=True, tag="events"):
    """Some events, by kind. The first part comes at once and holds none.

    `last`: to go on after this part, ask for what happened since this event. `lost`: events after the one in
    the request are no longer kept; look at the jobs themselves.
    """

    events: list[EventView]
    last: int
    lost: bool = False
    schedules: list[ScheduleEvent] = []


class Stats(Reply, frozen=True, tag="stats", kw_only=True):
    """Figures; None where nothing happened.

    * `counts`: jobs by state.
    * `outcomes`: attempts that ended within the window, by outcome.
    * `wait_...`, `run_...`: seconds that jobs waited for their first attempt, and that attempts took, among
      those that ended within the window: the median and the 95th percentile of the newest 10,000.
    * `oldest_queued_at`: when the queued job with the lowest id was submitted.

    * `queues`, `names`: those of the newest 10,000, by queue and by the names of jobs; those with the most
      first, at most 100.

    Figures of the window reach back only as far as events are kept: the newest 100,000.
    """

    window: float
    counts: dict[str, int]
    outcomes: dict[str, int]
    wait_median: float | None
    wait_p95: float | None
    run_median: float | None
    run_p95: float | None
    oldest_queued_at: float | None
    queues: list[GroupStats] = []
    names: list[GroupStats] = []


class Info(Reply, frozen=True, tag="info", kw_only=True):
    """The daemon itself."""

    version: str
    pid: int
    started_at: float
    state_dir: str
    socket: str
    config: str | None  # the file that was read; None: built-in defaults
    slots: int
    running: int
    counts: dict[str, int]  # jobs by state
    launcher_pid: int | None
    store_id: str
    http: str | None = None  # where the pages are; None: there are none
    obstacle: str | None = None  # as in Submitted
    log_dir: str = ""  # where the logs are
    autostarted: bool = False  # a client started it; so after a reboot it runs once a client does so again


class Login(Reply, frozen=True, tag="login"):
    """A link for a browser of the same user. It works once, within a minute."""

    url: str


class Reloaded(Reply, frozen=True, tag="reloaded"):
    """`config`: the file that was read, None: there is none. `postponed`: keys that wait for a restart."""

    config: str | None
    postponed: list[str] = []


class Done(Reply, frozen=True, tag="done"):
    """The request is carried out."""


class End(Reply, frozen=True, tag="end"):
    """The stream is complete."""


class Failed(Reply, frozen=True, tag="failed", omit_defaults=True):
    """The request is refused; this also ends a stream.

    `unknown`: the field of the request, or its type, that this daemon does not know: it is older.
    """

    code: ErrorCode
    message: str
    unknown: str | None = None


def code_of(error: BgdError) -> ErrorCode:
    """Return the code of an error on the wire: that of its class, or of its nearest base class with one."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return ErrorCode.REFUSED


def error_of(code: ErrorCode, message: str) -> BgdError:
    """Return the exception for a code and message from the wire."""
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
