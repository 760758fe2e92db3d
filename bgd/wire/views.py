"""Views: jobs, attempts, queues and events as people see them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType, defstruct, field

from bgd.core.explain import Reason
from bgd.core.job import Outcome, State
from bgd.core.spec import OPTIONS, ExecutorKind, JobCause, JobSpec, kind_of


class Progress(Struct, frozen=True):
    """How far a job is, as it reports: `fraction` of 1, and what it is doing; None: it does not say."""

    fraction: float | None = None
    message: str | None = None


class JobFacts(Struct, frozen=True, kw_only=True):
    """The fields of a JobView that are no options, or that say more than the option that was asked for."""

    id: int
    kind: str  # command | class
    argv: list[str] | None
    target: str | None
    arguments: str | None  # JSON text {"args": [...], "kwargs": {...}}
    user: str  # the name, or the uid of a user without one
    state: State
    outcome: Outcome | None  # of the latest attempt that ended
    exit_code: int | None
    signal: int | None
    reason: str | None  # why, if state and outcome do not tell
    queue: str
    priority: int
    tags: list[str]
    retries: int
    retry_delay: float | list[float]
    backoff: float
    max_delay: float
    jitter: float
    rerun: bool | None
    attempt: int
    created_at: float
    due_at: float | None
    started_at: float | None  # of the latest attempt
    finished_at: float | None
    retry_on: list[int] | None = None
    no_retry_on: list[int] | None = None
    expires_at: float | None = None  # None also once it has started
    after: list[int] = []
    after_any: list[int] = []
    waits_for: list[int] = []  # of these, those that have not finished
    suspended: bool = False
    snoozes: int = 0  # attempts that ended by a snooze
    on_exceptions: dict[str, str] = {}  # what follows them: "retry", "retry 30s", "fail" or "snooze 5m"
    progress: Progress | None = None  # as the latest attempt last reported; None: nothing
    waited_seconds: float | None = None  # from submission to the latest start, or until now
    run_seconds: float | None = None  # of the latest attempt, as in AttemptView
    problem: str | None = None  # why the latest attempt failed, if it left a message
    # within which 95 of 100 of the latest 50 runs of its name succeeded; None: not known
    usual_seconds: float | None = None
    needs_node: bool = False  # its attempt is with a cluster, which has no node for it yet
    cause: JobCause | None = None  # what it follows
    follow_ups: list[int] = []  # the jobs that followed its end
    batch: int | None = None  # the batch that it belongs to
    why_waiting: tuple[Reason, ...] = ()  # in a list, of a queued job: what it waits for besides its turn


_NOT_VIEWED = {"hold", "input", "env"}  # a state, and values that may be long or secret

OPTIONS_AS_ASKED = [name for name in OPTIONS if name not in {*JobFacts.__struct_fields__, *_NOT_VIEWED}]
"""The options that a JobView shows as they were asked for."""


def _viewed(name: str) -> Any:
    """Return the type of an option without its limits: those of the daemon may be others."""
    kind = kind_of(name)
    base = getattr(kind, "__origin__", kind)
    return base | None if getattr(JobSpec(), name) is None else base


if TYPE_CHECKING:

    class JobView(JobFacts, JobSpec, frozen=True, kw_only=True):
        """A job as people see it. Instants are epoch seconds, durations seconds, None if there is nothing."""

else:
    JobView = defstruct(
        "JobView",
        [(name, _viewed(name), getattr(JobSpec(), name)) for name in OPTIONS_AS_ASKED],
        bases=(JobFacts,),
        module=__name__,
        frozen=True,
        kw_only=True,
    )


class FollowUpView(Struct, frozen=True):
    """A follow-up of a batch: a command, or a target with its arguments as JSON.

    `job`: its job, once it has started.
    """

    argv: list[str] | None
    target: str | None
    arguments: str | None = None
    job: int | None = None


class BatchView(Struct, frozen=True, kw_only=True):
    """A batch as people see it: how many of its jobs are in each state, and its follow-ups.

    `is_whole`: its client adds no more jobs. `finished_at`: when the last of them ended; None: not all have
    ended, or more may come. `removed`: jobs that were deleted since, and are counted.
    """

    id: int
    name: str | None
    user: str
    created_at: float
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    is_whole: bool
    finished_at: float | None
    then: FollowUpView | None = None
    catch: FollowUpView | None = None
    finally_: FollowUpView | None = field(default=None, name="finally")
    removed: int = 0


class JobProgress(Struct, frozen=True):
    """What a running attempt last reported about its progress."""

    job: int
    attempt: int
    progress: Progress


class JobUsage(Struct, frozen=True, kw_only=True):
    """What all processes of a running job use now.

    `cpu_percent`: in the last seconds; 100 is one processor; None: not known yet. `memory_bytes`: as its
    control group counts, or the resident memory of all processes, in which shared pages count more than once.
    """

    cpu_percent: float | None
    memory_bytes: int
    processes: int


class AttemptView(Struct, frozen=True, kw_only=True):
    """An attempt as people see it.

    `run_seconds` is measured on a clock that cannot be set, so it may differ from the difference of its
    instants. While the attempt runs it is the time until now. None: it did not run, or its end is unknown.
    `leftovers`: the processes that it left behind and that bgd ended, in words.
    `executor`, `executor_kind`: what runs it; None: this machine, as it is. `node`: where a cluster runs it.
    `tokens`: those that it holds or held, by resource.
    """

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
    whole_tree: bool = False  # processor times include processes that were not waited for
    memory_peak_bytes: int | None = None  # of all processes together, including the files they cached
    run_seconds: float | None = None
    leftovers: str | None = None
    executor: str | None = None
    executor_kind: ExecutorKind | None = None
    tokens: dict[str, list[str]] = {}
    node: str | None = None


class StepState(StrEnum):
    """How far a step of a job is."""

    OPEN = "open"  # it has recorded a cursor, and its block has not ended
    DONE = "done"


class StepView(Struct, frozen=True, kw_only=True):
    """What a job has recorded of a step. `at`: when; `seconds`: how long the step had taken by then.

    `value`: only for the job itself.
    """

    position: int
    name: str
    state: StepState
    at: float
    seconds: float
    value: bytes | UnsetType = UNSET


class QueueView(Struct, frozen=True, kw_only=True):
    """A queue that is the default, configured, set, paused or in use. `slots` None: no limit.

    `rate`: how many of its jobs may start within some time, as people write it; `weight`: its share of the
    slots. None: the configuration gives it none. `opens_at`: from when on its rate lets another job start;
    None: now. `why_waiting`: what its oldest queued job waits for besides its turn.
    """

    name: str
    slots: int | None
    configured_slots: int | None
    paused: bool
    counts: dict[str, int]  # unfinished jobs by state
    rate: str | None = None
    weight: int | None = None
    opens_at: float | None = None
    why_waiting: tuple[Reason, ...] = ()


class ResourceView(Struct, frozen=True, kw_only=True):
    """A named resource that is configured, or whose tokens a job still holds.

    It has `tokens`; `taken` may be more, if some were removed. `waiting`: queued jobs that ask for it.
    """

    name: str
    tokens: int
    taken: int
    waiting: int


class GroupStats(Struct, frozen=True, kw_only=True):
    """Figures of the attempts of one queue, or of the jobs of one name; times as in Stats.

    `failed`: those whose outcome is neither success nor a cancellation or a snooze.
    """

    name: str
    ended: int
    failed: int
    wait_median: float | None
    run_median: float | None
    run_p95: float | None


class EventView(Struct, frozen=True, kw_only=True):
    """One thing that happened to a job. Ids grow, with gaps.

    `what` is "submit", a Move, "note" or "remove". Or it is "progress", which is sent as it comes and not
    kept: its id is that of the event before it.
    """

    id: int
    at: float
    job: int
    what: str
    state: State  # after it
    attempt: int
    outcome: Outcome | None = None  # of the attempt that ended
    reason: str | None = None
    progress: Progress | None = None  # where `what` is progress
    by: str | None = None  # the user who asked for it, if bgd did not do it by itself; not known of a submit


class JobEnd(Struct, frozen=True, kw_only=True):
    """The end of a job, from the inbox of its session: as it was then, because the job may have run again.

    * `event`: the number of this end; growing, never reused.
    * `outcome`, `exit_code`, `signal`: of its latest attempt; `cancelled` if the job was.
    * `reason`: why it ended so, or the error of a class job, if the outcome does not say it.
    * `seconds`, `log_bytes`: how long that attempt ran, and how much it wrote; None: not known, or none ran.
    * `redelivered`: it was handed out before, and not acknowledged.
    * `tail`: the last lines of its output; the client reads them.
    """

    event: int
    session: str
    job: int
    attempt: int  # 0: it had none
    name: str | None
    state: State
    outcome: Outcome
    exit_code: int | None
    signal: int | None
    reason: str | None
    at: float
    seconds: float | None
    log_bytes: int | None
    redelivered: bool
    tail: str = ""


class ScheduleEvent(Struct, frozen=True, kw_only=True):
    """What became of a time of a schedule, or of `count` in a row from `due_at` on.

    `id` and `at`: as of an EventView; both kinds share the ids. `outcome`: a Result, or "late".
    """

    id: int
    at: float
    schedule: str
    outcome: str
    due_at: float
    job: int | None = None  # the one that was queued
    reason: str | None = None  # why it did not run, or the user who asked for it
    count: int = 1


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"  # good to know
    WARNING = "warning"  # something may be lost or fail
    PROBLEM = "problem"  # something does not work


class Finding(Struct, frozen=True):
    """One thing that a checkup looked at: its state, and what to do about it; None: nothing."""

    subject: str
    level: Level
    message: str
    remedy: str | None = None


class JobError(Struct, frozen=True):
    """What a class job raised, or why an attempt did not start (then `type` is "not_started")."""

    type: str
    message: str
    traceback: str | None = None

    def in_words(self, outcome: str | None) -> str:
        """Return the error as text beside the outcome."""
        if self.type == outcome:
            return self.message
        return f"{self.type}: {self.message}" if self.message else self.type
