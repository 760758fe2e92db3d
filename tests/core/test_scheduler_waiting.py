from __future__ import annotations

import pytest

from bgd.core.conditions import find_cycle
from bgd.core.explain import Cause
from bgd.core.job import EXPIRED, Conditions, JobId, Now, Outcome, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import SaveJob, Scheduler
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    THREE_RETRIES,
    at,
    end,
    make_scheduler,
    spec,
    started_ids,
    submit,
)

MANY = 2_000  # more than the interpreter nests calls
DAY = 86_400.0


def states(scheduler, *ids):
    return [None if scheduler.get(job_id) is None else scheduler.get(job_id).state for job_id in ids]


def edit(scheduler, job_id, now=NOW, finished=None, **changes):
    return scheduler.edit(job_id, spec(**changes), NO_RETRIES, set(changes), now, finished)


def saves(scheduler):
    return {effect.job.id: effect for effect in scheduler.take_effects() if isinstance(effect, SaveJob)}


# --- other jobs ----------------------------------------------------------------------------------------


def test_a_diamond_of_jobs_runs_from_top_to_bottom():
    scheduler = make_scheduler(slots=4)
    top = submit(scheduler)
    left, right = submit(scheduler, after=(top,)), submit(scheduler, after=(top, top))
    bottom = submit(scheduler, after=(left,), after_any=(right,))
    assert started_ids(scheduler) == [top]

    scheduler.ended(top, 1, Outcome.SUCCEEDED, NOW)
    assert started_ids(scheduler) == [left, right]
    scheduler.ended(right, 1, Outcome.EXIT, NOW)
    assert scheduler.get(bottom).conditions.after_any == ()
    scheduler.ended(left, 1, Outcome.SUCCEEDED, NOW)

    assert started_ids(scheduler) == [bottom]
    assert scheduler.get(bottom).conditions == Conditions()


def test_the_jobs_that_wait_for_another_are_counted_and_some_of_them_are_named():
    scheduler = make_scheduler(slots=1)
    first = submit(scheduler)
    waiting = [submit(scheduler, after=(first,)) for _ in range(3)]

    assert scheduler.some_dependents_of(first, 10) == (3, waiting)
    count, named = scheduler.some_dependents_of(first, 2)
    assert (count, len(named), set(named) <= set(waiting)) == (3, 2, True)
    scheduler.ended(first, 1, Outcome.SUCCEEDED, NOW)
    assert scheduler.some_dependents_of(first, 10) == (0, [])


def test_a_failure_cancels_all_jobs_that_depend_on_it_however_indirectly():
    scheduler = make_scheduler(slots=2)
    first = submit(scheduler)
    chain = [first]
    for _ in range(MANY):
        chain.append(submit(scheduler, after=(chain[-1],)))
    held = submit(scheduler, after=(first,), hold=True)
    survivor = submit(scheduler, after_any=(chain[-1],))
    scheduler.take_effects()

    scheduler.ended(first, 1, Outcome.EXIT, NOW)

    told = saves(scheduler)
    assert {told[job_id].job.state for job_id in (*chain[1:], held)} == {State.CANCELLED}
    assert told[chain[1]].reason == f"job {first}, which had to succeed first, failed"
    assert told[chain[2]].reason == f"job {chain[1]}, which had to succeed first, was cancelled"
    assert told[survivor].job.state is State.RUNNING
    assert len(scheduler) == 1


def test_a_job_does_not_wait_for_jobs_that_have_finished():
    scheduler = make_scheduler(slots=3)
    ended = {JobId(1): State.SUCCEEDED, JobId(2): State.FAILED}

    lucky = scheduler.submit(spec(after=(1,), after_any=(2,)), NO_RETRIES, NOW, ended)
    doomed = scheduler.submit(spec(after=(2,), after_any=(1,)), NO_RETRIES, NOW, ended)
    scheduler.advance(NOW)

    told = saves(scheduler)
    assert told[lucky].job.state is State.RUNNING
    assert (told[doomed].job.state, told[doomed].reason) == (
        State.CANCELLED,
        "job 2, which had to succeed first, failed",
    )


def test_an_edit_that_makes_a_job_wait_for_a_failed_one_cancels_it():
    scheduler = make_scheduler()
    _, waiting = submit(scheduler), submit(scheduler)

    state = edit(scheduler, waiting, after=(7, 8), finished=dict.fromkeys([JobId(7), JobId(8)], State.FAILED))

    assert state is State.CANCELLED
    assert scheduler.get(waiting) is None


def test_a_job_that_waits_for_others_waits_for_its_time_as_well():
    scheduler = make_scheduler(slots=2)
    first = submit(scheduler)
    second = submit(scheduler, after=(first,), delay=5.0)
    scheduler.ended(first, 1, Outcome.SUCCEEDED, at(1.0))
    assert scheduler.get(second).state is State.SCHEDULED

    scheduler.advance(at(5.0))

    assert started_ids(scheduler)[-1] == second


def test_a_cycle_of_jobs_is_found_whatever_its_length():
    scheduler = make_scheduler()
    first = submit(scheduler, hold=True)
    second = submit(scheduler, after=(first,))
    third = submit(scheduler, after_any=(second, first))
    apart = submit(scheduler, hold=True)

    assert find_cycle(first, [apart, third], scheduler.get) == third
    assert find_cycle(first, [first], scheduler.get) == first
    assert find_cycle(third, [apart, second], scheduler.get) is None


# --- expiring ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"hold": True}, {"delay": DAY}, {"at": 1000.0 + DAY}, {"after": (1,)}], ids=str
)
def test_a_job_expires_in_whatever_state_it_waits(options):
    scheduler = make_scheduler()
    submit(scheduler)
    job_id = submit(scheduler, expires=10.0, **options)
    assert scheduler.next_timer_at() == 10.0

    scheduler.advance(at(9.9))
    assert scheduler.get(job_id) is not None
    scheduler.take_effects()
    scheduler.advance(at(10.0))

    assert scheduler.get(job_id) is None
    assert saves(scheduler)[job_id].reason == EXPIRED
    assert scheduler.next_timer_at() is None


def test_a_job_that_has_started_does_not_expire_before_its_retry():
    scheduler = make_scheduler()
    job_id = submit(scheduler, THREE_RETRIES, expires=10.0)
    end(scheduler, job_id, Outcome.EXIT, at(8.0))
    edit(scheduler, job_id, at(9.0), expires=1.0)

    scheduler.advance(at(13.0))

    assert scheduler.get(job_id).state is State.RUNNING


def test_a_job_that_expired_waits_for_ever_once_it_is_revived():
    scheduler = make_scheduler()
    scheduler.pause(Cause.PAUSE)
    job_id = submit(scheduler, expires=1.0)
    scheduler.advance(at(1.0))
    expired = saves(scheduler)[job_id].job

    scheduler.revive(expired, at(2.0))

    scheduler.advance(at(DAY))
    assert states(scheduler, job_id) == [State.QUEUED]


# --- dates ---------------------------------------------------------------------------------------------


def test_a_date_uses_the_wall_clock_and_a_delay_does_not():
    scheduler = make_scheduler(slots=2)
    dated, delayed = submit(scheduler, at=5_000.0), submit(scheduler, delay=50.0)
    assert (scheduler.table.waiting.next_wall_at(), scheduler.next_timer_at()) == (5_000.0, 50.0)

    scheduler.advance(Now(elapsed=49.0, wall=4_999.0))
    assert started_ids(scheduler) == []
    scheduler.advance(Now(elapsed=50.0, wall=10.0))  # somebody set the clock back
    assert started_ids(scheduler) == [delayed]
    scheduler.advance(Now(elapsed=50.0, wall=5_000.0))

    assert started_ids(scheduler) == [dated]
    assert scheduler.table.waiting.next_wall_at() is None


def test_a_job_whose_date_has_come_stays_queued_when_the_clock_is_set_back():
    scheduler = make_scheduler()
    running, dated = submit(scheduler), submit(scheduler, at=1_000.0)
    scheduler.take_effects()

    scheduler.ended(running, 1, Outcome.SUCCEEDED, Now(elapsed=1.0, wall=10.0))

    assert started_ids(scheduler) == [dated]


def test_a_queue_is_paused_by_itself_with_all_others_or_because_bgd_is_about_to_exit():
    rules = {"night": QueueRule(paused=True), "apart": QueueRule(apart=True)}
    scheduler = Scheduler(1, rules, last_id=0, roll=lambda: 0.5)

    def paused():
        return [queue for queue in ("night", "apart", "default") if scheduler.is_paused(queue)]

    assert paused() == ["night"]
    scheduler.pause(Cause.PAUSE)
    assert paused() == ["night", "default"]
    scheduler.pause(Cause.SHUTDOWN)
    assert paused() == ["night", "apart", "default"]
