from __future__ import annotations

from bgd.core.explain import Cause
from bgd.core.job import EXPIRED, Job, JobId, Move, Outcome, State
from bgd.core.scheduler import SUBMIT, SaveJob, Scheduler, StartAttempt
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    at,
    limits,
    make_scheduler,
    spec,
    started,
    started_ids,
    submit,
)

# --- submitting and starting ---------------------------------------------------------------------------


def test_a_job_is_saved_before_it_starts():
    scheduler = make_scheduler()

    job_id = submit(scheduler, now=at(7.0))

    first, second, start = scheduler.take_effects()
    assert first == SaveJob(Job(job_id, State.QUEUED, "default", 0, NO_RETRIES), 1007.0, SUBMIT, State.QUEUED)
    assert (second.job.state, second.job.attempt) == (State.RUNNING, 1)
    assert second.what == Move.START
    assert start == StartAttempt(second.job, slot=1)


def test_the_most_urgent_job_of_a_batch_starts_first():
    scheduler = make_scheduler(slots=1)
    scheduler.submit(spec(), NO_RETRIES, NOW)
    urgent = scheduler.submit(spec(priority=5), NO_RETRIES, NOW)

    assert started(scheduler) == []
    scheduler.advance(NOW)
    assert started(scheduler) == [(urgent, 1, 1)]


def test_effects_are_returned_once():
    scheduler = make_scheduler()
    submit(scheduler)

    assert scheduler.take_effects()
    assert scheduler.take_effects() == []


def test_effects_are_counted_until_they_are_taken():
    scheduler = make_scheduler(slots=1)
    submit(scheduler, now=at(7.0))
    before = scheduler.effect_count
    submit(scheduler, now=at(8.0))

    effects = scheduler.take_effects()
    assert [type(effect) for effect in effects[before:]] == [SaveJob]  # no slot is free for the second
    assert (len(effects), scheduler.effect_count) == (4, 0)


def test_running_counts_the_jobs_that_hold_a_slot():
    scheduler = make_scheduler(slots=2)
    first, _, _ = submit(scheduler), submit(scheduler), submit(scheduler)
    assert scheduler.running == 2

    scheduler.cancel(first, NOW)
    assert scheduler.running == 2  # it is only asked to end

    scheduler.pause(Cause.PAUSE)
    scheduler.ended(first, 1, Outcome.CANCELLED, NOW)
    assert scheduler.running == 1


def test_ids_go_on_after_the_highest_that_was_ever_given_out():
    scheduler = Scheduler(1, {}, last_id=41, roll=lambda: 0.5)

    assert submit(scheduler) == 42


def test_ids_go_on_after_the_highest_restored():
    scheduler = make_scheduler()
    scheduler.restore(Job(JobId(9), State.QUEUED, "default", 0, NO_RETRIES))

    assert submit(scheduler) == 10


def test_the_most_urgent_starts_first_and_the_oldest_among_equals():
    scheduler = make_scheduler(slots=4)
    scheduler.pause(Cause.PAUSE)
    low, first, second, high = (submit(scheduler, priority=priority) for priority in (-5, 0, 0, 1000))

    scheduler.resume(Cause.PAUSE, NOW)

    assert started_ids(scheduler) == [high, first, second, low]


def test_no_more_start_than_there_are_slots():
    scheduler = make_scheduler(slots=2)

    ids = [submit(scheduler) for _ in range(3)]

    assert started(scheduler) == [(ids[0], 1, 1), (ids[1], 1, 2)]


def test_a_freed_slot_goes_to_the_next_job():
    scheduler = make_scheduler(slots=2)
    first, _, third = (submit(scheduler) for _ in range(3))
    scheduler.take_effects()

    scheduler.ended(first, 1, Outcome.SUCCEEDED, NOW)

    assert started(scheduler) == [(third, 1, 1)]


def test_a_full_queue_lets_less_urgent_jobs_of_others_pass():
    scheduler = make_scheduler(slots=3, narrow=1)

    first = submit(scheduler, queue="narrow", priority=9)
    waiting = submit(scheduler, queue="narrow", priority=9)
    other = submit(scheduler, priority=-9)

    assert started_ids(scheduler) == [first, other]
    assert scheduler.get(waiting).state is State.QUEUED


def test_urgency_counts_across_queues():
    scheduler = make_scheduler(slots=1, narrow=1)
    scheduler.pause(Cause.PAUSE)
    submit(scheduler, priority=1)
    urgent = submit(scheduler, queue="narrow", priority=2)

    scheduler.resume(Cause.PAUSE, NOW)

    assert started_ids(scheduler) == [urgent]


def test_more_slots_are_used_at_once():
    scheduler = make_scheduler(slots=1)
    ids = [submit(scheduler) for _ in range(3)]
    scheduler.take_effects()

    scheduler.resize(3, {}, NOW)

    assert started_ids(scheduler) == ids[1:]


def test_running_jobs_run_on_when_there_are_fewer_slots():
    scheduler = make_scheduler(slots=3)
    ids = [submit(scheduler) for _ in range(4)]
    scheduler.take_effects()

    scheduler.resize(1, {}, NOW)
    scheduler.ended(ids[0], 1, Outcome.SUCCEEDED, NOW)

    assert {job.id for job in scheduler.active_jobs()} == set(ids[1:3])
    assert started(scheduler) == []


def test_a_queue_that_gets_a_limit_counts_what_already_runs_in_it():
    scheduler = make_scheduler(slots=4)
    first, second, third = (submit(scheduler, queue="narrow") for _ in range(3))
    waiting = submit(scheduler, queue="narrow", delay=1.0)
    scheduler.take_effects()

    scheduler.resize(4, limits(narrow=3), NOW)
    scheduler.advance(at(1.0))
    assert started(scheduler) == []

    scheduler.ended(second, 1, Outcome.SUCCEEDED, at(1.0))
    assert started_ids(scheduler) == [waiting]
    assert {job.id for job in scheduler.active_jobs()} == {first, third, waiting}


def test_a_queue_that_loses_its_limit_shares_the_slots_of_the_daemon():
    scheduler = make_scheduler(slots=2, narrow=1)
    _, job_id = submit(scheduler, queue="narrow"), submit(scheduler, queue="narrow")
    scheduler.take_effects()

    scheduler.resize(2, {}, NOW)

    assert started_ids(scheduler) == [job_id]


def test_while_paused_nothing_starts_and_the_rest_goes_on():
    scheduler = make_scheduler()
    scheduler.pause(Cause.PAUSE)
    job_id = submit(scheduler, delay=5.0)

    scheduler.advance(at(5.0))
    assert scheduler.get(job_id).state is State.QUEUED
    assert started(scheduler) == []

    scheduler.resume(Cause.PAUSE, at(5.0))
    assert started_ids(scheduler) == [job_id]


# --- time ----------------------------------------------------------------------------------------------


def test_a_delayed_job_waits_for_its_time():
    scheduler = make_scheduler()
    job_id = submit(scheduler, now=at(100.0), delay=5.0)

    assert scheduler.get(job_id).state is State.SCHEDULED
    assert scheduler.next_timer_at() == 105.0

    scheduler.advance(at(104.9))
    assert started(scheduler) == []

    scheduler.advance(at(105.0))
    assert started_ids(scheduler) == [job_id]
    assert scheduler.next_timer_at() is None


def test_the_timer_is_set_for_the_earliest_job():
    scheduler = make_scheduler()
    submit(scheduler, delay=5.0)
    submit(scheduler, delay=2.0)
    submit(scheduler, delay=9.0)

    assert scheduler.next_timer_at() == 2.0


def test_a_job_that_comes_due_keeps_its_place_by_priority():
    scheduler = make_scheduler(slots=1)
    running = submit(scheduler)
    urgent = submit(scheduler, priority=1, delay=1.0)
    submit(scheduler)
    scheduler.advance(at(1.0))
    scheduler.take_effects()

    scheduler.ended(running, 1, Outcome.SUCCEEDED, at(1.0))

    assert started_ids(scheduler) == [urgent]


def test_a_job_that_is_cancelled_outside_before_it_runs_is_cancelled_for_that_reason():
    scheduler = make_scheduler(slots=1)
    first, second = submit(scheduler, expires=60.0), submit(scheduler)
    [start] = [each for each in scheduler.take_effects() if isinstance(each, StartAttempt)]
    assert start.expires == NOW.elapsed + 60.0

    assert scheduler.ended(first, 1, Outcome.CANCELLED, NOW, no_start=EXPIRED)

    last = [each for each in scheduler.take_effects() if isinstance(each, SaveJob) and each.job.id == first][
        -1
    ]
    assert (last.job.state, last.reason) == (State.CANCELLED, EXPIRED)
    assert scheduler.get(second).state is State.RUNNING
