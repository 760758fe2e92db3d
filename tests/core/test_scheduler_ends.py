from __future__ import annotations

import pytest

from bgd.core.explain import Cause
from bgd.core.job import CANCELLED_BEFORE_START, Decision, JobId, NextStep, Outcome, RetryPolicy, State
from bgd.core.scheduler import CANCELLED_BEFORE_NEXT_ATTEMPT, CommandAttempt
from tests.core.scheduling import (
    NOW,
    THREE_RETRIES,
    at,
    dead_weight,
    end,
    make_scheduler,
    started,
    started_ids,
    submit,
)

# --- ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.SUCCEEDED, State.SUCCEEDED),
        (Outcome.EXIT, State.FAILED),
        (Outcome.REFUSED, State.FAILED),
        (Outcome.UNKNOWN, State.FAILED),
    ],
)
def test_a_job_without_retries_is_finished_and_forgotten(outcome, state):
    scheduler = make_scheduler()
    job_id = submit(scheduler)

    assert end(scheduler, job_id, outcome).job.state is state

    assert scheduler.get(job_id) is None
    assert len(scheduler) == 0


@pytest.mark.parametrize(
    ("has_begun", "attempt", "reason"),
    [
        (True, 1, None),
        (False, 1, CANCELLED_BEFORE_START),
        (False, 2, CANCELLED_BEFORE_NEXT_ATTEMPT),
    ],
)
def test_a_job_whose_attempt_has_not_begun_is_cancelled_before_it_started(has_begun, attempt, reason):
    scheduler = make_scheduler()
    job_id = submit(scheduler, RetryPolicy(retries=2, delay=0.0))
    for number in range(1, attempt):
        scheduler.ended(job_id, number, Outcome.EXIT, NOW)
    scheduler.cancel(job_id, NOW)

    scheduler.ended(job_id, attempt, Outcome.CANCELLED, NOW, no_start=None if has_begun else "")

    save = scheduler.take_effects()[-1]
    assert (save.job.state, save.reason) == (State.CANCELLED, reason)


def test_a_failed_job_waits_and_runs_again_until_its_retries_are_used_up():
    scheduler = make_scheduler()
    job_id = submit(scheduler, RetryPolicy(retries=2, delay=5.0, backoff=2.0, jitter=0.0))

    assert end(scheduler, job_id, Outcome.EXIT, at(10.0)).job.due == 15.0
    scheduler.advance(at(15.0))
    assert started(scheduler) == [(job_id, 2, 1)]
    assert end(scheduler, job_id, Outcome.EXIT, at(20.0)).job.due == 30.0
    scheduler.advance(at(30.0))
    assert started(scheduler) == [(job_id, 3, 1)]
    assert end(scheduler, job_id, Outcome.EXIT, at(31.0)).job.state is State.FAILED


def test_a_job_that_snoozes_until_a_date_waits_for_it_on_the_wall_clock():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.take_effects()
    decision = Decision(NextStep.SNOOZE, until=1060.0)

    scheduler.ended(job_id, 1, Outcome.SNOOZED, NOW, None, decision)

    assert (scheduler.next_timer_at(), scheduler.table.waiting.next_wall_at()) == (None, 1060.0)
    scheduler.advance(at(59.9))
    assert started(scheduler) == []
    scheduler.advance(at(60.0))
    assert started(scheduler) == [(job_id, 2, 1)]
    assert scheduler.get(job_id).failures == 0


def test_a_job_between_attempts_holds_no_slot():
    scheduler = make_scheduler(slots=1)
    failing = submit(scheduler, THREE_RETRIES)
    waiting = submit(scheduler)
    scheduler.take_effects()

    scheduler.ended(failing, 1, Outcome.EXIT, NOW)

    assert started_ids(scheduler) == [waiting]


def test_a_retry_without_delay_starts_at_once():
    scheduler = make_scheduler()
    job_id = submit(scheduler, RetryPolicy(retries=1, delay=0.0))
    scheduler.take_effects()

    scheduler.ended(job_id, 1, Outcome.EXIT, NOW)

    assert started(scheduler) == [(job_id, 2, 1)]


def test_unseen_ends_count_only_in_a_row():
    scheduler = make_scheduler()
    job_id = submit(scheduler, RetryPolicy(retries=9, delay=0.0))
    unseen_but_once = [
        Outcome.INTERRUPTED,
        Outcome.UNKNOWN,
        Outcome.EXIT,
        Outcome.UNKNOWN,
        Outcome.INTERRUPTED,
    ]

    for outcome in unseen_but_once:
        assert end(scheduler, job_id, outcome).job.state is not State.FAILED

    put_aside = end(scheduler, job_id, Outcome.INTERRUPTED)
    assert put_aside.job.state is State.FAILED
    assert put_aside.reason is not None


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_the_end_of_another_attempt_changes_nothing(attempt):
    scheduler = make_scheduler()
    job_id = submit(scheduler, RetryPolicy(retries=9, delay=0.0))
    end(scheduler, job_id, Outcome.EXIT)
    assert scheduler.get(job_id).attempt == 2

    assert not scheduler.ended(job_id, attempt, Outcome.SUCCEEDED, NOW)

    assert scheduler.take_effects() == []


def test_the_end_of_a_job_that_does_not_run_changes_nothing():
    scheduler = make_scheduler()
    waiting = submit(scheduler, delay=5.0)
    scheduler.take_effects()

    assert not scheduler.ended(waiting, 0, Outcome.SUCCEEDED, NOW)
    assert not scheduler.ended(JobId(99), 1, Outcome.SUCCEEDED, NOW)

    assert scheduler.take_effects() == []


# --- cancelling and requeuing --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"delay": 5.0}])
def test_a_waiting_job_is_cancelled_at_once(options):
    scheduler = make_scheduler()
    scheduler.pause(Cause.PAUSE)
    job_id = submit(scheduler, **options)
    scheduler.take_effects()

    assert scheduler.cancel(job_id, at(1.0)) is State.CANCELLED

    (save,) = scheduler.take_effects()
    assert (save.job.state, save.job.due, save.at) == (State.CANCELLED, None, 1001.0)
    assert scheduler.next_timer_at() is None
    scheduler.resume(Cause.PAUSE, at(9.0))
    assert started(scheduler) == []


def test_a_running_job_is_stopped_and_cancelled_when_it_has_ended():
    scheduler = make_scheduler()
    job_id = submit(scheduler, THREE_RETRIES)
    scheduler.take_effects()

    assert scheduler.cancel(job_id, NOW) is State.STOPPING

    save, stop = scheduler.take_effects()
    assert stop == CommandAttempt(save.job)
    assert end(scheduler, job_id, Outcome.SIGNAL).job.state is State.CANCELLED


def test_a_job_that_ended_well_before_it_could_be_stopped_has_succeeded():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.cancel(job_id, NOW)

    assert end(scheduler, job_id, Outcome.SUCCEEDED).job.state is State.SUCCEEDED


def test_a_job_keeps_its_slot_until_it_has_stopped():
    scheduler = make_scheduler(slots=1)
    stopping = submit(scheduler)
    waiting = submit(scheduler)
    scheduler.take_effects()

    scheduler.cancel(stopping, NOW)
    assert started(scheduler) == []

    scheduler.ended(stopping, 1, Outcome.CANCELLED, NOW)
    assert started_ids(scheduler) == [waiting]


def test_cancelling_twice_stops_once():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.cancel(job_id, NOW)
    scheduler.take_effects()

    assert scheduler.cancel(job_id, NOW) is State.STOPPING

    assert scheduler.take_effects() == []


def test_a_job_that_does_not_exist_cannot_be_cancelled():
    with pytest.raises(KeyError):
        make_scheduler().cancel(JobId(1), NOW)


def test_a_requeued_job_runs_again():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.take_effects()

    scheduler.requeue(job_id, NOW)
    save, stop = scheduler.take_effects()
    assert (save.job.state, save.job.making_way) == (State.STOPPING, True)
    assert stop == CommandAttempt(save.job)

    scheduler.ended(job_id, 1, Outcome.CANCELLED, NOW)
    assert not scheduler.get(job_id).making_way
    assert started(scheduler) == [(job_id, 2, 1)]


def test_a_job_that_is_being_requeued_can_still_be_cancelled():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.requeue(job_id, NOW)
    scheduler.take_effects()

    assert scheduler.cancel(job_id, NOW) is State.STOPPING
    (save,) = scheduler.take_effects()
    assert not save.job.making_way

    assert end(scheduler, job_id, Outcome.CANCELLED).job.state is State.CANCELLED


def test_only_running_jobs_are_requeued():
    scheduler = make_scheduler()
    scheduler.pause(Cause.PAUSE)
    waiting = submit(scheduler)
    scheduler.take_effects()

    scheduler.requeue(waiting, NOW)

    assert scheduler.take_effects() == []


def test_cancelled_jobs_do_not_pile_up():
    scheduler = make_scheduler()
    scheduler.pause(Cause.PAUSE)
    submit(scheduler, priority=9)
    submit(scheduler, delay=1.0)

    for _ in range(1_000):
        scheduler.cancel(submit(scheduler), NOW)
        scheduler.cancel(submit(scheduler, delay=5.0), NOW)

    assert dead_weight(scheduler) < 400
