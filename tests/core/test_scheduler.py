from __future__ import annotations

from bgd.core.job import Job, JobId, Move, Outcome, State
from bgd.core.scheduler import SUBMIT, PauseReason, SaveJob, Scheduler, StartAttempt
from tests.core.scheduling import NO_RETRIES, NOW, at, limits, scheduler, spec, started, started_ids, submit

# --- submitting and starting ---------------------------------------------------------------------------


def test_a_job_is_saved_before_it_starts():
    decider = scheduler()
    wanted = spec()

    job_id = decider.submit(wanted, NO_RETRIES, at(7.0))

    first, second, start = decider.take_effects()
    assert first == SaveJob(Job(job_id, State.QUEUED, "default", 0, NO_RETRIES), 1007.0, SUBMIT, spec=wanted)
    assert (second.job.state, second.job.attempt) == (State.RUNNING, 1)
    assert (second.what, second.spec) == (Move.START, None)
    assert start == StartAttempt(second.job, slot=1)


def test_effects_are_returned_once():
    decider = scheduler()
    submit(decider)

    assert decider.take_effects()
    assert decider.take_effects() == []


def test_running_counts_the_jobs_that_hold_a_slot():
    decider = scheduler(slots=2)
    first, _, _ = submit(decider), submit(decider), submit(decider)
    assert decider.running == 2

    decider.cancel(first, NOW)
    assert decider.running == 2  # it is only asked to end

    decider.pause(PauseReason.ASKED)
    decider.ended(first, 1, Outcome.CANCELLED, NOW)
    assert decider.running == 1


def test_ids_go_on_after_the_highest_that_was_ever_given_out():
    decider = Scheduler(1, {}, last_id=41, roll=lambda: 0.5)

    assert submit(decider) == 42


def test_ids_go_on_after_the_highest_restored():
    decider = scheduler()
    decider.restore(Job(JobId(9), State.QUEUED, "default", 0, NO_RETRIES))

    assert submit(decider) == 10


def test_the_most_urgent_starts_first_and_the_oldest_among_equals():
    decider = scheduler(slots=4)
    decider.pause(PauseReason.ASKED)
    low, first, second, high = (submit(decider, priority=priority) for priority in (-5, 0, 0, 1000))

    decider.resume(PauseReason.ASKED, NOW)

    assert started_ids(decider) == [high, first, second, low]


def test_no_more_start_than_there_are_slots():
    decider = scheduler(slots=2)

    ids = [submit(decider) for _ in range(3)]

    assert started(decider) == [(ids[0], 1, 1), (ids[1], 1, 2)]


def test_a_freed_slot_goes_to_the_next_job():
    decider = scheduler(slots=2)
    first, _, third = (submit(decider) for _ in range(3))
    decider.take_effects()

    decider.ended(first, 1, Outcome.SUCCEEDED, NOW)

    assert started(decider) == [(third, 1, 1)]


def test_a_full_queue_lets_less_urgent_jobs_of_others_pass():
    decider = scheduler(slots=3, narrow=1)

    first = submit(decider, queue="narrow", priority=9)
    waiting = submit(decider, queue="narrow", priority=9)
    other = submit(decider, priority=-9)

    assert started_ids(decider) == [first, other]
    assert decider.get(waiting).state is State.QUEUED


def test_urgency_counts_across_queues():
    decider = scheduler(slots=1, narrow=1)
    decider.pause(PauseReason.ASKED)
    submit(decider, priority=1)
    urgent = submit(decider, queue="narrow", priority=2)

    decider.resume(PauseReason.ASKED, NOW)

    assert started_ids(decider) == [urgent]


def test_more_slots_are_used_at_once():
    decider = scheduler(slots=1)
    ids = [submit(decider) for _ in range(3)]
    decider.take_effects()

    decider.resize(3, {}, NOW)

    assert started_ids(decider) == ids[1:]


def test_running_jobs_run_on_when_there_are_fewer_slots():
    decider = scheduler(slots=3)
    ids = [submit(decider) for _ in range(4)]
    decider.take_effects()

    decider.resize(1, {}, NOW)
    decider.ended(ids[0], 1, Outcome.SUCCEEDED, NOW)

    assert {job.id for job in decider.active_jobs()} == set(ids[1:3])
    assert started(decider) == []


def test_a_queue_that_gets_a_limit_counts_what_already_runs_in_it():
    decider = scheduler(slots=4)
    first, second, third = (submit(decider, queue="narrow") for _ in range(3))
    waiting = submit(decider, queue="narrow", delay=1.0)
    decider.take_effects()

    decider.resize(4, limits(narrow=3), NOW)
    decider.advance(at(1.0))
    assert started(decider) == []

    decider.ended(second, 1, Outcome.SUCCEEDED, at(1.0))
    assert started_ids(decider) == [waiting]
    assert {job.id for job in decider.active_jobs()} == {first, third, waiting}


def test_a_queue_that_loses_its_limit_shares_the_slots_of_the_daemon():
    decider = scheduler(slots=2, narrow=1)
    _, job_id = submit(decider, queue="narrow"), submit(decider, queue="narrow")
    decider.take_effects()

    decider.resize(2, {}, NOW)

    assert started_ids(decider) == [job_id]


def test_while_paused_nothing_starts_and_the_rest_goes_on():
    decider = scheduler()
    decider.pause(PauseReason.ASKED)
    job_id = submit(decider, delay=5.0)

    decider.advance(at(5.0))
    assert decider.get(job_id).state is State.QUEUED
    assert started(decider) == []

    decider.resume(PauseReason.ASKED, at(5.0))
    assert started_ids(decider) == [job_id]


# --- time ----------------------------------------------------------------------------------------------


def test_a_delayed_job_waits_for_its_time():
    decider = scheduler()
    job_id = submit(decider, now=at(100.0), delay=5.0)

    assert decider.get(job_id).state is State.SCHEDULED
    assert decider.next_timer_at() == 105.0

    decider.advance(at(104.9))
    assert started(decider) == []

    decider.advance(at(105.0))
    assert started_ids(decider) == [job_id]
    assert decider.next_timer_at() is None


def test_the_timer_is_set_for_the_earliest_job():
    decider = scheduler()
    submit(decider, delay=5.0)
    submit(decider, delay=2.0)
    submit(decider, delay=9.0)

    assert decider.next_timer_at() == 2.0


def test_a_job_that_comes_due_keeps_its_place_by_priority():
    decider = scheduler(slots=1)
    running = submit(decider)
    urgent = submit(decider, priority=1, delay=1.0)
    submit(decider)
    decider.advance(at(1.0))
    decider.take_effects()

    decider.ended(running, 1, Outcome.SUCCEEDED, at(1.0))

    assert started_ids(decider) == [urgent]
