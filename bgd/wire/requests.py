"""Requests: what a client asks the daemon, one Struct a request.

An arrow in a docstring names the replies: one of them, or a stream that ends with End. Failed ends both.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct, field

from bgd.core.job import VERBS, State
from bgd.core.spec import (
    MAX_FILTER,
    MAX_INSTANT,
    MAX_NAME,
    OPTIONS,
    Argv,
    Duration,
    Environment,
    JobNumber,
    JobSpec,
    Name,
    NotifyName,
    QueueName,
    SlotCount,
    Timeout,
    kind_of,
    may_be_nil,
)

MAX_BATCH = 100_000  # jobs of one submit_many, over all its parts
MAX_BATCH_BYTES = 256 << 20  # of the unfinished batches of all clients together; one a connection at a time
MAX_IDS = 10_000  # jobs named in one request
MAX_LIST = 10_000
MAX_BATCHES = 100  # in one answer: each may have three commands of a megabyte
DEFAULT_LIST = 50
MAX_PROGRESS_MESSAGE = 200  # characters: one line of a list
MAX_STEPS = 10_000  # of a job
MAX_STEP_NAME = 200  # characters
MAX_STEP_VALUE = 100_000  # bytes of JSON
MAX_STEP_BYTES = 10_000_000  # of the values of all steps of a job
MAX_SIGNAL = 64  # SIGRTMAX of Linux
MAX_ATTEMPT = 2**31
MAX_TAIL = 1_000_000  # lines
MAX_EVENT = 2**63 - 1  # the largest integer of SQLite
MAX_KEPT = 2**53  # jobs
MAX_ENDS = 1_000  # from one inbox in one answer
DEFAULT_ENDS = 100

RequestId = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NewestJob = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # an id; 0: there has been no job
Token = Annotated[bytes, Meta(min_length=16, max_length=16)]
EventNumber = Annotated[int, Meta(ge=1, le=MAX_EVENT)]
AttemptNumber = Annotated[int, Meta(ge=1, le=MAX_ATTEMPT)]
LineNumber = Annotated[int, Meta(ge=0, le=2**53)]
ROUND = 2**36  # what a line that runs again adds to its number, for each time that the batch was read again
Jobs = Annotated[list[JobNumber], Meta(min_length=1, max_length=MAX_IDS)]
NamedJobs = Annotated[list[JobNumber], Meta(max_length=MAX_IDS)]

# --- about jobs -------------------------------------------------------------------------------------------


class Message(Struct, frozen=True):
    """A request or a reply. `id`: the number of a request on its connection, which its replies repeat."""

    id: RequestId


class Request(Message, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client asks. Unknown fields are refused: without them, more might be meant.

    Defaults are left out, so that an older daemon refuses a new field only where it is set.
    """


class Submit(Request, frozen=True, tag="submit"):
    """-> Submitted, when the job is on disk.

    `token`: random bytes of this request alone. They let a client that lost the answer send the request
    again, then with `again`: the newest job that it knew of before it first sent it. The daemon answers as it
    did the first time.
    """

    spec: JobSpec
    token: Token | UnsetType = UNSET
    again: NewestJob | UnsetType = UNSET


class BatchPlace(Struct, frozen=True, forbid_unknown_fields=True):
    """Which lines of a batch the jobs of one SubmitMany are.

    The daemon takes the lines of a batch in order, each once, and keeps how far it is together with the jobs.
    A client that does not know what was taken asks with GetBatch.

    * `batch`: random bytes of this batch alone.
    * `after`: the last line that was taken before these, 0 for none. If it is another one, all are refused.
    * `runs`: the numbers of the lines, as pairs of a first line and how many lines follow each other from it.
      A line that runs again has another number, higher by a multiple of ROUND.
    """

    batch: Token
    after: LineNumber
    runs: Annotated[list[tuple[LineNumber, LineNumber]], Meta(max_length=MAX_BATCH)]


class NewBatch(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The batch that the lines of a BatchPlace belong to. The first of them create it.

    * `then`, `catch`, `finally`: what to start once, after all its jobs have succeeded, after the first has
      failed, and after all have ended.
    * `is_whole`: no more lines follow, so it may end; otherwise CloseBatch says so.
    """

    name: Name | None = None
    then: JobSpec | None = None
    catch: JobSpec | None = None
    finally_: JobSpec | None = field(default=None, name="finally")
    is_whole: bool = False


class SubmitMany(Request, frozen=True, tag="submit_many", kw_only=True):
    """-> Submitted, when all of the jobs are on disk: all or none.

    If a frame cannot hold all jobs, the client sends several of these with one id, all except the last with
    `more`. `env` is the environment of those specs in this part that have none. `token` and `again`, as in
    Submit, count in the first part, and so does `place`, which replaces them. `chain`, in the first part:
    each job waits until the one before it has succeeded. `batch`, in the first part and with `place`: the
    jobs belong to this batch.
    """

    specs: Annotated[list[JobSpec], Meta(max_length=MAX_BATCH)]
    env: Environment | None = None
    more: bool = False
    token: Token | UnsetType = UNSET
    again: NewestJob | UnsetType = UNSET
    place: BatchPlace | UnsetType = UNSET
    chain: bool = False
    batch: NewBatch | UnsetType = UNSET


class GetBatch(Request, frozen=True, tag="batch", kw_only=True):
    """-> BatchRuns..., End: the jobs of those lines of a batch that come after the line `after`.

    A daemon that has just started takes lines of a batch only after this request. `close`: it takes no more,
    not even what an earlier connection has sent and the daemon has not read, until it is asked again.
    """

    batch: Token
    after: LineNumber = 0
    close: bool = False


class GetBatches(Request, frozen=True, tag="batches", kw_only=True):
    """-> BatchesPart, End: the newest batches, or that with an id, or the newest with a name.

    `before`: only lower ids. `wait`: answer when the newest of these batches has ended.
    """

    batch: JobNumber | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME)] | None = None
    before: JobNumber | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_BATCHES)] = DEFAULT_LIST
    wait: bool = False


class CloseBatch(Request, frozen=True, tag="close_batch"):
    """-> BatchesPart, on disk. The client adds no more jobs, so the batch ends when all its jobs have ended.

    `cancel`: its jobs cannot add any either. To cancel its jobs, send Cancel after this. `reopen`: the client
    may add jobs after all, so the batch stays open; it does nothing to one that has ended or was cancelled.
    """

    batch: JobNumber
    cancel: bool = False
    reopen: bool = False


class List(Request, frozen=True, tag="list", kw_only=True):
    """-> JobsPart..., End. Newest first.

    Without `states`: unfinished jobs and the latest finished ones, `limit` in all.
    """

    states: list[State] | None = None
    queue: QueueName | None = None
    name: Annotated[str, Meta(max_length=200)] | None = None  # a pattern: * and ? are wildcards
    tag: Annotated[str, Meta(max_length=200)] | None = None
    since: float | None = None  # submitted at or after this epoch time
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = DEFAULT_LIST
    mine: bool = False  # only jobs of the caller's user
    before: JobNumber | None = None  # only lower ids than this one: the next page
    until: float | None = None  # submitted before this epoch time
    words: Annotated[str, Meta(max_length=MAX_FILTER)] | None = None  # of the filter language of the pages


class Show(Request, frozen=True, tag="show"):
    """-> Shown, AttemptsPart..., End. `job` None: the caller's latest."""

    job: JobNumber | None = None


class Explain(Request, frozen=True, tag="explain"):
    """-> Explained: what keeps a job from running, and when it will likely start.

    `waits`: the client is about to wait for the job, which may be a deadlock if the client is a job itself.
    """

    job: JobNumber
    waits: bool = False


class GetResult(Request, frozen=True, tag="result"):
    """-> Result: what the latest attempt of a class job returned or raised."""

    job: JobNumber


class Logs(Request, frozen=True, tag="logs", kw_only=True):
    """-> LogPart..., End: the output of one attempt, or of all, oldest first.

    * `attempt`: None: the latest; 0: all.
    * `tail`: only this many of the last lines there are.
    * `follow`: go on until the job has finished, across attempts.
    * `since`: only what was written at or after this epoch time, in each attempt.
    * `offset`: begin with this byte of the attempt, for example where an earlier stream broke off. `attempt`
      is then a certain one, and all later ones follow it.
    """

    job: JobNumber
    attempt: Annotated[int, Meta(ge=0, le=MAX_ATTEMPT)] | None = None
    tail: Annotated[int, Meta(ge=0, le=MAX_TAIL)] | None = None
    follow: bool = False
    timestamps: bool = False
    offset: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    since: float | None = None


class GetKeyboard(Request, frozen=True, tag="keyboard"):
    """-> KeyboardOpened, End: type into the terminal of a running job. Refused if it has none.

    `wait`: until its next attempt runs. If the job finishes instead, End comes alone.
    """

    job: JobNumber
    wait: bool = False


class Wait(Request, frozen=True, tag="wait"):
    """-> JobsPart for each job as it finishes (at once if it has finished), and End after the last.

    With `progress` also ProgressPart: what running jobs last reported, then each time they report more. With
    `only_now` End follows the jobs that have finished by now.
    """

    jobs: Jobs
    progress: bool = False
    only_now: bool = False


class GetInbox(Request, frozen=True, tag="inbox", kw_only=True):
    """-> InboxPart..., End: the oldest ends in the inbox of a session of the client's user, leased to it.

    Until this connection closes, no other one gets them. It gets them again until they are acknowledged.

    * `wait`: until there is one.
    * `peek`: without a lease, and including ends that are leased to others.
    """

    session: Name
    wait: bool = False
    peek: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_ENDS)] = DEFAULT_ENDS


class AcknowledgeEnds(Request, frozen=True, tag="acknowledge"):
    """-> Done, when that is on disk: delete these ends, which the client has read.

    * `jobs`: also all ends of these jobs in the inbox of `session`, which the client knows from elsewhere.
    """

    events: Annotated[list[EventNumber], Meta(max_length=MAX_IDS)] = []
    session: Name | None = None
    jobs: NamedJobs = []


# --- acting on jobs ---------------------------------------------------------------------------------------


class Selection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """All jobs to which a verb applies and that have what is given here, now and when it is their turn.

    * `states`: None: those that the verb is usually for. `suspended`: of the running ones, only these.
    * `queue`, `name`, `tag`, `since`, `until`, `words`: as in List, except that notifications are selected
      only with their queue.
    * `after`: only higher ids than this one: the rest, if an earlier stream broke off.
    * `dry_run`: change nothing; only tell the present states of these jobs.
    """

    states: list[State] | None = None
    suspended: bool | None = None
    queue: QueueName | None = None
    name: Annotated[str, Meta(max_length=200)] | None = None
    tag: Annotated[str, Meta(max_length=200)] | None = None
    since: float | None = None
    after: NewestJob = 0
    dry_run: bool = False
    until: float | None = None
    words: Annotated[str, Meta(max_length=MAX_FILTER)] | None = None


if TYPE_CHECKING:

    class Act(Request, frozen=True):
        """-> Acted: one entry a job, on disk. With `where` -> Acted..., End, for the jobs that it selects.

        `repeated`: the answer to the same request was lost; jobs to which it was done already count as done.
        """

        jobs: NamedJobs = []
        repeated: bool = False
        where: Selection | None = None

    class Changes(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """Changes of a job that waits: `argv`, and the options that can be edited. What is absent stays.

        None takes an option away. `delay` and `expires` count from now. `env` sets variables in addition.
        """

        def __init__(self, **changes: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    Cancel = Act
    Hold = Act
    Release = Act
    Suspend = Act
    Continue = Act
    Remove = Act

else:
    # They differ only by their tags. VERBS says what each applies to
    _ACTS = {
        name.capitalize(): defstruct(
            name.capitalize(),
            [
                ("jobs", NamedJobs, []),
                ("repeated", bool, False),
                ("where", Selection | None, None),
            ],
            bases=(Request,),
            module=__name__,
            frozen=True,
            tag=name,
        )
        for name, verb in VERBS.items()
        if not verb.has_fields
    }
    globals().update(_ACTS)
    Act = reduce(lambda some, kind: some | kind, _ACTS.values())

    # The types are text, which msgspec reads when it decodes the first Edit: a client never does
    Changes = defstruct(
        "Changes",
        [("argv", Argv | UnsetType, UNSET)]
        + [
            (name, f"_kind_of_change({name!r})", UNSET) for name, option in OPTIONS.items() if option.can_edit
        ],
        module=__name__,
        frozen=True,
        forbid_unknown_fields=True,
        kw_only=True,
        omit_defaults=True,
    )


def _kind_of_change(name: str) -> Any:
    """Return the type of the new value of an option."""
    return kind_of(name) | UnsetType | (None if may_be_nil(name) else UnsetType)


class Retry(Request, frozen=True, tag="retry"):
    """-> As Act. Queue finished jobs again, with the jobs that were cancelled because of them.

    `alone`: without those.
    """

    jobs: NamedJobs = []
    repeated: bool = False
    where: Selection | None = None
    alone: bool = False


class SendSignal(Request, frozen=True, tag="signal", kw_only=True):
    """-> As Act. Send a signal to the first process of running jobs, or to all of their processes."""

    jobs: NamedJobs = []
    where: Selection | None = None
    signal: Annotated[int, Meta(ge=1, le=MAX_SIGNAL)]
    whole_tree: bool = False


class Edit(Request, frozen=True, tag="edit"):
    """-> As Act. Change waiting jobs."""

    jobs: NamedJobs = []
    changes: Changes = Changes()
    where: Selection | None = None


Action = Act | Retry | SendSignal | Edit
"""A request that carries out a verb of `bgd.core.job.VERBS`."""


def act(verb: str, **fields: Any) -> Action:
    """Return the request for a verb of `bgd.core.job.VERBS`, without its id."""
    kinds: dict[object, Callable[..., Any]] = {kind.__struct_config__.tag: kind for kind in get_args(Action)}
    request: Action = kinds[verb](id=0, **fields)
    return request


class SetProgress(Request, frozen=True, tag="set_progress", kw_only=True):
    """-> Done. Replace what a running attempt last reported about its progress; on disk within a second.

    A job that reports very often gets its answers no sooner than that.
    """

    job: JobNumber
    attempt: AttemptNumber
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE)] | None = None


class GetSteps(Request, frozen=True, tag="steps", kw_only=True):
    """-> StepsPart..., End: what a job has recorded of its steps, after the position `after`.

    `attempt`: the running attempt, for the process of the job that will record steps; it also gets the
    values. The first process to ask is the only one of its attempt that may record steps. None: anyone else.
    """

    job: JobNumber
    attempt: AttemptNumber | None = None
    after: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0


class SaveStep(Request, frozen=True, tag="save_step", kw_only=True):
    """-> Done, when it is on disk. Record a step of a running attempt, in place of what it recorded before.

    `value`: for the job alone, which may use any format. `done`: the step is not run again.
    """

    job: JobNumber
    attempt: AttemptNumber
    position: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_STEP_NAME)]
    done: bool
    value: Annotated[bytes, Meta(max_length=MAX_STEP_VALUE)]
    seconds: Annotated[float, Meta(ge=0, le=MAX_INSTANT)]  # not infinite, which JSON cannot say


class GetEvents(Request, frozen=True, tag="events", kw_only=True):
    """-> EventsPart..., End: what happened after the event `since`, oldest first.

    * `since`: None: from now on with `follow`, otherwise from the oldest event that is kept.
    * `follow`: the stream never ends by itself.
    * `progress`: with `follow`, also send what jobs report, which is not kept.
    * `schedules`: also send what becomes of the times of schedules.
    """

    since: Annotated[int, Meta(ge=0, le=MAX_EVENT)] | None = None
    follow: bool = False
    progress: bool = False
    schedules: bool = False


class Forget(Request, frozen=True, tag="forget"):
    """End the stream of the request `request` early; End follows in that stream. No reply of its own."""

    request: RequestId


# --- about the daemon -------------------------------------------------------------------------------------


class GetInfo(Request, frozen=True, tag="info"):
    """-> Info."""


class GetStats(Request, frozen=True, tag="stats"):
    """-> Stats: figures of the last `window` seconds, and of all jobs that wait or run."""

    window: Timeout = 3600.0


class GetUsage(Request, frozen=True, tag="usage"):
    """-> JobUsages: what running jobs use now. The first answer after a pause takes a moment."""


class GetLogin(Request, frozen=True, tag="login"):
    """-> Login: a link that logs a browser in; with `read_only` it cannot make changes."""

    read_only: bool = False


class Reload(Request, frozen=True, tag="reload"):
    """-> Reloaded: read the configuration again. One that cannot be used changes nothing."""


class ShutdownMode(StrEnum):
    """What becomes of running jobs when the daemon ends."""

    LEAVE = "leave"  # they run on, and the next daemon adopts them
    REQUEUE = "requeue"  # they are stopped, and run again under the next daemon
    WAIT = "wait"  # no more jobs start, and the daemon ends when these have ended
    CANCEL = "cancel"  # they are cancelled


class Shutdown(Request, frozen=True, tag="shutdown"):
    """-> Done when the daemon has begun to end; the connection ends with it. `mode` None: as configured."""

    mode: ShutdownMode | None = None


class GetCheckup(Request, frozen=True, tag="checkup"):
    """-> Checkup: what is wrong with the installation."""


class SendTest(Request, frozen=True, tag="send_test"):
    """-> Submitted: send a test message to a target of notifications. The job is what sends it."""

    target: NotifyName


class GetQueues(Request, frozen=True, tag="queues"):
    """-> Queues."""


class SetSlots(Request, frozen=True, tag="slots"):
    """-> Queues. Set how many slots the daemon has; None: as configured. Kept over restarts."""

    slots: SlotCount | None


class SetQueue(Request, frozen=True, tag="set_queue"):
    """-> Queues. Set how many slots a queue has; None: no limit. Kept over restarts."""

    queue: QueueName
    slots: SlotCount | None


class RemoveQueue(Request, frozen=True, tag="remove_queue"):
    """-> Queues. Forget what SetQueue and Pause said about a queue: it is as configured again.

    `repeated`: the answer to the same request was lost; it is no error if there is nothing to forget.
    """

    queue: QueueName
    repeated: bool = False


class Pause(Request, frozen=True, tag="pause"):
    """-> Queues. Start no job of a queue until it is resumed; None: no job at all. Kept over restarts."""

    queue: QueueName | None = None


class Resume(Request, frozen=True, tag="resume"):
    """-> Queues. Undo a Pause. None undoes that of all queues together, not those of single queues.

    `repeated`: the answer to the same request was lost; it is no error if there is no such queue now.
    """

    queue: QueueName | None = None
    repeated: bool = False


class Prune(Request, frozen=True, tag="prune", kw_only=True):
    """-> Pruned..., End: delete finished jobs and their logs, starting with the one that finished first.

    It deletes those that finished more than `older_than` seconds ago, that are not among the latest `keep` of
    their state, or whose logs make all logs together larger than `logs_total` bytes. None of the three: as
    configured. `states`: only jobs in these; None: in any final state. `dry_run`: only tell what would go.
    """

    states: Annotated[list[State], Meta(min_length=1, max_length=3)] | None = None
    older_than: Duration | None = None
    keep: Annotated[int, Meta(ge=0, le=MAX_KEPT)] | None = None
    logs_total: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    dry_run: bool = False


class GetBackup(Request, frozen=True, tag="backup"):
    """-> BackupPart..., End: a copy of the database as it was at one instant."""
