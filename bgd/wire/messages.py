"""What clients and the daemon say to each other: one struct a message, MessagePack maps tagged `type`.

Each side first sends a Hello. Every request carries an id that the replies repeat. A request has one
reply, or a stream of replies that ends with End; Failed ends either. docs/protocol.md is for writers of
clients in other languages; a test holds it against this file.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from bgd.core.job import MAX_ENV, JobSpec, Outcome, QueueName, State
from bgd.errors import ProtocolError

PROTOCOL = 1

MAX_BATCH = 100_000  # jobs of one submit_many, over all its parts
MAX_BATCH_BYTES = 256 << 20  # of the unfinished batches of all clients together; one a connection at a time
MAX_IDS = 10_000  # jobs named in one request
MAX_LIST = 10_000
DEFAULT_LIST = 50

RequestId = Annotated[int, Meta(ge=0, le=2**63 - 1)]
JobNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Jobs = Annotated[list[JobNumber], Meta(min_length=1, max_length=MAX_IDS)]


class Hello(Struct, frozen=True, tag="hello"):
    """The first message each way."""

    protocol: int
    version: Annotated[str, Meta(max_length=100)]  # of the program
    program: Annotated[str, Meta(max_length=100)] = ""


# --- requests ----------------------------------------------------------------------------------------


class Submit(Struct, frozen=True, tag="submit"):
    """-> Submitted, after the job is on disk."""

    id: RequestId
    spec: JobSpec


class SubmitMany(Struct, frozen=True, tag="submit_many", kw_only=True):
    """-> Submitted, when all of them are on disk: all or none.

    More jobs than a frame holds are sent as several of these with one id, all but the last with `more`.
    `env` is the environment of the specs in this part that have none.
    """

    id: RequestId
    specs: Annotated[list[JobSpec], Meta(max_length=MAX_BATCH)]
    env: Annotated[dict[str, str], Meta(max_length=MAX_ENV)] | None = None
    more: bool = False


class List(Struct, frozen=True, tag="list", kw_only=True, omit_defaults=True):
    """-> JobsPart..., End. Newest first.

    Without `states`: unfinished jobs, and the latest finished ones, `limit` in all.
    """

    id: RequestId
    states: list[State] | None = None
    queue: QueueName | None = None
    name: Annotated[str, Meta(max_length=200)] | None = None  # a shell pattern: * ? [...]
    tag: Annotated[str, Meta(max_length=200)] | None = None
    since: float | None = None  # submitted at or after this epoch time
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = DEFAULT_LIST
    mine: bool = False  # only jobs of the caller's user


class Show(Struct, frozen=True, tag="show"):
    """-> Shown, AttemptsPart..., End. `job` None: the caller's latest."""

    id: RequestId
    job: JobNumber | None = None


class GetResult(Struct, frozen=True, tag="result"):
    """-> Result: what the class job's latest attempt returned or raised."""

    id: RequestId
    job: JobNumber


class Logs(Struct, frozen=True, tag="logs", kw_only=True, omit_defaults=True):
    """-> LogPart..., End: output of one attempt, or of all, oldest first.

    `attempt` None: the latest; 0: all. `tail`: only so many last lines of what there is. `follow`: go on
    until the job is finished, across attempts.
    """

    id: RequestId
    job: JobNumber
    attempt: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    follow: bool = False
    timestamps: bool = False


class Wait(Struct, frozen=True, tag="wait"):
    """-> JobsPart for each job as it finishes (at once if it has), End after the last."""

    id: RequestId
    jobs: Jobs


class Cancel(Struct, frozen=True, tag="cancel"):
    """-> Acted: one entry a job, on disk."""

    id: RequestId
    jobs: Jobs


class Retry(Struct, frozen=True, tag="retry"):
    """-> Acted: finished jobs are queued again with their retries unused."""

    id: RequestId
    jobs: Jobs


class GetInfo(Struct, frozen=True, tag="info"):
    """-> Info."""

    id: RequestId


class ShutdownMode(StrEnum):
    LEAVE = "leave"  # running jobs run on and are adopted by the next daemon
    REQUEUE = "requeue"  # running jobs are stopped and run again under the next daemon
    WAIT = "wait"  # nothing more is started; the daemon ends when what runs has ended
    CANCEL = "cancel"  # running jobs are cancelled


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """-> Done when it is taken; the connection ends with the daemon. `mode` None: as configured."""

    id: RequestId
    mode: ShutdownMode | None = None


class Forget(Struct, frozen=True, tag="forget"):
    """End the stream of the request `request` early; that stream's End is sent. No reply of its own."""

    id: RequestId
    request: RequestId


Request = (
    Submit | SubmitMany | List | Show | GetResult | Logs | Wait | Cancel | Retry | GetInfo | Shutdown | Forget
)

# --- replies -----------------------------------------------------------------------------------------


class ErrorCode(StrEnum):
    PROTOCOL = "protocol"  # not a message this daemon knows; the connection is closed
    REFUSED = "refused"
    NOT_ALLOWED = "not_allowed"
    NO_SUCH_JOB = "no_such_job"
    FULL = "full"


class JobView(Struct, frozen=True, kw_only=True):
    """A job as people see it. Instants are epoch seconds, durations seconds, None where there is nothing."""

    id: int
    kind: str  # command | class
    argv: list[str] | None
    target: str | None
    arguments: str | None  # JSON text {"args": [...], "kwargs": {...}}
    cwd: str | None
    user: str  # name, or uid where it has none
    state: State
    outcome: Outcome | None  # of the latest attempt that ended
    exit_code: int | None
    signal: int | None
    reason: str | None  # why, where state and outcome do not say it
    queue: str
    priority: int
    name: str | None
    tags: list[str]
    retries: int
    retry_delay: float
    backoff: float
    max_delay: float
    jitter: float
    rerun: bool | None
    timeout: float | None
    delay: float
    umask: int | None
    attempt: int
    created_at: float
    due_at: float | None
    started_at: float | None  # of the latest attempt
    finished_at: float | None


class AttemptView(Struct, frozen=True, kw_only=True):
    attempt: int
    outcome: Outcome | None  # None while it runs
    exit_code: int | None
    signal: int | None
    started_at: float | None
    finished_at: float | None
    user_seconds: float | None
    system_seconds: float | None
    max_rss_bytes: int | None
    error: JobError | None
    log_bytes: int | None
    log_path: str
    pid: int | None


class JobError(Struct, frozen=True):
    """What a class job raised, or why an attempt was not started (then `type` is "not_started")."""

    type: str
    message: str
    traceback: str | None = None


class Submitted(Struct, frozen=True, tag="submitted"):
    """The new jobs' ids, in the order of their specs."""

    id: RequestId
    jobs: list[int]
    created: bool = True


class JobsPart(Struct, frozen=True, tag="jobs"):
    id: RequestId
    jobs: list[JobView]


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
    that time. `left_out`: so many bytes before this piece were over the log's limit and are gone.
    """

    id: RequestId
    attempt: int
    data: bytes
    times: list[tuple[int, float]] = []
    left_out: int = 0


class ActResult(Struct, frozen=True):
    """What became of one job: its new state, or the code and text of a refusal."""

    job: int
    state: State | None = None
    code: ErrorCode | None = None
    message: str | None = None


class Acted(Struct, frozen=True, tag="acted"):
    id: RequestId
    results: list[ActResult]


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


class Done(Struct, frozen=True, tag="done"):
    id: RequestId


class End(Struct, frozen=True, tag="end"):
    """The stream is complete."""

    id: RequestId


class Failed(Struct, frozen=True, tag="failed"):
    id: RequestId
    code: ErrorCode
    message: str


Reply = Submitted | JobsPart | Shown | AttemptsPart | Result | LogPart | Acted | Info | Done | End | Failed

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_hello_decoder: msgspec.msgpack.Decoder[Hello] = msgspec.msgpack.Decoder(Hello)
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Hello | Request | Reply) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: a text holds what UTF-8 cannot, as a file name that is not UTF-8, or a number is
            beyond 64 bits.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8 text: {error.object!r}") from error
    except OverflowError as error:
        raise ProtocolError(f"a number is beyond 64 bits: {error}") from error


def decode_hello(payload: bytes) -> Hello:
    return _decoded(_hello_decoder, payload)


def decode_request(payload: bytes) -> Request:
    return _decoded(_request_decoder, payload)


def decode_reply(payload: bytes) -> Reply:
    return _decoded(_reply_decoder, payload)


def request_id_of(payload: bytes) -> int | None:
    """Return the id of a request that does not decode, None if even that is missing."""
    try:
        return _decode_id(payload).id
    except _UNDECODABLE:
        return None


class _OnlyId(Struct):
    id: RequestId


_decode_id = msgspec.msgpack.Decoder(_OnlyId).decode

# MsgspecError alone is not enough: deep nesting and bad UTF-8 raise their own
_UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except _UNDECODABLE as error:
        raise ProtocolError(f"not a message of protocol {PROTOCOL}: {error}") from error
