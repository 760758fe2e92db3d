"""Retries: the move after the end of an attempt, and the pause before a retry."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, assert_never

from msgspec.structs import replace

from bgd.core.job import Decision, ExceptionRules, Job, Move, NextStep, Now, Outcome, RetryPolicy, State
from bgd.core.spec import FOLLOW_UPS, MAX_DURATION, JobSpec

SHORTEST_SNOOZE = 1.0  # seconds; a job may snooze forever, but not a thousand times a second
MOST_UNSEEN = 3  # lost outcomes in a row; a job that crashes the machine each time must stop

SIGNALLED = 128  # plus the number of the signal

NOT_WORTH_IT = "not retried after an end of this kind (retry_on, no_retry_on)"
NO_USE = "not retried: another attempt would not help"
NO_USE_AFTER = "on_exceptions says that another attempt would not help after {}"
UNSEEN_TOO_OFTEN = f"given up: the outcome of {MOST_UNSEEN} attempts in a row was lost"
TOO_LATE = "not retried: the time limit of retry_until has passed"
NOT_RERUN = "outcome unknown; only jobs with retries or rerun yes run again"


def exit_code_of(outcome: Outcome, exit_code: int | None, signal: int | None) -> int | None:
    """Return the exit code of an attempt as in shells and timeout(1).

    None: it never ran, or its outcome is unknown.
    """
    match outcome:
        case Outcome.SUCCEEDED:
            code: int | None = 0
        case Outcome.EXIT:
            code = exit_code
        case Outcome.SIGNAL:
            code = None if signal is None else SIGNALLED + signal
        case Outcome.ERROR:
            code = 1
        case Outcome.TIMEOUT:
            code = 124
        case Outcome.OOM | Outcome.LOG_LIMIT:
            code = SIGNALLED + 9  # SIGKILL
        case Outcome.CANCELLED:
            code = SIGNALLED + 15  # SIGTERM
        case Outcome.NOT_STARTED | Outcome.REFUSED | Outcome.SNOOZED | Outcome.INTERRUPTED | Outcome.UNKNOWN:
            code = None
        case _:
            assert_never(outcome)
    return code


def move_after_end(  # noqa: PLR0911 - one for each kind of outcome
    job: Job, outcome: Outcome, code: int | None, decision: Decision | None = None
) -> tuple[Move, str | None]:
    """Return the move after an attempt of an active job ended, and a reason for users.

    `code`: from `exit_code_of`. `decision`: the job's own, or that of a rule. The reason is None if the
    outcome says enough.
    """
    if job.state is State.STOPPING and outcome is not Outcome.SUCCEEDED:
        if not job.making_way:
            return Move.CANCEL, None
        if outcome is Outcome.CANCELLED:
            return Move.REQUEUE, None
    match outcome:
        case Outcome.SUCCEEDED:
            return Move.SUCCEED, None
        case Outcome.INTERRUPTED | Outcome.UNKNOWN:
            return _move_after_unseen_end(job, outcome)
        case Outcome.REFUSED | Outcome.CANCELLED:  # cancelled at the launcher by hand, not by bgd
            return Move.GIVE_UP, None
        case Outcome.SNOOZED:
            return Move.SNOOZE, None
        case (
            Outcome.EXIT
            | Outcome.SIGNAL
            | Outcome.TIMEOUT
            | Outcome.NOT_STARTED
            | Outcome.OOM
            | Outcome.LOG_LIMIT
            | Outcome.ERROR
        ):
            return _move_after_failure(job, code, decision)
        case _:
            assert_never(outcome)


def recorded_outcome(job: Job, outcome: Outcome) -> Outcome:
    """Return the outcome to record: an attempt that was stopped to run again later was not cancelled."""
    return Outcome.INTERRUPTED if job.making_way and outcome is Outcome.CANCELLED else outcome


def wait_after(
    move: Move, job: Job, now: Now, roll: float, decision: Decision | None
) -> tuple[float | None, float | None]:
    """Return the end of the wait after this move, on the elapsed clock and on the wall clock.

    At most one of the two is set. `job.failures` counts the attempt that has just failed; `roll` as in
    `retry_delay`.
    """
    after = None if decision is None else decision.after
    if move is Move.SNOOZE and decision is not None and decision.until is not None:
        return None, max(decision.until, now.wall + SHORTEST_SNOOZE)
    if move is Move.SNOOZE:
        return now.elapsed + max(after or 0.0, SHORTEST_SNOOZE), None
    if move is not Move.RETRY:
        return None, None
    delay = retry_delay(job.policy, job.failures, roll) if after is None else after
    if job.policy.ends_at is not None:
        delay = max(delay, SHORTEST_SNOOZE)
    return now.elapsed + delay, None


def with_end(policy: RetryPolicy, now: Now, old: RetryPolicy | None = None) -> RetryPolicy:
    """Return the policy of a job from now on, with the instant at which its retries end.

    `old`: the one that it had. If `retry_until` has not changed, the instant stays.
    """
    if old is not None and old.retry_until == policy.retry_until:
        return replace(policy, ends_at=old.ends_at)
    return replace(policy, ends_at=None if policy.retry_until is None else now.wall + policy.retry_until)


def retry_delay(policy: RetryPolicy, failures: int, roll: float) -> float:
    """Return the seconds to wait after the `failures`-th failed attempt (counted from 1).

    It is delay * backoff**(failures - 1), at most max_delay, or the one of several delays; spread by plus or
    minus jitter. `roll` in [0, 1) picks the place in that spread.
    """
    spread = 1 + policy.jitter * (2 * roll - 1)
    if isinstance(policy.delay, tuple):
        return min(policy.delay[min(failures, len(policy.delay)) - 1] * spread, MAX_DURATION)
    if policy.delay == 0:
        return 0.0
    try:
        base = min(policy.delay * policy.backoff ** (failures - 1), policy.max_delay)
    except OverflowError:  # 100.0 ** 999 is too large for a float, so it is over any max_delay
        base = policy.max_delay
    return min(base * spread, policy.max_delay)


def decision_for(names: Iterable[str], rules: ExceptionRules) -> Decision | None:
    """Return the decision of the rules about an exception, with the name that matched; None: no rule matches.

    `names` are those of its type and its base classes, nearest first. The first that has a rule counts.
    """
    by_name = dict(rules)
    return next((replace(by_name[name], rule=name) for name in names if name in by_name), None)


def policy_of(
    spec: JobSpec, default: RetryPolicy, on_exceptions: ExceptionRules = (), breaker: str | None = None
) -> RetryPolicy:
    """Return the policy of a job: from its spec, else `default`.

    Rules for exceptions and the breaker come only from the configuration.
    """
    if _asked(spec) == _NOTHING and not on_exceptions and breaker is None:
        return default  # as for most jobs
    given = {field: value for field, name in _OPTIONS.items() if (value := getattr(spec, name)) is not None}
    return replace(
        default,
        **given,
        retry_on=spec.retry_on,
        no_retry_on=spec.no_retry_on,
        on_exceptions=on_exceptions,
        has_follow_ups=any(getattr(spec, name) for name in FOLLOW_UPS),
        retry_until=spec.retry_until,
        breaker=breaker,
    )


def with_policy(spec: JobSpec, policy: RetryPolicy) -> JobSpec:
    """Return the spec with the policy in it, so that a later configuration does not change this job."""
    return replace(spec, **options_of(policy))


def options_of(policy: RetryPolicy) -> dict[str, Any]:
    """Return what a policy says of each option that a job may leave to the configuration."""
    return {name: getattr(policy, field) for field, name in _OPTIONS.items()}


# The options of a job by their fields in its policy, which the configuration has too
_OPTIONS = {"retries": "retries", "delay": "retry_delay", "rerun": "rerun"} | {
    name: name for name in ("backoff", "max_delay", "jitter")
}
_asked = attrgetter(*_OPTIONS.values(), "retry_on", "no_retry_on", "retry_until", *FOLLOW_UPS)
_NOTHING = _asked(JobSpec())


def _move_after_failure(job: Job, code: int | None, decision: Decision | None) -> tuple[Move, str | None]:
    if decision is not None and decision.step is NextStep.FAIL:
        return Move.GIVE_UP, NO_USE if decision.rule is None else NO_USE_AFTER.format(decision.rule)
    if not _may_retry(job):
        return Move.GIVE_UP, None
    if decision is not None:  # the job knows better than its exit code
        return Move.RETRY, None
    return (Move.RETRY, None) if _is_worth_it(job.policy, code) else (Move.GIVE_UP, NOT_WORTH_IT)


def _may_retry(job: Job) -> bool:
    """Return whether a failed job has retries left; the end of their time counts later, with the pause."""
    return job.policy.ends_at is not None or job.failures < job.policy.retries


def _is_worth_it(policy: RetryPolicy, code: int | None) -> bool:
    if policy.retry_on is not None:
        return code in policy.retry_on
    return policy.no_retry_on is None or code not in policy.no_retry_on


def _move_after_unseen_end(job: Job, outcome: Outcome) -> tuple[Move, str | None]:
    if job.unseen + 1 >= MOST_UNSEEN:
        return Move.GIVE_UP, UNSEEN_TOO_OFTEN
    policy = job.policy
    has_retries = policy.retries > 0 or policy.ends_at is not None
    asked = policy.rerun is True or (policy.rerun is None and has_retries)
    if not asked:
        return Move.GIVE_UP, NOT_RERUN
    if outcome is Outcome.INTERRUPTED:
        return Move.REQUEUE, None
    if policy.rerun is True or _may_retry(job):
        return Move.RETRY, None
    return Move.GIVE_UP, None
