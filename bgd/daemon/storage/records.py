"""What the store takes and gives: one struct a fact about a job or an attempt."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import Struct

from bgd.core.job import Conditions, Decision, Job, JobId, Now, Outcome, RetryPolicy, State
from bgd.core.spec import JobSpec
from bgd.wire.views import JobError, JobProgress

# --- What one column of the database holds of a structured value: retry policies, and what a job waits for.


Waits = tuple[tuple[JobId, ...], tuple[JobId, ...]]  # Conditions.after and Conditions.after_any

NO_WAITS: Waits = ((), ())

_MOST_POLICIES = 1024

_encode = msgspec.msgpack.Encoder().encode
_decode_policy = msgspec.msgpack.Decoder(RetryPolicy).decode
_decode_waits = msgspec.msgpack.Decoder(Waits).decode


@lru_cache(_MOST_POLICIES)
def pack_policy(policy: RetryPolicy) -> bytes:
    return _encode(policy)


@lru_cache(_MOST_POLICIES)
def unpack_policy(packed: bytes) -> RetryPolicy:
    """Return the policy; of equal ones the same object, which a million jobs may share."""
    return _decode_policy(packed)


def pack_waits(conditions: Conditions) -> bytes | None:
    """Return what the job waits for, None where that is nothing."""
    return (
        _encode((conditions.after, conditions.after_any))
        if conditions.after or conditions.after_any
        else None
    )


def unpack_waits(packed: bytes | None) -> Waits:
    return NO_WAITS if packed is None else _decode_waits(packed)


class NewJob(Struct, frozen=True, gc=False):
    """A job that was just taken. Its environment is stored apart, once for all jobs that share it."""

    job: Job
    spec: JobSpec
    uid: int
    at: float


class SavedJob(Struct, frozen=True):
    """A job as it stands since `at`; `reason` says why where state and outcome do not."""

    job: Job
    at: float
    reason: str | None = None


class JobEvent(Struct, frozen=True, array_like=True, gc=False):
    """What happened to a job: a piece of the change stream (see `bgd.wire.views.EventView`).

    Packed on disk field by field, so new ones go to the end and have a default.
    """

    at: float
    job: JobId
    what: str
    state: State
    attempt: int
    outcome: Outcome | None
    reason: str | None


class QueueSetting(Struct, frozen=True, kw_only=True):
    """What was said of a queue while the daemon ran; `slots` counts only if `has_slots`, None: no limit."""

    has_slots: bool = False
    slots: int | None = None
    paused: bool = False


class QueueControls(Struct, frozen=True, kw_only=True):
    """What was said of slots and queues while the daemon ran; `slots` None: as configured."""

    slots: int | None = None
    paused: bool = False
    queues: dict[str, QueueSetting] = {}


class NewAttempt(Struct, frozen=True):
    """An attempt about to be sent to the launcher whose instance id is `launcher`."""

    job: JobId
    attempt: int
    slot: int
    launcher: str
    at: float


class AttemptPid(Struct, frozen=True):
    """The attempt's process runs; pid None: it is about to. `since`: its start on the elapsed clock."""

    job: JobId
    attempt: int
    pid: int | None
    started_at: float
    since: float | None = None


class AttemptEnd(Struct, frozen=True, kw_only=True):
    """How an attempt ended. `result` is JSON text; None where there is nothing, or where it is known already.

    `log_bytes` is what it wrote, `log_kept` what of that is on disk.

    `decision` and `lineage`, as in an AttemptReport, are not saved: nothing needs them after this.
    """

    job: JobId
    attempt: int
    outcome: Outcome
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
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
    error: JobError | None = None
    result: str | None = None
    decision: Decision | None = None
    lineage: tuple[str, ...] = ()


class Submission(Struct, frozen=True):
    """A request that made jobs: its token, and its answer. `first` is the id of its first new job.

    `jobs` and `found` as of `bgd.wire.replies.Submitted`.
    """

    first: JobId
    token: bytes
    jobs: list[int]
    found: list[int]


class WriteBatch(Struct, kw_only=True):
    """Everything one transaction writes, and the specs it reads back.

    `relaunched`: attempts already stored that go to another launcher. `wanted`: jobs whose specs are read
    back in the same transaction. `now`: the instant that turns due times of the elapsed clock into epoch
    time. `edited`: jobs whose specs are replaced. `removed`: finished jobs of which all rows go. `cleared`:
    jobs removed earlier, whose logs are off the disk. `controls`: all that is said of slots and queues from
    now on, None: nothing has changed. `progress`: what attempts have said of themselves. `submissions`: in
    the order of their jobs.
    """

    now: Now
    new: list[NewJob] = []
    saves: dict[JobId, SavedJob] = {}
    attempts: list[NewAttempt] = []
    relaunched: list[NewAttempt] = []
    pids: list[AttemptPid] = []
    ends: list[AttemptEnd] = []
    wanted: list[JobId] = []
    events: list[JobEvent] = []
    edited: dict[JobId, JobSpec] = {}
    removed: list[JobId] = []
    cleared: list[JobId] = []
    controls: QueueControls | None = None
    progress: dict[JobId, JobProgress] = {}
    submissions: list[Submission] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write and nothing to read back."""
        return not (
            self.new
            or self.saves
            or self.attempts
            or self.relaunched
            or self.pids
            or self.ends
            or self.wanted
            or self.events
            or self.edited
            or self.removed
            or self.cleared
            or self.controls
            or self.progress
            or self.submissions
        )


class StoredSpec(Struct, frozen=True):
    """What was asked for, with its environment filled in (None if it had none)."""

    spec: JobSpec
    uid: int
    created_at: float


class UnfinishedJob(Struct, frozen=True, gc=False):
    """An unfinished job; slot and launcher's instance id of its attempt if it is active, else None."""

    job: Job
    slot: int | None
    launcher: str | None


class RecentStats(Struct, frozen=True, kw_only=True):
    """What happened of late: the fields of these names in `bgd.wire.replies.Stats`."""

    outcomes: dict[str, int]
    wait_median: float | None
    wait_p95: float | None
    run_median: float | None
    run_p95: float | None
    oldest_queued_at: float | None
