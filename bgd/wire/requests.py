"""What a client asks: one struct a request, each with the id that its replies repeat.

An arrow in a docstring names the replies: one, or a stream of them that ends with End. Failed ends either.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from bgd.core.job import MAX_ENV, JobSpec, QueueName, State

MAX_BATCH = 100_000  # jobs of one submit_many, over all its parts
MAX_BATCH_BYTES = 256 << 20  # of the unfinished batches of all clients together; one a connection at a time
MAX_IDS = 10_000  # jobs named in one request
MAX_LIST = 10_000
DEFAULT_LIST = 50

RequestId = Annotated[int, Meta(ge=0, le=2**63 - 1)]
JobNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Jobs = Annotated[list[JobNumber], Meta(min_length=1, max_length=MAX_IDS)]


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
    before: JobNumber | None = None  # only ids below this one: the next page


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


class GetLogin(Struct, frozen=True, tag="login"):
    """-> Login: a link that logs a browser in."""

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
    Submit
    | SubmitMany
    | List
    | Show
    | GetResult
    | Logs
    | Wait
    | Cancel
    | Retry
    | GetInfo
    | GetLogin
    | Shutdown
    | Forget
)
