"""A job: its states, the moves between them, the outcomes of its attempts, and the verbs."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import NewType

from msgspec import Struct, field

from bgd.core.spec import Backoff, Demand, Duration, Instant, Retries, RetryDelay, Share, Timeout

JobId = NewType("JobId", int)


class State(StrEnum):
    """The state of a job; MOVES lists the allowed transitions."""

    HELD = "held"  # waits for `bgctl release`
    BLOCKED = "blocked"  # waits for other jobs
    SCHEDULED = "scheduled"  # waits for a time: a delay, a date, or the pause before a retry
    QUEUED = "queued"  # waits for a slot
    RUNNING = "running"
    STOPPING = "stopping"  # still running, but being stopped, to be cancelled or to run again later
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


WAITING = frozenset({State.HELD, State.BLOCKED, State.SCHEDULED, State.QUEUED})  # may be held and edited
CANCELLED_BEFORE_START = "cancelled before it started"  # the reason of a job none of whose attempts has begun
EXPIRED = "expired: it could not start in time"
ACTIVE = frozenset({State.RUNNING, State.STOPPING})  # has a process, or is about to get one
MAY_BE_SUSPENDED = ACTIVE | {State.HELD}
FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Move(StrEnum):
    """What takes a job from one state to another."""

    HOLD = "hold"
    RELEASE = "release"
    BLOCK = "block"  # it has to wait for other jobs
    UNBLOCK = "unblock"
    DEFER = "defer"  # it has to wait for a time
    COME_DUE = "come due"
    START = "start"
    SUCCEED = "succeed"
    RETRY = "retry"  # the attempt failed; another one follows after a pause
    GIVE_UP = "give up"
    SNOOZE = "snooze"  # the job asked to run again later
    STOP = "stop"
    REQUEUE = "requeue"  # not the job's fault; the next attempt follows at once
    CANCEL = "cancel"
    REVIVE = "revive"


_TO_WAIT = {Move.BLOCK: State.BLOCKED, Move.DEFER: State.SCHEDULED}
_TO_END = {Move.CANCEL: State.CANCELLED, Move.GIVE_UP: State.FAILED}
_BEFORE_AN_ATTEMPT = {Move.HOLD: State.HELD, **_TO_END}
_AFTER_AN_ATTEMPT = {
    Move.SUCCEED: State.SUCCEEDED,
    Move.RETRY: State.SCHEDULED,
    Move.GIVE_UP: State.FAILED,
    Move.SNOOZE: State.SCHEDULED,
    Move.REQUEUE: State.QUEUED,
}

MOVES: dict[State, dict[Move, State]] = {
    State.HELD: {Move.RELEASE: State.QUEUED, **_TO_WAIT, **_TO_END},
    State.BLOCKED: {Move.UNBLOCK: State.QUEUED, Move.DEFER: State.SCHEDULED, **_BEFORE_AN_ATTEMPT},
    State.SCHEDULED: {Move.COME_DUE: State.QUEUED, Move.BLOCK: State.BLOCKED, **_BEFORE_AN_ATTEMPT},
    State.QUEUED: {
        Move.START: State.RUNNING,
        **_TO_WAIT,
        **_BEFORE_AN_ATTEMPT,
        Move.RETRY: State.SCHEDULED,  # these two: its attempt may have begun, and was lost
        Move.REQUEUE: State.QUEUED,
    },
    State.RUNNING: {Move.STOP: State.STOPPING, **_AFTER_AN_ATTEMPT},
    State.STOPPING: {Move.CANCEL: State.CANCELLED, **_AFTER_AN_ATTEMPT},
    **{state: {Move.REVIVE: State.QUEUED, **_TO_WAIT} for state in FINAL},
}


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    EXIT = "exit"  # ended with another code than 0
    SIGNAL = "signal"  # ended by a signal
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the host, launcher or daemon went down in a known way; uses up no retry
    UNKNOWN = "unknown"  # outcome lost; uses up a retry
    NOT_STARTED = "not_started"  # no such program or directory, not permitted
    OOM = "oom"  # killed because it exceeded its memory limit
    LOG_LIMIT = "log_limit"  # killed because it exceeded its output limit
    REFUSED = "refused"  # no longer allowed by the configuration
    ERROR = "error"  # a class job raised
    SNOOZED = "snoozed"  # a class job asked to run again later; uses up no retry


UNSEEN = frozenset({Outcome.INTERRUPTED, Outcome.UNKNOWN})


class NextStep(StrEnum):
    """What a job wants after an attempt. All except SNOOZE are for failed attempts."""

    RETRY = "retry"  # try again if retries are left
    FAIL = "fail"  # give up, whatever retries are left
    SNOOZE = "snooze"  # run again later, without using up a retry


class Decision(Struct, frozen=True, omit_defaults=True):
    """What a class job decides about its next step, which an exit code alone cannot say.

    `after`: seconds until then; None: as the retry policy says, or at once. `until`: not before this epoch
    time, for SNOOZE only. `rule`: the exception whose configured rule decided; None: the job itself decided.
    """

    step: NextStep = field(name="aim")
    after: Duration | None = None
    until: Instant | None = None
    rule: str | None = None


ExceptionRules = tuple[tuple[str, Decision], ...]
"""The decision after an exception, by the qualified name of its type or of a base class."""


class RetryPolicy(Struct, frozen=True, array_like=True, gc=False, cache_hash=True):
    """When another attempt follows a failed one. Many jobs share one object.

    Delays are seconds from the end of one attempt to the start of the next. The first is `delay`, each later
    one `backoff` times the one before, but at most `max_delay`; several values in `delay` are taken as they
    are. Each is spread by plus or minus the share `jitter`. `rerun` None: rerun an attempt whose outcome was
    lost only if `retries` > 0. `retry_on` and `no_retry_on` are as in a JobSpec. `on_exceptions`: what
    follows an exception, unless the job decides. `has_follow_ups`: whether another job may follow the end.
    `retry_until`: seconds after the submit in which the number of retries has no limit; `ends_at`: when they
    end, in epoch time. `breaker`: the pattern of [classes] that pauses calls like this one after failures.

    The database holds it as an array, so the order of its fields stays.
    """

    retries: Retries = 0
    delay: RetryDelay = 5.0
    backoff: Backoff = 1.0
    max_delay: Duration = 3600.0
    jitter: Share = 0.1
    rerun: bool | None = None
    retry_on: tuple[int, ...] | None = None
    no_retry_on: tuple[int, ...] | None = None
    on_exceptions: ExceptionRules = ()
    has_follow_ups: bool = False
    retry_until: Timeout | None = None
    ends_at: Instant | None = None
    breaker: str | None = None


class Rate(Struct, frozen=True):
    """A number of starts or failures within any `seconds`; `text` is its notation, for example "10/1m"."""

    count: int
    seconds: float
    text: str = ""

    def __str__(self) -> str:
        return self.text


class KeyLimit(Struct, frozen=True, array_like=True, gc=False):
    """A limit by key: at most `places` attempts of jobs with the key run at once.

    `skips`: a job whose turn comes while all places are taken is cancelled instead of waiting.

    The database holds it as an array, so the order of its fields stays.
    """

    key: str
    places: int = 1
    skips: bool = False


class Conditions(Struct, frozen=True, kw_only=True, gc=False):
    """What a job waits for besides its turn, and rare options.

    `at`: do not start before this epoch time. `expires`: when the first attempt must have started, on the
    elapsed clock. `after`, `after_any`: unfinished jobs that must succeed first, or only finish. `target`:
    what a notification is for; it takes one at a time. `limit`: what it takes a place of while it runs.
    `frees_key_at_start`: another job may have its `key` once its first attempt has started. `key_for`: it
    keeps its `key` for this many seconds after its end, unless it is cancelled.
    """

    at: float | None = None
    expires: float | None = None
    after: tuple[JobId, ...] = ()
    after_any: tuple[JobId, ...] = ()
    key: str | None = None
    slots: int = 1
    resources: Demand = ()
    target: str | None = None
    limit: KeyLimit | None = None
    frees_key_at_start: bool = False
    key_for: float | None = None


NO_CONDITIONS = Conditions()


class Job(Struct, frozen=True, gc=False):
    """The part of an unfinished job that decisions need: a million of these fit in memory."""

    id: JobId
    state: State
    queue: str
    priority: int
    policy: RetryPolicy
    attempt: int = 0  # number of the latest attempt, 0 before the first
    failures: int = 0  # attempts that used up a retry since the job was submitted or revived
    unseen: int = 0  # attempts in a row whose outcome was lost
    due: float | None = None  # on the elapsed clock, while it waits and a delay is not over
    making_way: bool = False  # stopping to run again later, not to be cancelled
    conditions: Conditions = NO_CONDITIONS
    suspended: bool = False  # its processes are stopped; held: they were when its attempt ended


class Now(Struct, frozen=True):
    """One instant on two clocks, both in seconds.

    `elapsed` never jumps and runs on while the machine sleeps (CLOCK_BOOTTIME): decisions use it. `wall` is
    epoch time: users see it, and it decides only about jobs with a start date.
    """

    elapsed: float
    wall: float


# --- verbs ----------------------------------------------------------------------------------------------


class Verb(Struct, frozen=True, kw_only=True):
    """What a verb does to jobs.

    * `done`: its past participle.
    * `states`: of jobs that it applies to. `usual`: those of a selection that names none; None: all of them.
    * `accepted`: states of a job that is named by its id; None: the same.
    * `refusal`: why such a job is refused in another state.
    * `done_before`: states of jobs on which a repeated request was already done.
    * `suspended`: whether it applies to suspended jobs or to others; None: to both.
    * `tells_state`: report the new state of a job instead of `done`.
    * `is_repeatable`: a client that lost the answer may send the request again. Not if the second time does
      more than the first (`does_more`), nor if it is refused for a reason that would mislead.
    * `has_fields`: its request has more fields than the jobs. If not, `help` and `examples` make its command
      in bgctl.
    """

    done: str
    states: frozenset[State]
    usual: frozenset[State] | None = None
    accepted: frozenset[State] | None = None
    refusal: str = ""
    done_before: frozenset[State] = frozenset()
    suspended: bool | None = None
    tells_state: bool = True
    is_repeatable: bool = False
    does_more: bool = False
    has_fields: bool = False
    help: str = ""
    examples: tuple[str, ...] = ()

    def states_in(self, named: Collection[State]) -> frozenset[State]:
        """Return the states of jobs that it is for in a selection of these; all of them: it names none."""
        return (
            (self.usual or self.states) if len(set(named)) == len(State) else self.states & frozenset(named)
        )


_RUNNING = frozenset({State.RUNNING})
_HELD = frozenset({State.HELD})

VERBS: dict[str, Verb] = {
    "cancel": Verb(
        done="cancelled",
        states=WAITING | _RUNNING,
        accepted=WAITING | ACTIVE,
        done_before=frozenset({State.CANCELLED}),
        is_repeatable=True,
        help=(
            "Cancel jobs.\n\n"
            "A waiting job never starts. A running job gets its stop signal, and is killed after the grace"
            " time."
        ),
        examples=(
            "bgctl cancel 12",
            "bgctl cancel 3-9 last",
            "bgctl cancel --queue mail --dry-run",
        ),
    ),
    "retry": Verb(
        done="retried",
        states=FINAL,
        usual=frozenset({State.FAILED}),
        refusal="there is nothing to retry",
        does_more=True,
        has_fields=True,
    ),
    "hold": Verb(
        done="held",
        states=WAITING - _HELD,
        accepted=WAITING,
        refusal="only a waiting job can be held (suspend stops a running one)",
        is_repeatable=True,
        help="Keep waiting jobs from starting until they are released.",
        examples=("bgctl hold 12", "bgctl hold --queue mail --yes"),
    ),
    "release": Verb(
        done="released",
        states=_HELD,
        refusal="it is not held",
        done_before=frozenset(State) - _HELD,
        is_repeatable=True,
        help=(
            "Release held jobs.\n\n"
            "They then wait for their turn, their start time or the jobs that they depend on."
        ),
        examples=("bgctl release 12", "bgctl release --state held --tag checked"),
    ),
    "edit": Verb(done="changed", states=WAITING, refusal="only a waiting job can be edited", has_fields=True),
    "suspend": Verb(
        done="suspended",
        states=_RUNNING,
        refusal="only a running job can be suspended",
        done_before=_HELD,
        suspended=False,
        tells_state=False,
        is_repeatable=True,
        help=(
            "Stop the processes of running jobs until `bgctl continue`.\n\n"
            "They keep their slots, and their time limits pause. If an attempt ends all the same, and the job"
            " would run again, it is held until `bgctl continue`."
        ),
        examples=("bgctl suspend 12", "bgctl suspend --queue render --yes"),
    ),
    "continue": Verb(
        done="continued",
        states=_RUNNING | _HELD,
        refusal="only a running or suspended job can be continued (release lets a held one start)",
        done_before=WAITING - _HELD,
        suspended=True,
        tells_state=False,
        is_repeatable=True,
        help="Continue jobs that were suspended or that stopped themselves.",
        examples=("bgctl continue 12", "bgctl continue --queue render --yes"),
    ),
    "signal": Verb(
        done="signalled",
        states=ACTIVE,
        refusal="only a running job can be sent a signal",
        tells_state=False,
        does_more=True,
        has_fields=True,
    ),
    "remove": Verb(
        done="removed",
        states=FINAL,
        refusal="cancel it first",
        tells_state=False,
        help="Delete finished jobs and their logs.\n\nTheir ids are never used again.",
        examples=("bgctl remove 12", "bgctl remove --state succeeded --name 'nightly-*' --dry-run"),
    ),
}
"""By the name of a verb: the tag of its request, and the method of the Scheduler where that decides."""
