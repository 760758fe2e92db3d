from __future__ import annotations

import pytest

from bgd.core.job import Job, JobId, JobSpec, Now, Outcome, RetryPolicy, State
from bgd.core.scheduler import Save, Scheduler, Start, Stop

NO_RETRIES = RetryPolicy()
THREE_RETRIES = RetryPolicy(retries=3, delay=5.0, jitter=0.0)


def at(elapsed):
    return Now(elapsed=elapsed, wall=1000.0 + elapsed)


NOW = at(0.0)


def spec(**options):
    return JobSpec(argv=("true",), **options)


def scheduler(slots=1, **queue_slots):
    return Scheduler(slots, queue_slots, last_id=0, roll=lambda: 0.5)


def submit(decider, policy=NO_RETRIES, now=NOW, **options):
    return decider.submit(spec(**options), policy, now)


def started(decider):
    """Take the effects; return what is to be started, as (job, attempt, slot)."""
    return [
        (effect.job.id, effect.job.attempt, effect.slot)
        for effect in decider.take_effects()
        if isinstance(effect, Start)
    ]


def started_ids(decider):
    return [job_id for job_id, _, _ in started(decider)]


def end(decider, job_id, outcome=Outcome.SUCCEEDED, now=NOW):
    """End the job's attempt and return what is written down of that."""
    decider.take_effects()
    assert decider.ended(job_id, decider.get(job_id).attempt, outcome, now)
    return next(effect for effect in decider.take_effects() if isinstance(effect, Save))


# --- submitting and starting ---------------------------------------------------------------------------


def test_a_job_is_written_down_before_it_starts():
    decider = scheduler()
    wanted = spec()

    job_id = decider.submit(wanted, NO_RETRIES, at(7.0))

    first, second, start = decider.take_effects()
    assert first == Save(Job(job_id, State.QUEUED, "default", 0, NO_RETRIES), 1007.0, spec=wanted)
    assert (second.job.state, second.job.attempt, second.spec) == (State.RUNNING, 1, None)
    assert start == Start(second.job, slot=1)


def test_effects_are_handed_over_once():
    decider = scheduler()
    submit(decider)

    assert decider.take_effects()
    assert decider.take_effects() == []


def test_ids_go_on_after_the_highest_ever_given():
    decider = Scheduler(1, {}, last_id=41, roll=lambda: 0.5)

    assert submit(decider) == 42


def test_ids_go_on_after_the_highest_restored():
    decider = scheduler()
    decider.restore(Job(JobId(9), State.QUEUED, "default", 0, NO_RETRIES))

    assert submit(decider) == 10


def test_the_most_urgent_starts_first_and_the_oldest_among_equals():
    decider = scheduler(slots=4)
    decider.pause()
    low, first, second, high = (submit(decider, priority=priority) for priority in (-5, 0, 0, 1000))

    decider.resume(NOW)

    assert started_ids(decider) == [high, first, second, low]


def test_no_more_start_than_there_are_slots():
    decider = scheduler(slots=2)

    ids = [submit(decider) for _ in range(3)]

    assert started(decider) == [(ids[0], 1, 1), (ids[1], 1, 2)]


def test_a_freed_slot_goes_to_the_next_in_line():
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


def test_a_queue_without_slots_starts_nothing():
    decider = scheduler(slots=3, closed=0)

    submit(decider, queue="closed")

    assert started(decider) == []


def test_urgency_counts_across_queues():
    decider = scheduler(slots=1, narrow=1)
    decider.pause()
    submit(decider, priority=1)
    urgent = submit(decider, queue="narrow", priority=2)

    decider.resume(NOW)

    assert started_ids(decider) == [urgent]


def test_more_slots_are_used_at_once():
    decider = scheduler(slots=1)
    ids = [submit(decider) for _ in range(3)]
    decider.take_effects()

    decider.resize(3, {}, NOW)

    assert started_ids(decider) == ids[1:]


def test_fewer_slots_let_run_what_runs():
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

    decider.resize(4, {"narrow": 3}, NOW)
    decider.advance(at(1.0))
    assert started(decider) == []

    decider.ended(second, 1, Outcome.SUCCEEDED, at(1.0))
    assert started_ids(decider) == [waiting]
    assert {job.id for job in decider.active_jobs()} == {first, third, waiting}


def test_a_queue_that_loses_its_limit_shares_the_slots_of_the_daemon():
    decider = scheduler(slots=2, narrow=0)
    job_id = submit(decider, queue="narrow")

    decider.resize(2, {}, NOW)

    assert started_ids(decider) == [job_id]


def test_while_paused_nothing_starts_and_the_rest_goes_on():
    decider = scheduler()
    decider.pause()
    job_id = submit(decider, delay=5.0)

    decider.advance(at(5.0))
    assert decider.get(job_id).state is State.QUEUED
    assert started(decider) == []

    decider.resume(at(5.0))
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


def test_the_timer_rings_for_the_earliest():
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


# --- cancelling and making way -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"delay": 5.0}])
def test_a_waiting_job_is_cancelled_at_once(options):
    decider = scheduler()
    decider.pause()
    job_id = submit(decider, **options)
    decider.take_effects()

    assert decider.cancel(job_id, at(1.0)) is State.CANCELLED

    (save,) = decider.take_effects()
    assert (save.job.state, save.job.due, save.at) == (State.CANCELLED, None, 1001.0)
    assert decider.next_timer_at() is None
    decider.resume(at(9.0))
    assert started(decider) == []


def test_a_running_job_is_stopped_and_cancelled_when_it_has_ended():
    decider = scheduler()
    job_id = submit(decider, THREE_RETRIES)
    decider.take_effects()

    assert decider.cancel(job_id, NOW) is State.STOPPING

    save, stop = decider.take_effects()
    assert stop == Stop(save.job)
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


def test_nobody_cancels_a_job_that_is_not_there():
    with pytest.raises(KeyError):
        scheduler().cancel(JobId(1), NOW)


def test_a_job_that_makes_way_runs_again():
    decider = scheduler()
    job_id = submit(decider)
    decider.take_effects()

    decider.make_way(job_id, NOW)
    save, stop = decider.take_effects()
    assert (save.job.state, save.job.making_way) == (State.STOPPING, True)
    assert stop == Stop(save.job)

    decider.ended(job_id, 1, Outcome.CANCELLED, NOW)
    assert not decider.get(job_id).making_way
    assert started(decider) == [(job_id, 2, 1)]


def test_a_job_that_makes_way_can_be_cancelled_after_all():
    decider = scheduler()
    job_id = submit(decider)
    decider.make_way(job_id, NOW)
    decider.take_effects()

    assert decider.cancel(job_id, NOW) is State.STOPPING
    (save,) = decider.take_effects()
    assert not save.job.making_way

    assert end(decider, job_id, Outcome.CANCELLED).job.state is State.CANCELLED


def test_only_running_jobs_make_way():
    decider = scheduler()
    decider.pause()
    waiting = submit(decider)
    decider.take_effects()

    decider.make_way(waiting, NOW)

    assert decider.take_effects() == []


def test_cancelled_jobs_do_not_pile_up():
    decider = scheduler()
    decider.pause()
    submit(decider, priority=9)
    submit(decider, delay=1.0)

    for _ in range(5_000):
        decider.cancel(submit(decider), NOW)
        decider.cancel(submit(decider, delay=5.0), NOW)

    assert sum(map(len, decider._lanes.values())) < 200
    assert len(decider._due) < 200


# --- reviving ------------------------------------------------------------------------------------------


def finished(state, **fields):
    return Job(JobId(7), state, "default", 0, THREE_RETRIES, **fields)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_finished_job_runs_again_and_its_attempts_go_on_counting(state):
    decider = scheduler()

    decider.revive(finished(state, attempt=4, failures=3), NOW)

    assert started(decider) == [(7, 5, 1)]


def test_a_revived_job_has_all_its_retries_again():
    decider = scheduler()
    decider.revive(finished(State.FAILED, attempt=4, failures=3, unseen=2), NOW)

    assert end(decider, JobId(7), Outcome.UNKNOWN).job.state is State.SCHEDULED


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_an_unfinished_job_cannot_be_revived(state):
    with pytest.raises(KeyError):
        scheduler().revive(finished(state), NOW)


def test_a_job_cannot_be_revived_twice():
    decider = scheduler()
    decider.revive(finished(State.FAILED), NOW)

    with pytest.raises(KeyError):
        decider.revive(finished(State.FAILED), NOW)


def test_a_job_cancelled_and_revived_in_the_queue_starts_once():
    decider = scheduler(slots=2)
    decider.pause()
    job_id = submit(decider)
    job = decider.get(job_id)
    decider.cancel(job_id, NOW)
    decider.revive(Job(job_id, State.CANCELLED, job.queue, job.priority, job.policy), NOW)

    decider.resume(NOW)

    assert started_ids(decider) == [job_id]


def test_the_time_of_a_cancelled_wait_does_not_count_for_the_next():
    decider = scheduler()
    submit(decider, delay=1.0)  # comes first, so that the cancelled wait stays behind it
    job_id = submit(decider, THREE_RETRIES, delay=3.0)
    job = decider.get(job_id)
    decider.cancel(job_id, NOW)
    decider.revive(Job(job_id, State.CANCELLED, job.queue, job.priority, job.policy), NOW)
    end(decider, job_id, Outcome.EXIT)

    decider.advance(at(3.0))
    assert decider.get(job_id).state is State.SCHEDULED

    assert decider.next_timer_at() == 5.0


# --- restoring -----------------------------------------------------------------------------------------


def test_restored_jobs_are_as_they_were_and_need_no_writing():
    decider = scheduler(slots=2)
    decider.pause()
    jobs = [
        Job(JobId(1), State.QUEUED, "default", 0, NO_RETRIES),
        Job(JobId(2), State.SCHEDULED, "default", 0, NO_RETRIES, due=50.0),
        Job(JobId(3), State.RUNNING, "default", 0, NO_RETRIES, attempt=2),
        Job(JobId(4), State.STOPPING, "default", 0, NO_RETRIES, attempt=1, making_way=True),
    ]

    for job, slot in zip(jobs, [None, None, 2, 3], strict=True):
        decider.restore(job, slot)

    assert [decider.get(job.id) for job in jobs] == jobs
    assert decider.active_jobs() == jobs[2:]
    assert decider.next_timer_at() == 50.0
    assert decider.take_effects() == []


def test_a_restored_slot_is_not_given_to_another():
    decider = scheduler(slots=3)
    decider.restore(Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1), slot=2)

    ids = [submit(decider) for _ in range(2)]

    assert started(decider) == [(ids[0], 1, 1), (ids[1], 1, 3)]


def test_restored_attempts_count_for_their_queue():
    decider = scheduler(slots=3, narrow=1)
    decider.restore(Job(JobId(1), State.RUNNING, "narrow", 0, NO_RETRIES, attempt=1), slot=1)

    submit(decider, queue="narrow")

    assert started(decider) == []


def test_an_active_job_without_a_slot_is_not_restored():
    with pytest.raises(ValueError, match="job 1 is running and holds no slot"):
        scheduler().restore(Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1))


def test_a_scheduled_job_without_a_time_is_not_restored():
    with pytest.raises(ValueError, match="job 1 is scheduled for no time"):
        scheduler().restore(Job(JobId(1), State.SCHEDULED, "default", 0, NO_RETRIES))


# --- memory --------------------------------------------------------------------------------------------


def test_jobs_of_equal_policies_share_one():
    decider = scheduler()

    first, second = (submit(decider, RetryPolicy(retries=7)) for _ in range(2))

    assert decider.get(first).policy is decider.get(second).policy


def test_a_new_policy_each_time_does_not_pile_up():
    decider = scheduler()
    decider.pause()

    for number in range(3_000):
        decider.cancel(submit(decider, RetryPolicy(delay=float(number))), NOW)

    assert len(decider._policies) <= 1001
