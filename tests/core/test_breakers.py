"""Breakers: calls of a class pause after failures, and one attempt tries whether they work again."""

from __future__ import annotations

import pytest

from bgd.core.breakers import BreakerRule, BreakerState
from bgd.core.explain import Cause, in_words
from bgd.core.job import JobId, Outcome, Rate, RetryPolicy, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import Scheduler
from tests.core.scheduling import NO_RETRIES, at, end, make_scheduler, started_ids, submit

APP = "app.x"
RULE = BreakerRule(Rate(3, 600.0, "3 failures/10m"), 300.0)
CALL = RetryPolicy(breaker=APP)


@pytest.fixture
def scheduler():
    scheduler = make_scheduler(slots=4)
    scheduler.breakers.rules = {APP: RULE}
    return scheduler


def fail(scheduler, elapsed, outcome=Outcome.ERROR, **options):
    job = submit(scheduler, CALL, at(elapsed), **options)
    end(scheduler, job, outcome, at(elapsed))
    return job


def pause(scheduler, elapsed=0.0):
    for _ in range(3):
        fail(scheduler, elapsed)
    scheduler.breakers.changed.clear()


def is_paused(scheduler, elapsed):
    return scheduler.breakers.is_paused(APP, elapsed)


def running(scheduler, *jobs):
    return [scheduler.get(job).state is State.RUNNING for job in jobs]


def test_calls_pause_after_enough_failures(scheduler):
    fail(scheduler, 0.0)
    fail(scheduler, 100.0)
    assert not is_paused(scheduler, 100.0)
    assert scheduler.breakers.changed == {APP: None}
    fail(scheduler, 200.0)

    assert is_paused(scheduler, 499.9)
    assert not is_paused(scheduler, 500.0)
    assert scheduler.breakers.changed == {APP: True}


def test_only_failures_within_the_time_count(scheduler):
    for elapsed in (0.0, 300.0, 601.0):
        fail(scheduler, elapsed)

    assert not is_paused(scheduler, 601.0)
    assert scheduler.breakers.state(APP).failures == (300.0, 601.0)


@pytest.mark.parametrize(
    "outcome", [Outcome.SUCCEEDED, Outcome.SNOOZED, Outcome.INTERRUPTED, Outcome.REFUSED]
)
def test_other_ends_are_no_failures(scheduler, outcome):
    for _ in range(3):
        job = submit(scheduler, RetryPolicy(breaker=APP, rerun=True), at(1.0))
        end(scheduler, job, outcome, at(1.0))

    assert scheduler.breakers.changed == {}


def test_a_paused_call_neither_takes_a_slot_nor_holds_back_others(scheduler):
    pause(scheduler)
    jobs = [submit(scheduler, CALL, at(1.0), priority=9, slots=4) for _ in range(10)]
    other = submit(scheduler, NO_RETRIES, at(1.0))

    assert running(scheduler, *jobs, other) == [False] * 10 + [True]
    assert scheduler.taken == 1


def test_a_paused_call_claims_no_tokens_and_no_slots_of_its_queue():
    scheduler = Scheduler(9, {"mail": QueueRule(slots=2)}, 0, lambda: 0.5, {"gpu": ("0", "1")})
    scheduler.breakers.rules = {APP: RULE}
    pause(scheduler)
    call = submit(scheduler, CALL, at(1.0), queue="mail", priority=9, slots=2, resources={"gpu": 2})
    one = submit(scheduler, NO_RETRIES, at(1.0), queue="mail", resources={"gpu": 1})
    two = submit(scheduler, NO_RETRIES, at(1.0), queue="mail")

    assert running(scheduler, call, one, two) == [False, True, True]


def test_one_call_tries_when_the_pause_is_over(scheduler):
    pause(scheduler)
    jobs = [submit(scheduler, CALL, at(1.0), priority=priority) for priority in (0, 5, 0)]
    assert scheduler.next_timer_at() == 300.0
    scheduler.take_effects()

    scheduler.advance(at(300.0))
    assert started_ids(scheduler) == [jobs[1]]
    assert scheduler.breakers.state(APP).trial == jobs[1]
    assert scheduler.next_timer_at() is None
    scheduler.advance(at(1000.0))
    assert started_ids(scheduler) == []


def test_nothing_rings_while_no_launcher_can_start_the_trial(scheduler):
    pause(scheduler)
    job = submit(scheduler, CALL, at(1.0))
    scheduler.pause(Cause.LAUNCHER)
    scheduler.advance(at(300.0))
    assert scheduler.next_timer_at() is None

    scheduler.resume(Cause.LAUNCHER, at(310.0))
    assert running(scheduler, job) == [True]


def test_a_success_of_the_trial_lets_all_go_on(scheduler):
    pause(scheduler)
    jobs = [submit(scheduler, CALL, at(1.0)) for _ in range(3)]
    scheduler.advance(at(300.0))
    scheduler.breakers.changed.clear()
    end(scheduler, jobs[0], now=at(301.0))

    assert running(scheduler, *jobs[1:]) == [True, True]
    assert scheduler.breakers.changed == {APP: False}
    assert scheduler.breakers.state(APP) == BreakerState()


def test_a_failure_of_the_trial_pauses_again(scheduler):
    pause(scheduler)
    jobs = [submit(scheduler, CALL, at(1.0)) for _ in range(2)]
    scheduler.advance(at(300.0))
    scheduler.breakers.changed.clear()
    end(scheduler, jobs[0], Outcome.TIMEOUT, at(310.0))

    assert running(scheduler, jobs[1]) == [False]
    assert scheduler.breakers.changed == {APP: None}
    assert scheduler.next_timer_at() == 610.0
    scheduler.advance(at(610.0))
    assert running(scheduler, jobs[1]) == [True]


def test_after_a_trial_that_tells_nothing_another_one_tries(scheduler):
    pause(scheduler)
    jobs = [submit(scheduler, CALL, at(1.0)) for _ in range(2)]
    scheduler.advance(at(300.0))
    scheduler.cancel(jobs[0], at(301.0))
    end(scheduler, jobs[0], Outcome.CANCELLED, at(302.0))

    assert scheduler.breakers.state(APP).trial == jobs[1]


def test_what_ran_before_the_pause_decides_nothing(scheduler):
    jobs = [submit(scheduler, CALL, at(0.0)) for _ in range(2)]
    pause(scheduler)
    end(scheduler, jobs[0], now=at(1.0))
    end(scheduler, jobs[1], Outcome.ERROR, at(200.0))

    assert scheduler.breakers.changed == {}
    assert not is_paused(scheduler, 300.0)


def test_without_its_rule_a_class_is_not_paused(scheduler):
    pause(scheduler)
    job = submit(scheduler, CALL, at(1.0))
    scheduler.breakers.rules = {}
    scheduler.resize(4, {}, at(2.0))
    assert running(scheduler, job) == [True]
    end(scheduler, job, Outcome.ERROR, at(3.0))

    assert scheduler.breakers.changed == {}


def test_a_pause_goes_on_after_a_restart(scheduler):
    pause(scheduler)
    state = scheduler.breakers.state(APP).moved(5000.0).moved(-4990.0)
    again = make_scheduler()
    again.breakers.rules = {APP: RULE}
    again.breakers.restore({APP: state, "gone.*": state}, (), at(20.0))

    assert again.breakers.is_paused(APP, 309.0)
    assert not again.breakers.is_paused(APP, 310.0)
    assert not again.breakers.is_paused("gone.*", 20.0)


def test_a_clock_that_was_set_makes_no_pause_longer(scheduler):
    state = BreakerState((900.0,), paused_until=5000.0, trial=JobId(7))
    scheduler.breakers.restore({APP: state}, {JobId(7)}, at(10.0))

    assert scheduler.breakers.state(APP) == BreakerState((10.0,), 310.0, JobId(7))
    scheduler.breakers.restore({APP: BreakerState((900.0,), trial=JobId(7))}, (), at(10.0))
    assert scheduler.breakers.state(APP) == BreakerState((10.0,))


def test_explain_says_what_is_paused_until_when_and_who_tries(scheduler):
    pause(scheduler)
    assert scheduler.explain(submit(scheduler, NO_RETRIES, at(1.0)), at(1.0)) == ()
    first, second = (submit(scheduler, CALL, at(1.0)) for _ in range(2))

    [reason, *_] = scheduler.explain(second, at(1.0))
    assert (reason.cause, reason.subject, reason.head, reason.at) == (Cause.BREAKER, APP, first, 1300.0)
    words = "for calls to app.x, paused after 3 failures in 10m: job"
    assert in_words(reason, str) == f"{words} {first} tries first, not before 1300.0"

    scheduler.advance(at(300.0))
    [reason, *_] = scheduler.explain(second, at(301.0))
    assert in_words(reason, str) == f"{words} {first} tries now"


def test_explain_of_a_held_call(scheduler):
    pause(scheduler)
    held = submit(scheduler, CALL, at(1.0), hold=True)

    words = [in_words(each, str) for each in scheduler.explain(held, at(1.0))]
    assert "for calls to app.x, paused after 3 failures in 10m, until 1300.0" in words


def test_a_call_that_leaves_the_queue_is_forgotten(scheduler):
    pause(scheduler)
    job = submit(scheduler, CALL, at(1.0))
    scheduler.cancel(job, at(2.0))
    scheduler.advance(at(300.0))

    assert scheduler.get(job) is None
    assert scheduler.breakers.state(APP).trial is None
