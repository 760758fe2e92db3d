"""A job: the states of its life, the one table of moves between them, and how its attempts may end."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

from msgspec import Struct

from bgd.core.decision import ExceptionRules
from bgd.core.spec import Backoff, Duration, Retries, Share

# --- The disk


BALLAST = 8 << 20  # bytes
_SHARE = 16  # of a small disk a sixteenth


def ballast_on(size: int) -> int:
    """Return how many bytes that is on a disk of `size` bytes; logs leave as many free."""
    return min(BALLAST, size // _SHARE)


JobId = NewType("JobId", int)


class State(StrEnum):
    HELD = "held"  # waits for a person
    BLOCKED = "blocked"  # waits for other jobs
    SCHEDULED = "scheduled"  # waits for a time: a delay, or the pause before a retry
    QUEUED = "queued"  # waits for a slot
    RUNNING = "running"
    STOPPING = "stopping"  # still running, asked to end: to be cancelled, or to make way and run later
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
ACTIVE = frozenset({State.RUNNING, State.STOPPING})  # has a process, or is about to get one


WAITING = frozenset({State.HELD, State.BLOCKED, State.SCHEDULED, State.QUEUED})  # may be held and edited


class Move(StrEnum):
    HOLD = "hold"
    RELEASE = "release"
    BLOCK = "block"  # it has to wait for other jobs
    UNBLOCK = "unblock"
    DEFER = "defer"  # it has to wait for a time
    COME_DUE = "come due"
    START = "start"
    SUCCEED = "succeed"
    RETRY = "retry"  # the attempt failed; another one after a pause
    GIVE_UP = "give up"
    SNOOZE = "snooze"  # the job asked to run again later
    STOP = "stop"
    REQUEUE = "requeue"  # not the job's fault: another attempt at once
    CANCEL = "cancel"
    REVIVE = "revive"


_BEFORE_AN_ATTEMPT = {Move.HOLD: State.HELD, Move.CANCEL: State.CANCELLED}
_AFTER_AN_ATTEMPT = {
    Move.SUCCEED: State.SUCCEEDED,
    Move.RETRY: State.SCHEDULED,
    Move.GIVE_UP: State.FAILED,
    Move.SNOOZE: State.SCHEDULED,
    Move.REQUEUE: State.QUEUED,
}

MOVES: dict[State, dict[Move, State]] = {
    State.HELD: {
        Move.RELEASE: State.QUEUED,
        Move.BLOCK: State.BLOCKED,
        Move.DEFER: State.SCHEDULED,
        Move.CANCEL: State.CANCELLED,
    },
    State.BLOCKED: {Move.UNBLOCK: State.QUEUED, Move.DEFER: State.SCHEDULED, **_BEFORE_AN_ATTEMPT},
    State.SCHEDULED: {Move.COME_DUE: State.QUEUED, Move.BLOCK: State.BLOCKED, **_BEFORE_AN_ATTEMPT},
    State.QUEUED: {
        Move.START: State.RUNNING,
        Move.BLOCK: State.BLOCKED,
        Move.DEFER: State.SCHEDULED,
        **_BEFORE_AN_ATTEMPT,
    },
    State.RUNNING: {Move.STOP: State.STOPPING, **_AFTER_AN_ATTEMPT},
    State.STOPPING: {Move.CANCEL: State.CANCELLED, **_AFTER_AN_ATTEMPT},
    State.SUCCEEDED: {Move.REVIVE: State.QUEUED},
    State.FAILED: {Move.REVIVE: State.QUEUED},
    State.CANCELLED: {Move.REVIVE: State.QUEUED},
}


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    EXIT = "exit"  # ended with another code than 0
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # host or launcher went down in a known way; uses up no retry
    UNKNOWN = "unknown"  # nobody saw it end; uses up a retry
    NOT_STARTED = "not_started"  # no such program or directory, not permitted
    OOM = "oom"  # it took more memory than it may, and was killed for it
    LOG_LIMIT = "log_limit"
    REFUSED = "refused"  # no longer allowed by the configuration
    ERROR = "error"  # a class job raised
    SNOOZED = "snoozed"  # a class job asked to run again later; uses up no retry


UNSEEN = frozenset({Outcome.INTERRUPTED, Outcome.UNKNOWN})


class RetryPolicy(Struct, frozen=True, array_like=True, gc=False):
    """When a failed attempt is followed by another. Many jobs share one object.

    Delays are seconds from the end of one attempt to the start of the next: `delay`, each `backoff`
    times the one before, at most `max_delay`, spread by plus or minus the share `jitter`.
    `rerun` None: an attempt whose end nobody saw is run again only if `retries` > 0. `retry_on` and
    `no_retry_on` are as in a JobSpec. `on_exceptions`: what a class job's exceptions mean, unless it says so.
    """

    retries: Retries = 0
    delay: Duration = 5.0
    backoff: Backoff = 1.0
    max_delay: Duration = 3600.0
    jitter: Share = 0.1
    rerun: bool | None = None
    retry_on: tuple[int, ...] | None = None
    no_retry_on: tuple[int, ...] | None = None
    on_exceptions: ExceptionRules = ()


class Conditions(Struct, frozen=True, kw_only=True, gc=False):
    """What only some jobs ask for beyond their turn.

    `at`: not before this epoch time. `expires`: when the first attempt must have started, on the elapsed
    clock. `after`, `after_any`: the unfinished jobs that still have to succeed, or to finish, before.
    """

    at: float | None = None
    expires: float | None = None
    after: tuple[JobId, ...] = ()
    after_any: tuple[JobId, ...] = ()
    key: str | None = None
    slots: int = 1


NO_CONDITIONS = Conditions()


class Job(Struct, frozen=True, gc=False):
    """What deciding about an unfinished job needs: a million of these are held in memory, so no more."""

    id: JobId
    state: State
    queue: str
    priority: int
    policy: RetryPolicy
    attempt: int = 0  # number of the latest attempt, 0 before the first
    failures: int = 0  # attempts that used up a retry since submit or the last revival
    unseen: int = 0  # attempts in a row whose end nobody saw
    due: float | None = None  # on the elapsed clock, while it waits and a delay is not over
    making_way: bool = False  # stopping in order to run again later, not to be cancelled
    conditions: Conditions = NO_CONDITIONS
    suspended: bool = False  # running, its processes stopped


class Now(Struct, frozen=True):
    """One instant on two clocks, both in seconds.

    `elapsed` never jumps and counts suspend (CLOCK_BOOTTIME): decisions use it. `wall` is epoch time: it is
    written down for people, and decides only what was asked for at a date.
    """

    elapsed: float
    wall: float
