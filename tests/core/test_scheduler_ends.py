from __future__ import annotations

import pytest

from bgd.core.job import Decision, JobId, NextStep, Outcome, RetryPolicy, State
from bgd.core.scheduler import PauseReason, StopAttempt
from tests.core.scheduling import (
    NOW,
    THREE_RETRIES,
    at,
    dead_weight,
    end,
    scheduler,
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
    decider = scheduler()
    job_id = submit(decider)

    assert end(decider, job_id, outcome).job.state is state

    assert decider.get(job_id) is None
    assert len(decider) == 0


def test_a_failed_job_waits_and_runs_again_until_its_retries_are_used_up():
    decider = scheduler()
    job_id = submit(decider, RetryPolicy(retries=2, delay=5.0, backoff=2.0, jitter=0.0))

    assert end(decider, job_id, Outcome.EXIT, at(10.0)).job.due == 15.0
    decider.advance(at(15.0))
    assert started(decider) == [(job_id, 2, 1)]
    assert end(decider, job_id, Outcome.EXIT, at(20.0)).job.due == 30.0
    decider.advance(at(30.0))
    assert started(decider) == [(job_id, 3, 1)]
    assert end(decider, job_id, Outcome.EXIT, at(31.0)).job.state is State.FAILED


def test_a_job_that_snoozes_until_a_date_waits_for_it_on_the_wall_clock():
    decider = scheduler()
    job_id = submit(decider)
    decider.take_effects()
    decision = Decision(NextStep.SNOOZE, until=1060.0)

    decider.ended(job_id, 1, Outcome.SNOOZED, NOW, None, decision)

    assert (decider.next_timer_at(), decider.next_wall_timer_at()) == (None, 1060.0)
    decider.advance(at(59.9))
    assert started(decider) == []
    decider.advance(at(60.0))
    assert started(decider) == [(job_id, 2, 1)]
    assert decider.get(job_id).failures == 0


def test_a_job_between_attempts_holds_no_slot():
    decider = scheduler(slots=1)
    failing = submit(decider, THREE_RETRIES)
    waiting = submit(decider)
    decider.take_effects()

    decider.ended(failing, 1, Outcome.EXIT, NOW)

    assert started_ids(decider) == [waiting]


def test_a_retry_without_delay_starts_at_once():
    decider = scheduler()
    job_id = submit(decider, RetryPolicy(retries=1, delay=0.0))
    decider.take_effects()

    decider.ended(job_id, 1, Outcome.EXIT, NOW)

    assert started(decider) == [(job_id, 2, 1)]


def test_unseen_ends_count_only_in_a_row():
    decider = scheduler()
    job_id = submit(decider, RetryPolicy(retries=9, delay=0.0))
    unseen_but_once = [
        Outcome.INTERRUPTED,
        Outcome.UNKNOWN,
        Outcome.EXIT,
        Outcome.UNKNOWN,
        Outcome.INTERRUPTED,
    ]

    for outcome in unseen_but_once:
        assert end(decider, job_id, outcome).job.state is not State.FAILED

    put_aside = end(decider, job_id, Outcome.INTERRUPTED)
    assert put_aside.job.state is State.FAILED
    assert put_aside.reason is not None


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_the_end_of_another_attempt_changes_nothing(attempt):
    decider = scheduler()
    job_id = submit(decider, RetryPolicy(retries=9, delay=0.0))
    end(decider, job_id, Outcome.EXIT)
    assert decider.get(job_id).attempt == 2

    assert not decider.ended(job_id, attempt, Outcome.SUCCEEDED, NOW)

    assert decider.take_effects() == []


def test_the_end_of_a_job_that_does_not_run_changes_nothing():
    decider = scheduler()
    waiting = submit(decider, delay=5.0)
    decider.take_effects()

    assert not decider.ended(waiting, 0, Outcome.SUCCEEDED, NOW)
    assert not decider.ended(JobId(99), 1, Outcome.SUCCEEDED, NOW)

    assert decider.take_effects() == []


# --- cancelling and requeuing --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"delay": 5.0}])
def test_a_waiting_job_is_cancelled_at_once(options):
    decider = scheduler()
    decider.pause(PauseReason.ASKED)
    job_id = submit(decider, **options)
    decider.take_effects()

    assert decider.cancel(job_id, at(1.0)) is State.CANCELLED

    (save,) = decider.take_effects()
    assert (save.job.state, save.job.due, save.at) == (State.CANCELLED, None, 1001.0)
    assert decider.next_timer_at() is None
    decider.resume(PauseReason.ASKED, at(9.0))
    assert started(decider) == []


def test_a_running_job_is_stopped_and_cancelled_when_it_has_ended():
    decider = scheduler()
    job_id = submit(decider, THREE_RETRIES)
    decider.take_effects()

    assert decider.cancel(job_id, NOW) is State.STOPPING

    save, stop = decider.take_effects()
    assert stop == StopAttempt(save.job)
    assert end(decider, job_id, Outcome.SIGNAL).job.state is State.CANCELLED


def test_a_job_that_ended_well_before_it_could_be_stopped_has_succeeded():
    decider = scheduler()
    job_id = submit(decider)
    decider.cancel(job_id, NOW)

    assert end(decider, job_id, Outcome.SUCCEEDED).job.state is State.SUCCEEDED


def test_a_job_keeps_its_slot_until_it_has_stopped():
    decider = scheduler(slots=1)
    stopping = submit(decider)
    waiting = submit(decider)
    decider.take_effects()

    decider.cancel(stopping, NOW)
    assert started(decider) == []

    decider.ended(stopping, 1, Outcome.CANCELLED, NOW)
    assert started_ids(decider) == [waiting]


def test_cancelling_twice_stops_once():
    decider = scheduler()
    job_id = submit(decider)
    decider.cancel(job_id, NOW)
    decider.take_effects()

    assert decider.cancel(job_id, NOW) is State.STOPPING

    assert decider.take_effects() == []


def test_a_job_that_does_not_exist_cannot_be_cancelled():
    with pytest.raises(KeyError):
        scheduler().cancel(JobId(1), NOW)


def test_a_requeued_job_runs_again():
    decider = scheduler()
    job_id = submit(decider)
    decider.take_effects()

    decider.requeue(job_id, NOW)
    save, stop = decider.take_effects()
    assert (save.job.state, save.job.making_way) == (State.STOPPING, True)
    assert stop == StopAttempt(save.job)

    decider.ended(job_id, 1, Outcome.CANCELLED, NOW)
    assert not decider.get(job_id).making_way
    assert started(decider) == [(job_id, 2, 1)]


def test_a_job_that_is_being_requeued_can_still_be_cancelled():
    decider = scheduler()
    job_id = submit(decider)
    decider.requeue(job_id, NOW)
    decider.take_effects()

    assert decider.cancel(job_id, NOW) is State.STOPPING
    (save,) = decider.take_effects()
    assert not save.job.making_way

    assert end(decider, job_id, Outcome.CANCELLED).job.state is State.CANCELLED


def test_only_running_jobs_are_requeued():
    decider = scheduler()
    decider.pause(PauseReason.ASKED)
    waiting = submit(decider)
    decider.take_effects()

    decider.requeue(waiting, NOW)

    assert decider.take_effects() == []


def test_cancelled_jobs_do_not_pile_up():
    decider = scheduler()
    decider.pause(PauseReason.ASKED)
    submit(decider, priority=9)
    submit(decider, delay=1.0)

    for _ in range(5_000):
        decider.cancel(submit(decider), NOW)
        decider.cancel(submit(decider, delay=5.0), NOW)

    assert dead_weight(decider) < 400
