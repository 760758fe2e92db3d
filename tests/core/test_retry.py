from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.job import Decision, Job, JobId, Move, NextStep, Now, Outcome, RetryPolicy, State
from bgd.core.retry import (
    NO_USE,
    NOT_RERUN,
    NOT_WORTH_IT,
    TOO_LATE,
    UNSEEN_TOO_OFTEN,
    exit_code_of,
    move_after_end,
    policy_of,
    recorded_outcome,
    retry_delay,
    wait_after,
    with_policy,
)
from bgd.core.spec import MAX_DURATION, MAX_RETRIES, JobSpec
from tests.core.scheduling import at, make_scheduler, submit

MIDDLE = 0.5  # the roll that does not change a delay
RETRY = Decision(NextStep.RETRY)

durations = st.floats(0, MAX_DURATION)
failures = st.integers(1, MAX_RETRIES)
rolls = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    RetryPolicy,
    retries=st.just(MAX_RETRIES),
    delay=durations,
    backoff=st.floats(1, 100),
    max_delay=durations,
    jitter=st.floats(0, 1),
)


def running(**fields):
    values = {"policy": RetryPolicy(retries=2), "state": State.RUNNING, "attempt": 1, **fields}
    return Job(id=JobId(1), queue="default", priority=0, **values)


def stopping(*, making_way, **fields):
    return running(state=State.STOPPING, making_way=making_way, **fields)


# --- how long a retry waits ----------------------------------------------------------------------------


@given(policies, failures, rolls)
def test_a_delay_is_never_negative_nor_over_max_delay(policy, failures, roll):
    assert 0 <= retry_delay(policy, failures, roll) <= policy.max_delay


@given(policies, failures, rolls)
def test_jitter_spreads_a_delay_by_its_share(policy, failures, roll):
    middle = retry_delay(policy, failures, MIDDLE)

    spread = abs(retry_delay(policy, failures, roll) - middle)

    rounding = 4 * sys.float_info.epsilon  # of two products and their difference
    assert spread <= middle * (policy.jitter + rounding)


@given(policies)
def test_delays_grow_from_failure_to_failure(policy):
    delays = [retry_delay(policy, count, MIDDLE) for count in range(1, 50)]

    assert delays == sorted(delays)


@pytest.mark.parametrize("delay", [5e-324, 1e-308, 1e-300, 1.0, MAX_DURATION])
def test_the_last_retry_of_the_steepest_backoff_waits_max_delay(delay):
    policy = RetryPolicy(retries=MAX_RETRIES, delay=delay, backoff=100.0, max_delay=MAX_DURATION)

    assert retry_delay(policy, MAX_RETRIES, MIDDLE) == MAX_DURATION


def test_each_delay_is_backoff_times_the_one_before():
    policy = RetryPolicy(retries=5, delay=5.0, backoff=2.0, max_delay=30.0, jitter=0.0)

    assert [retry_delay(policy, count, 0.9) for count in range(1, 6)] == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_the_roll_reaches_both_ends_of_the_spread():
    policy = RetryPolicy(delay=10.0, jitter=0.1)

    assert retry_delay(policy, 1, 0.0) == pytest.approx(9.0)
    assert retry_delay(policy, 1, 1 - 1e-12) == pytest.approx(11.0)


def test_a_delay_of_zero_stays_zero_whatever_the_backoff():
    assert retry_delay(RetryPolicy(delay=0.0, backoff=100.0), MAX_RETRIES, 0.9) == 0.0


def test_max_delay_applies_to_the_first_retry_too():
    assert retry_delay(RetryPolicy(delay=5.0, max_delay=1.0, jitter=0.0), 1, MIDDLE) == 1.0


# --- which move follows an end -------------------------------------------------------------------------

FAILURES = [
    Outcome.EXIT,
    Outcome.SIGNAL,
    Outcome.TIMEOUT,
    Outcome.NOT_STARTED,
    Outcome.OOM,
    Outcome.LOG_LIMIT,
    Outcome.ERROR,
]
UNSEEN = [Outcome.UNKNOWN, Outcome.INTERRUPTED]


@pytest.mark.parametrize("job", [running(), stopping(making_way=True), stopping(making_way=False)])
def test_success_counts_even_if_the_job_was_to_be_stopped(job):
    assert move_after_end(job, Outcome.SUCCEEDED, None) == (Move.SUCCEED, None)


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_failure_is_retried_until_the_retries_are_used_up(outcome):
    moves = [move_after_end(running(failures=count), outcome, None) for count in range(4)]

    assert moves == [(Move.RETRY, None), (Move.RETRY, None), (Move.GIVE_UP, None), (Move.GIVE_UP, None)]


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.CANCELLED])
def test_a_refused_job_or_one_killed_by_hand_is_not_retried(outcome):
    assert move_after_end(running(), outcome, None) == (Move.GIVE_UP, None)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED])
def test_a_job_that_should_be_cancelled_is_cancelled_however_it_ends(outcome):
    assert move_after_end(stopping(making_way=False), outcome, None) == (Move.CANCEL, None)


def test_a_requeued_job_runs_again_at_once_even_without_retries():
    job = stopping(making_way=True, failures=2)

    assert move_after_end(job, Outcome.CANCELLED, None) == (Move.REQUEUE, None)
    assert recorded_outcome(job, Outcome.CANCELLED) is Outcome.INTERRUPTED


def test_any_other_end_is_recorded_as_it_was():
    assert recorded_outcome(stopping(making_way=False), Outcome.CANCELLED) is Outcome.CANCELLED
    assert [recorded_outcome(stopping(making_way=True), each) for each in FAILURES] == FAILURES


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_job_that_fails_by_itself_while_it_is_requeued_has_failed(outcome):
    assert move_after_end(stopping(making_way=True), outcome, None) == (Move.RETRY, None)


@pytest.mark.parametrize("outcome", UNSEEN)
@pytest.mark.parametrize(
    "policy", [RetryPolicy(), RetryPolicy(rerun=False), RetryPolicy(retries=3, rerun=False)]
)
def test_an_attempt_with_an_unseen_end_is_not_run_again_unasked(policy, outcome):
    assert move_after_end(running(policy=policy), outcome, None) == (Move.GIVE_UP, NOT_RERUN)


@pytest.mark.parametrize(
    "policy", [RetryPolicy(retries=1), RetryPolicy(rerun=True), RetryPolicy(retries=1, rerun=True)]
)
def test_an_interruption_uses_up_no_retry(policy):
    job = running(policy=policy, failures=policy.retries)

    assert move_after_end(job, Outcome.INTERRUPTED, None) == (Move.REQUEUE, None)


def test_an_unknown_end_uses_up_a_retry():
    moves = [move_after_end(running(failures=count), Outcome.UNKNOWN, None) for count in range(3)]

    assert moves == [(Move.RETRY, None), (Move.RETRY, None), (Move.GIVE_UP, None)]


def test_an_unknown_end_is_run_again_beyond_the_retries_if_rerun_says_so():
    job = running(policy=RetryPolicy(rerun=True), failures=7)

    assert move_after_end(job, Outcome.UNKNOWN, None) == (Move.RETRY, None)


@pytest.mark.parametrize("outcome", UNSEEN)
@pytest.mark.parametrize("policy", [RetryPolicy(retries=9), RetryPolicy(rerun=True)])
def test_a_job_is_given_up_after_three_unseen_ends_in_a_row(policy, outcome):
    moves = [move_after_end(running(policy=policy, unseen=count), outcome, None) for count in range(3)]

    assert [move is Move.GIVE_UP for move, _ in moves] == [False, False, True]
    assert moves[-1] == (Move.GIVE_UP, UNSEEN_TOO_OFTEN)


@pytest.mark.parametrize(
    ("policy", "again", "no_more"),
    [
        (RetryPolicy(retries=1, retry_on=(75, 124)), [75, 124], [1, 0, None]),
        (RetryPolicy(retries=1, no_retry_on=(2,)), [1, 75, None], [2]),
        (RetryPolicy(retries=1, retry_on=()), [], [1, 75, None]),
    ],
)
def test_exit_codes_decide_whether_a_failure_is_retried(policy, again, no_more):
    def move(code):
        return move_after_end(running(policy=policy), Outcome.EXIT, code)

    assert {move(code) for code in again} <= {(Move.RETRY, None)}
    assert {move(code) for code in no_more} == {(Move.GIVE_UP, NOT_WORTH_IT)}


def test_a_job_that_asks_for_a_retry_gets_it_whatever_its_exit_code():
    job = running(policy=RetryPolicy(retries=1, retry_on=(75,)))

    assert move_after_end(job, Outcome.ERROR, 1, RETRY) == (Move.RETRY, None)


def test_a_job_that_asks_for_a_retry_gets_no_additional_one():
    assert move_after_end(running(failures=2), Outcome.ERROR, 1, RETRY) == (Move.GIVE_UP, None)


def test_a_job_that_decides_to_fail_is_not_retried():
    assert move_after_end(running(), Outcome.ERROR, 1, Decision(NextStep.FAIL)) == (Move.GIVE_UP, NO_USE)


def test_a_job_that_a_rule_gives_up_is_not_said_to_have_decided_it():
    move, reason = move_after_end(running(), Outcome.ERROR, 1, Decision(NextStep.FAIL, rule="ValueError"))

    assert move is Move.GIVE_UP
    assert reason == "on_exceptions says that another attempt would not help after ValueError"


@pytest.mark.parametrize("job", [running(failures=2), stopping(making_way=True)])
def test_a_job_that_snoozes_runs_again_with_or_without_retries(job):
    assert move_after_end(job, Outcome.SNOOZED, None, Decision(NextStep.SNOOZE)) == (Move.SNOOZE, None)


@pytest.mark.parametrize("aim", NextStep)
def test_a_job_that_should_be_cancelled_is_cancelled_whatever_it_decides(aim):
    outcome = Outcome.SNOOZED if aim is NextStep.SNOOZE else Outcome.ERROR

    assert move_after_end(stopping(making_way=False), outcome, 1, Decision(aim)) == (Move.CANCEL, None)


@pytest.mark.parametrize(
    ("move", "decision", "until"),
    [
        (Move.RETRY, None, (15.0, None)),
        (Move.RETRY, Decision(NextStep.RETRY), (15.0, None)),
        (Move.RETRY, Decision(NextStep.RETRY, after=0.0), (10.0, None)),
        (Move.RETRY, Decision(NextStep.RETRY, after=7200.0), (7210.0, None)),  # it may be over max_delay
        (Move.SNOOZE, Decision(NextStep.SNOOZE, after=60.0), (70.0, None)),
        (Move.SNOOZE, Decision(NextStep.SNOOZE, after=0.0), (11.0, None)),
        (Move.SNOOZE, Decision(NextStep.SNOOZE), (11.0, None)),
        (Move.SNOOZE, Decision(NextStep.SNOOZE, until=1e9 + 60), (None, 1e9 + 60)),
        (Move.SNOOZE, Decision(NextStep.SNOOZE, until=5.0), (None, 1e9 + 1)),
        (Move.SNOOZE, None, (11.0, None)),
        (Move.GIVE_UP, Decision(NextStep.FAIL), (None, None)),
        (Move.SUCCEED, None, (None, None)),
    ],
)
def test_a_job_waits_as_long_as_it_says(move, decision, until):
    job = running(policy=RetryPolicy(retries=2, delay=5.0, jitter=0.0), failures=1)

    assert wait_after(move, job, Now(elapsed=10.0, wall=1e9), MIDDLE, decision) == until


def test_exit_codes_do_not_matter_once_the_retries_are_used_up():
    job = running(policy=RetryPolicy(retries=2, retry_on=(75,)), failures=2)

    assert move_after_end(job, Outcome.EXIT, 1) == (Move.GIVE_UP, None)


@pytest.mark.parametrize(
    ("outcome", "exit_code", "signal", "code"),
    [
        (Outcome.SUCCEEDED, None, None, 0),
        (Outcome.EXIT, 75, None, 75),
        (Outcome.SIGNAL, None, 9, 137),
        (Outcome.SIGNAL, None, None, None),
        (Outcome.TIMEOUT, None, 15, 124),
        (Outcome.OOM, None, 9, 137),
        (Outcome.LOG_LIMIT, None, 9, 137),
        (Outcome.CANCELLED, None, 9, 143),
        (Outcome.ERROR, 70, None, 1),
        (Outcome.NOT_STARTED, None, None, None),
        (Outcome.UNKNOWN, None, None, None),
    ],
)
def test_an_end_has_the_code_that_shells_give_it(outcome, exit_code, signal, code):
    assert exit_code_of(outcome, exit_code, signal) == code


def test_every_outcome_has_a_move_in_every_active_state():
    jobs = [running(), stopping(making_way=True), stopping(making_way=False)]

    for job, outcome in itertools.product(jobs, Outcome):
        assert move_after_end(job, outcome, None)[0] in Move


# --- the policy of a job -------------------------------------------------------------------------------

DEFAULT = RetryPolicy(retries=3, delay=5.0, backoff=2.0, max_delay=60.0, jitter=0.5, rerun=True)


def test_a_spec_without_retry_options_takes_the_default_policy():
    assert policy_of(JobSpec(argv=("true",)), DEFAULT) == DEFAULT


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"retries": 0}, "retries"),
        ({"retry_delay": 0.0}, "delay"),
        ({"backoff": 1.0}, "backoff"),
        ({"max_delay": 0.0}, "max_delay"),
        ({"jitter": 0.0}, "jitter"),
        ({"rerun": False}, "rerun"),
        ({"retry_on": (75,)}, "retry_on"),
        ({"no_retry_on": ()}, "no_retry_on"),
    ],
)
def test_a_spec_overrides_the_default_even_with_zero(options, field):
    (value,) = options.values()

    assert policy_of(JobSpec(argv=("true",), **options), DEFAULT) == replace(DEFAULT, **{field: value})


@given(policies)
def test_a_policy_written_into_a_spec_is_read_from_it_whatever_the_default(policy):
    spec = with_policy(JobSpec(argv=("true",), priority=7), policy)

    assert policy_of(spec, DEFAULT) == replace(policy, rerun=policy.rerun if spec.rerun is not None else True)
    assert (spec.argv, spec.priority) == (("true",), 7)


# --- several pauses, and an end of all retries ----------------------------------------------------------


def test_several_pauses_follow_each_other_and_the_last_one_repeats():
    policy = RetryPolicy(delay=(10.0, 20.0, 7200.0), backoff=2.0, max_delay=15.0, jitter=0.0)

    assert [retry_delay(policy, count, 0.9) for count in range(1, 6)] == [10.0, 20.0, 7200.0, 7200.0, 7200.0]


def test_several_pauses_are_spread_too():
    policy = RetryPolicy(delay=(10.0, MAX_DURATION), jitter=0.1)

    assert retry_delay(policy, 1, 0.0) == pytest.approx(9.0)
    assert retry_delay(policy, 2, 1.0) == MAX_DURATION


UNTIL = RetryPolicy(retries=0, delay=0.0, jitter=0.0, retry_until=100.0)


def failed_at(scheduler, job, elapsed, outcome=Outcome.EXIT):
    """Start what is due, and end the attempt of the job; return its next state."""
    scheduler.advance(at(elapsed))
    assert scheduler.ended(job, scheduler.get(job).attempt, outcome, at(elapsed))
    left = scheduler.get(job)
    return State.FAILED if left is None else left.state


def test_a_job_is_retried_until_the_time_is_over_however_often():
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL)

    states = [failed_at(scheduler, job, elapsed) for elapsed in (10.0, 30.0, 50.0, 70.0, 98.0)]
    assert set(states) == {State.SCHEDULED}
    assert failed_at(scheduler, job, 99.5) is State.FAILED  # the next one would start after a second
    [*_, last] = scheduler.take_effects()
    assert (last.what, last.reason) == (Move.GIVE_UP, TOO_LATE)


def test_no_retry_starts_after_the_time_even_if_it_is_due_before():
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL)
    other = submit(scheduler, priority=9)
    assert failed_at(scheduler, job, 90.0) is State.SCHEDULED
    scheduler.advance(at(91.0))
    assert scheduler.get(other).state is State.RUNNING
    assert scheduler.get(job).state is State.QUEUED
    assert scheduler.next_timer_at() == 100.0

    scheduler.take_effects()
    scheduler.advance(at(100.0))
    [ended] = scheduler.take_effects()
    assert (ended.job.id, ended.job.state) == (job, State.FAILED)
    assert (ended.what, ended.reason) == (Move.GIVE_UP, TOO_LATE)


def test_a_retry_in_time_runs_on_after_the_time():
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL)
    failed_at(scheduler, job, 90.0)
    scheduler.advance(at(91.0))
    scheduler.advance(at(200.0))

    assert scheduler.get(job).state is State.RUNNING


def test_the_time_counts_again_for_a_job_that_a_person_retries():
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL)
    scheduler.advance(at(99.5))
    scheduler.ended(job, 1, Outcome.EXIT, at(99.5))
    [*_, failed] = scheduler.take_effects()

    scheduler.revive(failed.job, at(500.0))
    assert failed_at(scheduler, job, 550.0) is State.SCHEDULED
    assert failed_at(scheduler, job, 599.5) is State.FAILED


@pytest.mark.parametrize(("retry_until", "expires"), [(100.0, 100.0), (300.0, 350.0), (None, None)])
def test_an_edit_changes_the_time_from_then_on(retry_until, expires):
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL, retry_until=100.0)
    failed_at(scheduler, job, 49.5)

    changed = () if retry_until == 100.0 else ("retry_until",)
    policy = replace(UNTIL, retry_until=retry_until)
    scheduler.edit(job, JobSpec(argv=("true",), retry_until=retry_until), policy, changed, at(50.0))

    assert scheduler.get(job).conditions.expires == expires


def test_a_lost_outcome_is_a_retry_in_time():
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL)

    assert failed_at(scheduler, job, 10.0, Outcome.UNKNOWN) is State.SCHEDULED


def test_a_job_that_was_told_how_long_to_wait_still_waits_a_second():
    scheduler = make_scheduler()
    job = submit(scheduler, UNTIL)
    scheduler.ended(job, 1, Outcome.ERROR, at(1.0), decision=Decision(NextStep.RETRY, after=0.0))

    assert scheduler.get(job).due == 2.0
