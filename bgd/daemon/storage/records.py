"""Structs that the store takes and returns: one for each kind of fact about jobs and attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgd.core.batches import Batch, BatchEvent, BatchId
from bgd.core.breakers import BreakerState
from bgd.core.job import (
    NO_CONDITIONS,
    Conditions,
    Decision,
    Job,
    JobId,
    KeyLimit,
    Move,
    Now,
    Outcome,
    RetryPolicy,
    State,
)
from bgd.core.limits import NO_TOKENS, Tokens
from bgd.core.notifications import Decisions, Fact, NotifyRule
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.scheduler import SaveJob
from bgd.core.schedules import Occurrence
from bgd.core.spec import Demand, JobSpec
from bgd.wire.launching import AttemptKey, AttemptStarted, Place
from bgd.wire.replies import Run
from bgd.wire.requests import SaveStep
from bgd.wire.views import JobError, JobProgress


class JobEvent(Struct, frozen=True, array_like=True, gc=False):
    """What happened to a job: an item of the change stream (see `bgd.wire.views.EventView`).

    The database stores the fields by position, so new fields go to the end and need a default.
    """

    at: float
    job: JobId
    what: str
    state: State
    attempt: int
    outcome: Outcome | None
    reason: str | None
    by: str | None = None

    @classmethod
    def of(cls, save: SaveJob, outcomes: dict[tuple[JobId, int], Outcome], by: str | None) -> JobEvent:
        """Return the event of a move, and take the outcome that led to it out of `outcomes`."""
        job = save.job
        outcome = outcomes.pop((job.id, job.attempt), None) if save.what in _ENDS else None
        return cls(save.at, job.id, save.what, job.state, job.attempt, outcome, save.reason, by)


# Moves that follow the end of an attempt
_ENDS = frozenset({Move.SUCCEED, Move.RETRY, Move.GIVE_UP, Move.REQUEUE, Move.SNOOZE, Move.CANCEL})
REMOVE = "remove"
"""What happened to a job that was removed."""


class QueueSetting(Struct, frozen=True, kw_only=True):
    """What people have set for a queue; `slots` counts only if `has_slots`, and None means no limit."""

    has_slots: bool = False
    slots: int | None = None
    paused: bool = False


class QueueControls(Struct, frozen=True, kw_only=True):
    """What people have set for all slots and for queues; `slots` None means as configured."""

    slots: int | None = None
    paused: bool = False
    queues: dict[str, QueueSetting] = {}


class NewAttempt(Struct, frozen=True):
    """An attempt that will be sent to the launcher with the instance id `launcher`."""

    job: JobId
    attempt: int
    slot: int
    launcher: str
    at: float
    tokens: Tokens = NO_TOKENS


class Permit(Struct, frozen=True, array_like=True):
    """Permission to launch an attempt before its start is saved: see `bgd.daemon.permits`.

    `attempt`: the number of the job's next one. `launcher`: the instance that may get it.
    """

    job: JobId
    attempt: int
    launcher: str


class AttemptEnd(Struct, frozen=True, kw_only=True):
    """How an attempt ended; None means that there is no such value, or that it is stored already.

    Attributes:
        result: what a class job returned, as JSON text.
        log_bytes: that it wrote.
        log_kept: how many of these are on disk.
        since: its start on the elapsed clock.
        decision, lineage: as in an AttemptReport; not stored, because nothing needs them after this.
    """

    job: JobId
    attempt: int
    outcome: Outcome
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    since: float | None = None
    pid: int | None = None
    finished_at: float
    user_seconds: float | None = None
    system_seconds: float | None = None
    max_rss_bytes: int | None = None
    log_bytes: int = 0
    log_kept: int = 0
    whole_tree: bool = False
    memory_peak_bytes: int | None = None
    run_seconds: float | None = None
    leftovers: str | None = None
    place: Place | None = None
    error: JobError | None = None
    result: str | None = None
    decision: Decision | None = None
    lineage: tuple[str, ...] = ()


class Submission(Struct):
    """The jobs of one request in the order of its specs.

    `found`: those of them that were not made, because an unfinished job has their key. `first`: the first
    new one; None: all were found. `batch`: the batch that they belong to.
    """

    jobs: list[int] = []
    found: list[int] = []
    first: JobId | None = None
    batch: BatchId | None = None


class StoredSchedule(Struct, frozen=True, kw_only=True, gc=False):
    """A schedule on disk.

    * `uid`: the user who added it; None: it is from the configuration.
    * `paused`: what a person said; None: as its definition says.
    * `seen_at`: what became of all occurrences until then is stored; epoch time.
    * `boot_id`: of the boot in which `@reboot` was handled last.
    """

    spec: ScheduleSpec
    uid: int | None
    paused: bool | None = None
    seen_at: float
    boot_id: str = ""


class StoredSpec(Struct, frozen=True, gc=False):
    """A job's spec as the user `uid` submitted it, and apart from it the environment, which jobs share.

    `env` None: it had none.
    """

    spec: JobSpec
    uid: int
    created_at: float
    env: dict[str, str] | None = None

    @classmethod
    def of(cls, spec: JobSpec, uid: int, created_at: float, env: dict[str, str] | None = None) -> StoredSpec:
        """Take the environment out of a spec; `env`: of a command that has none of its own."""
        if spec.env is not None:
            return cls(replace(spec, env=None), uid, created_at, spec.env)
        return cls(spec, uid, created_at, None if spec.target is not None else env)

    @property
    def due_at(self) -> float:
        """The epoch time from which the job waits for its first start: that of its submission, or later."""
        return max(self.created_at + self.spec.delay, self.spec.at or 0.0)

    def whole(self) -> JobSpec:
        """Return the spec with the environment."""
        return self.spec if self.env is None else replace(self.spec, env=self.env)


UNREADABLE = JobSpec(argv=("(unreadable)",))
"""Stands for a spec that cannot be read; the job cannot run."""


class Transaction(Struct, kw_only=True):
    """Everything that one transaction writes, the specs that it reads back, and what happens after it.

    It collects facts until the Supervisor closes it, adds what the Scheduler has decided, and writes it.

    Attributes:
        now: when it was closed.
        new: jobs that were just submitted; their specs are in `specs`.
        saves: jobs as they are now.
        relaunched: attempts stored earlier that now belong to another launcher.
        lost: attempts that may have begun, of which only a permit is known; their ends are in `ends`.
        pids: attempts that run, or are about to.
        wanted: jobs whose specs are read back in the same transaction.
        edited: jobs whose specs are replaced.
        results: of the jobs that the arguments of `wanted` jobs refer to, as JSON text; read back like specs.
        follow_ups: jobs that have ended, each with the new job that follows it.
        breakers: the states of breakers that have changed, with epoch times.
        removed: finished jobs whose rows are all deleted.
        cleared: jobs removed earlier whose logs are off the disk.
        controls: all that people have set for slots and queues; None if nothing has changed.
        wall_ahead: seconds that the wall clock is ahead of the elapsed clock; None if nothing has changed.
        progress: what attempts have reported last.
        steps: what attempts have recorded of their steps.
        submissions: the jobs of requests, by their tokens.
        batches: ids of batches, and which lines of them became which jobs.
        new_batches: batches that were just made, with their follow-ups.
        counted: batches as they are now, the new ones too.
        joined: runs of new jobs: the first, the last, and their batch.
        schedules: schedules that have changed; None: it is removed.
        occurrences: what became of occurrences of schedules; `late`: of one before, its job has not finished
            in time.
        seen: until when the occurrences of schedules are stored.
        notify_facts: what a target may get a message about; stored if one does.
        settled: what was decided about facts that were stored earlier; its messages are jobs by now.
        rules: those of all targets; none: there are no notifications.
        default_target: the target of jobs and schedules that name none.
        has_notify_facts: whether facts were stored; known after the commit.
        sessions: users and names of sessions whose inboxes got ends; known after the commit.
        specs: those of the new jobs.
        answers: what to call after the commit.
        launches: jobs whose attempts to launch after the commit.
        commands: jobs that say what to do to their running attempts after the commit.
        acknowledge: attempts whose ends to acknowledge to the launcher after the commit.
        permits: all of them, packed; None if nothing has changed.
        permitted: specs of attempts that were launched by permit.
        actors: users behind the effects of the Scheduler, by their place.
        removers: users who asked to remove jobs.
    """

    now: Now
    new: list[Job] = []
    saves: dict[JobId, SaveJob] = {}
    attempts: list[NewAttempt] = []
    relaunched: list[NewAttempt] = []
    lost: list[NewAttempt] = []
    pids: dict[JobId, AttemptStarted] = {}
    ends: list[AttemptEnd] = []
    wanted: list[JobId] = []
    events: list[JobEvent] = []
    edited: dict[JobId, JobSpec] = {}
    follow_ups: list[tuple[JobId, JobId]] = []
    breakers: dict[str, BreakerState] = {}
    removed: list[Job] = []
    cleared: list[JobId] = []
    controls: QueueControls | None = None
    wall_ahead: float | None = None
    progress: dict[JobId, JobProgress] = {}
    steps: list[SaveStep] = []
    submissions: dict[bytes, Submission] = {}
    batches: list[tuple[bytes, list[Run]]] = []
    new_batches: dict[BatchId, Mapping[BatchEvent, JobSpec]] = {}
    counted: list[Batch] = []
    joined: list[tuple[JobId, JobId, BatchId]] = []
    schedules: dict[str, StoredSchedule | None] = {}
    occurrences: list[Occurrence] = []
    seen: dict[str, float] = {}
    notify_facts: list[Fact] = []
    settled: list[Decisions] = []
    rules: dict[str, NotifyRule] = {}
    default_target: str | None = None
    has_notify_facts: bool = False
    sessions: set[tuple[int, str]] = set()
    specs: dict[JobId, StoredSpec] = {}
    results: dict[int, str] = {}
    answers: list[Callable[[], object]] = []
    launches: list[Job] = []
    commands: list[Job] = []
    acknowledge: list[AttemptKey] = []
    permits: bytes | None = None
    permitted: dict[JobId, StoredSpec] = {}
    actors: dict[int, str] = {}
    removers: dict[JobId, str] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write and nothing to read back."""
        return not any(_written(self))


_NOT_WRITTEN = {
    "now",
    "specs",
    "permitted",
    "results",
    "answers",
    "launches",
    "commands",
    "acknowledge",
    "actors",
}
_NOT_WRITTEN |= {"removers", "rules", "default_target", "has_notify_facts", "sessions"}
_written = attrgetter(*(name for name in Transaction.__struct_fields__ if name not in _NOT_WRITTEN))


class UnfinishedJob(Struct, frozen=True, gc=False):
    """An unfinished job; if it is active, with what its attempt holds and the launcher's instance id.

    `count`: how many jobs it stands for. They wait, have consecutive ids, and are otherwise the same.
    """

    job: Job
    slot: int | None = None
    launcher: str | None = None
    tokens: Tokens = NO_TOKENS
    count: int = 1


# --- columns that hold a structured value


class Waits(Struct, frozen=True, array_like=True):
    """Conditions of these names. The database stores them by position: new fields go to the end."""

    after: tuple[JobId, ...] = ()
    after_any: tuple[JobId, ...] = ()
    limit: KeyLimit | None = None
    frees_key_at_start: bool = False
    key_for: float | None = None


_NO_WAITS = Waits()
_waits = attrgetter(*Waits.__struct_fields__)
_MAX_CACHED = 1024  # policies

_encode = msgspec.msgpack.Encoder().encode
_decode_demand = msgspec.msgpack.Decoder(Demand).decode
_decode_tokens = msgspec.msgpack.Decoder(Tokens).decode
_decode_waits = msgspec.msgpack.Decoder(Waits).decode
# Equal policies are the same object, which a million jobs may share
pack_policy = lru_cache(_MAX_CACHED)(_encode)
unpack_policy = lru_cache(_MAX_CACHED)(msgspec.msgpack.Decoder(RetryPolicy).decode)
# Without the environment. A limit of JobSpec may be widened, never narrowed: stored specs are read through it
unpack_spec = msgspec.msgpack.Decoder(JobSpec).decode
pack_permits, unpack_permits = _encode, msgspec.msgpack.Decoder(list[Permit]).decode
NO_PERMITS = pack_permits([])


def pack_tokens(tokens: Demand | Tokens) -> bytes | None:
    """Return the tokens that a job asks for, or an attempt holds, as the database stores them; None: none."""
    return _encode(tokens) if tokens else None


def unpack_resources(packed: bytes | None) -> Demand:
    """Return the tokens that a job asks for."""
    return () if packed is None else _decode_demand(packed)


def unpack_tokens(packed: bytes | None) -> Tokens:
    """Return the tokens that an attempt holds."""
    return NO_TOKENS if packed is None else _decode_tokens(packed)


def pack_waits(conditions: Conditions) -> bytes | None:
    """Return what a job waits for besides times and tokens as the database stores it; None: nothing."""
    if conditions is NO_CONDITIONS:
        return None
    waits = _waits(conditions)
    return _encode(waits) if any(waits) else None


def unpack_waits(packed: bytes | None) -> Waits:
    """Return what a job waits for besides times and tokens."""
    return _NO_WAITS if packed is None else _decode_waits(packed)
