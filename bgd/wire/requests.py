"""What a client asks: one struct a request, each with the id that its replies repeat; here those about jobs.

An arrow in a docstring names the replies: one, or a stream of them that ends with End. Failed ends either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from bgd.core.job import State
from bgd.core.spec import (
    OPTIONS,
    Argv,
    Environment,
    JobNumber,
    JobSpec,
    QueueName,
    kind_of,
    may_be_nil,
)
from bgd.wire.steering import (
    GetBackup,
    GetCheckup,
    GetInfo,
    GetLogin,
    GetQueues,
    GetStats,
    Pause,
    Prune,
    Reload,
    RemoveQueue,
    RequestId,
    Resume,
    SetQueue,
    SetSlots,
    Shutdown,
)

MAX_BATCH = 100_000  # jobs of one submit_many, over all its parts
MAX_BATCH_BYTES = 256 << 20  # of the unfinished batches of all clients together; one a connection at a time
MAX_IDS = 10_000  # jobs named in one request
MAX_LIST = 10_000
DEFAULT_LIST = 50
MAX_PROGRESS_MESSAGE = 200  # characters: a line of a list
MAX_SIGNAL = 64  # SIGRTMAX of Linux
MAX_ATTEMPT = 2**31
MAX_TAIL = 1_000_000  # lines
MAX_EVENT = 2**63 - 1  # what SQLite holds

NewestJob = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # an id, 0: there has been none
Token = Annotated[bytes, Meta(min_length=16, max_length=16)]
Jobs = Annotated[list[JobNumber], Meta(min_length=1, max_length=MAX_IDS)]


class Submit(Struct, frozen=True, tag="submit"):
    """-> Submitted, after the job is on disk.

    `token`: of this request alone, chosen by chance, so that it may be sent again if its answer was lost:
    with `again`, the newest job that was known before it was first sent. It is answered as it was then.
    """

    id: RequestId
    spec: JobSpec
    token: Token | UnsetType = UNSET
    again: NewestJob | UnsetType = UNSET


class SubmitMany(Struct, frozen=True, tag="submit_many", kw_only=True):
    """-> Submitted, when all of them are on disk: all or none.

    More jobs than a frame holds are sent as several of these with one id, all but the last with `more`.
    `env` is the environment of the specs in this part that have none. `token` and `again`, as of Submit,
    count in the first part.
    """

    id: RequestId
    specs: Annotated[list[JobSpec], Meta(max_length=MAX_BATCH)]
    env: Environment | None = None
    more: bool = False
    token: Token | UnsetType = UNSET
    again: NewestJob | UnsetType = UNSET


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
    until the job is finished, across attempts. `offset`: begin with this byte of the attempt, as where an
    earlier stream broke off; with it `attempt` is a certain one, and all later ones follow it.
    """

    id: RequestId
    job: JobNumber
    attempt: Annotated[int, Meta(ge=0, le=MAX_ATTEMPT)] | None = None
    tail: Annotated[int, Meta(ge=0, le=MAX_TAIL)] | None = None
    follow: bool = False
    timestamps: bool = False
    offset: Annotated[int, Meta(ge=0, le=2**62)] | None = None


class Wait(Struct, frozen=True, tag="wait"):
    """-> JobsPart for each job as it finishes (at once if it has), End after the last.

    With `progress` also ProgressPart: what those that run said last, and then each time they say more.
    With `only_now` End follows those that have finished by now.
    """

    id: RequestId
    jobs: Jobs
    progress: bool = False
    only_now: bool = False


class Cancel(Struct, frozen=True, tag="cancel"):
    """-> Acted: one entry a job, on disk.

    `repeated`: the answer to the same request was lost. Jobs that are already as asked count as done.
    """

    id: RequestId
    jobs: Jobs
    repeated: bool = False


class Retry(Struct, frozen=True, tag="retry"):
    """-> Acted: finished jobs are queued again with their retries unused."""

    id: RequestId
    jobs: Jobs


class Hold(Struct, frozen=True, tag="hold"):
    """-> Acted: jobs that wait do so until they are released."""

    id: RequestId
    jobs: Jobs


class Release(Struct, frozen=True, tag="release"):
    """-> Acted: held jobs wait again for what they waited for before, or for their turn.

    `repeated` as of Cancel.
    """

    id: RequestId
    jobs: Jobs
    repeated: bool = False


class Suspend(Struct, frozen=True, tag="suspend"):
    """-> Acted: the processes of running jobs are stopped; time limits stand still, slots stay taken."""

    id: RequestId
    jobs: Jobs


class Continue(Struct, frozen=True, tag="continue"):
    """-> Acted: jobs go on that were suspended, or stopped by themselves."""

    id: RequestId
    jobs: Jobs


class SendSignal(Struct, frozen=True, tag="signal", kw_only=True):
    """-> Acted: a signal for the first process of running jobs, or for all of their processes."""

    id: RequestId
    jobs: Jobs
    signal: Annotated[int, Meta(ge=1, le=MAX_SIGNAL)]
    whole_tree: bool = False


class Remove(Struct, frozen=True, tag="remove"):
    """-> Acted: finished jobs and their logs are deleted; their ids are not given out again."""

    id: RequestId
    jobs: Jobs


if TYPE_CHECKING:

    class Changes(Struct, frozen=True, kw_only=True):
        """Changes of a job that waits: `argv`, and the options that can be edited. What is absent stays.

        None takes an option away. `delay` and `expires` count from now. `env` sets variables in addition.
        """

        def __init__(self, **changes: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    Changes = defstruct(
        "Changes",
        [("argv", Argv | UnsetType, UNSET)]
        + [
            (name, kind_of(name) | UnsetType | (None if may_be_nil(name) else UnsetType), UNSET)
            for name, option in OPTIONS.items()
            if option.can_edit
        ],
        frozen=True,
        kw_only=True,
        omit_defaults=True,
    )


class Edit(Struct, frozen=True, tag="edit"):
    """-> Acted: jobs that wait are changed."""

    id: RequestId
    jobs: Jobs
    changes: Changes


class SetProgress(Struct, frozen=True, tag="set_progress", kw_only=True):
    """-> Done. How far an attempt that runs is, in place of what it said before; on disk within a second.

    Who reports very often is answered only then.
    """

    id: RequestId
    job: JobNumber
    attempt: Annotated[int, Meta(ge=1, le=MAX_ATTEMPT)]
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE)] | None = None


class GetEvents(Struct, frozen=True, tag="events", kw_only=True):
    """-> EventsPart..., End: what happened after the event `since`, oldest first.

    `since` None: from now on if `follow`, else from the oldest that is kept. `follow`: never ends by itself.
    `progress`: with `follow`, tell also what jobs say of themselves, which is not kept.
    """

    id: RequestId
    since: Annotated[int, Meta(ge=0, le=MAX_EVENT)] | None = None
    follow: bool = False
    progress: bool = False


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
    | Hold
    | Release
    | Suspend
    | Continue
    | SendSignal
    | Remove
    | Prune
    | Edit
    | GetBackup
    | SetProgress
    | GetCheckup
    | GetQueues
    | SetSlots
    | SetQueue
    | RemoveQueue
    | Pause
    | Resume
    | GetEvents
    | GetStats
    | GetInfo
    | GetLogin
    | Reload
    | Shutdown
    | Forget
)
