from __future__ import annotations

import pytest

from bgd.core.job import Conditions, JobId, Now, Outcome, State
from bgd.core.scheduler import EXPIRED, PauseReason, SaveJob
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    THREE_RETRIES,
    at,
    end,
    scheduler,
    spec,
    started_ids,
    submit,
)

MANY = 5_000
DAY = 86_400.0


def states(decider, *ids):
    return [None if decider.get(job_id) is None else decider.get(job_id).state for job_id in ids]


def edit(decider, job_id, now=NOW, finished=None, **changes):
    return decider.edit(job_id, spec(**changes), NO_RETRIES, set(changes), now, finished)


def saves(decider):
    return {effect.job.id: effect for effect in decider.take_effects() if isinstance(effect, SaveJob)}


# --- other jobs ----------------------------------------------------------------------------------------


def test_a_diamond_of_jobs_runs_from_top_to_bottom():
    decider = scheduler(slots=4)
    top = submit(decider)
    left, right = submit(decider, after=(top,)), submit(decider, after=(top, top))
    bottom = submit(decider, after=(left,), after_any=(right,))
    assert started_ids(decider) == [top]

    decider.ended(top, 1, Outcome.SUCCEEDED, NOW)
    assert started_ids(decider) == [left, right]
    decider.ended(right, 1, Outcome.EXIT, NOW)
    assert decider.get(bottom).conditions.after_any == ()
    decider.ended(left, 1, Outcome.SUCCEEDED, NOW)

    assert started_ids(decider) == [bottom]
    assert decider.get(bottom).conditions == Conditions()


def test_a_failure_cancels_all_jobs_that_depend_on_it_however_indirectly():
    decider = scheduler(slots=2)
    first = submit(decider)
    chain = [first]
    for _ in range(MANY):
        chain.append(submit(decider, after=(chain[-1],)))
    held = submit(decider, after=(first,), hold=True)
    survivor = submit(decider, after_any=(chain[-1],))
    decider.take_effects()

    decider.ended(first, 1, Outcome.EXIT, NOW)

    told = saves(decider)
    assert {told[job_id].job.state for job_id in (*chain[1:], held)} == {State.CANCELLED}
    assert told[chain[1]].reason == f"job {first}, which had to succeed before, failed"
    assert told[chain[2]].reason == f"job {chain[1]}, which had to succeed before, was cancelled"
    assert told[survivor].job.state is State.RUNNING
    assert len(decider) == 1


def test_a_job_does_not_wait_for_jobs_that_have_finished():
    decider = scheduler(slots=3)
    ended = {JobId(1): State.SUCCEEDED, JobId(2): State.FAILED}

    lucky = decider.submit(spec(after=(1,), after_any=(2,)), NO_RETRIES, NOW, ended)
    doomed = decider.submit(spec(after=(2,), after_any=(1,)), NO_RETRIES, NOW, ended)

    told = saves(decider)
    assert told[lucky].job.state is State.RUNNING
    assert (told[doomed].job.state, told[doomed].reason) == (
        State.CANCELLED,
        "job 2, which had to succeed before, failed",
    )


def test_an_edit_that_makes_a_job_wait_for_a_failed_one_cancels_it():
    decider = scheduler()
    _, waiting = submit(decider), submit(decider)

    state = edit(decider, waiting, after=(7, 8), finished=dict.fromkeys([JobId(7), JobId(8)], State.FAILED))

    assert state is State.CANCELLED
    assert decider.get(waiting) is None


def test_a_job_that_waits_for_others_waits_for_its_time_as_well():
    decider = scheduler(slots=2)
    first = submit(decider)
    second = submit(decider, after=(first,), delay=5.0)
    decider.ended(first, 1, Outcome.SUCCEEDED, at(1.0))
    assert decider.get(second).state is State.SCHEDULED

    decider.advance(at(5.0))

    assert started_ids(decider)[-1] == second


def test_a_cycle_of_jobs_is_found_whatever_its_length():
    decider = scheduler()
    first = submit(decider, hold=True)
    second = submit(decider, after=(first,))
    third = submit(decider, after_any=(second, first))
    apart = submit(decider, hold=True)

    assert decider.find_cycle(first, [apart, third]) == third
    assert decider.find_cycle(first, [first]) == first
    assert decider.find_cycle(third, [apart, second]) is None


# --- expiring ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"hold": True}, {"delay": DAY}, {"at": 1000.0 + DAY}, {"after": (1,)}], ids=str
)
def test_a_job_expires_in_whatever_state_it_waits(options):
    decider = scheduler()
    submit(decider)
    job_id = submit(decider, expires=10.0, **options)
    assert decider.next_timer_at() == 10.0

    decider.advance(at(9.9))
    assert decider.get(job_id) is not None
    decider.take_effects()
    decider.advance(at(10.0))

    assert decider.get(job_id) is None
    assert saves(decider)[job_id].reason == EXPIRED
    assert decider.next_timer_at() is None


def test_a_job_that_has_started_does_not_expire_before_its_retry():
    decider = scheduler()
    job_id = submit(decider, THREE_RETRIES, expires=10.0)
    end(decider, job_id, Outcome.EXIT, at(8.0))
    edit(decider, job_id, at(9.0), expires=1.0)

    decider.advance(at(13.0))

    assert decider.get(job_id).state is State.RUNNING


def test_a_job_that_expired_waits_for_ever_once_it_is_revived():
    decider = scheduler()
    decider.pause(PauseReason.ASKED)
    job_id = submit(decider, expires=1.0)
    decider.advance(at(1.0))
    expired = saves(decider)[job_id].job

    decider.revive(expired, at(2.0))

    decider.advance(at(DAY))
    assert states(decider, job_id) == [State.QUEUED]


# --- dates ---------------------------------------------------------------------------------------------


def test_a_date_uses_the_wall_clock_and_a_delay_does_not():
    decider = scheduler(slots=2)
    dated, delayed = submit(decider, at=5_000.0), submit(decider, delay=50.0)
    assert (decider.next_wall_timer_at(), decider.next_timer_at()) == (5_000.0, 50.0)

    decider.advance(Now(elapsed=49.0, wall=4_999.0))
    assert started_ids(decider) == []
    decider.advance(Now(elapsed=50.0, wall=10.0))  # somebody set the clock back
    assert started_ids(decider) == [delayed]
    decider.advance(Now(elapsed=50.0, wall=5_000.0))

    assert started_ids(decider) == [dated]
    assert decider.next_wall_timer_at() is None


def test_a_job_whose_date_has_come_stays_queued_when_the_clock_is_set_back():
    decider = scheduler()
    running, dated = submit(decider), submit(decider, at=1_000.0)
    decider.take_effects()

    decider.ended(running, 1, Outcome.SUCCEEDED, Now(elapsed=1.0, wall=10.0))

    assert started_ids(decider) == [dated]
