from __future__ import annotations

import pytest

from bgd.core.explain import Cause
from bgd.core.job import Job, JobId, Outcome, RetryPolicy, State
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    THREE_RETRIES,
    at,
    end,
    make_scheduler,
    started,
    started_ids,
    submit,
)

# --- reviving ------------------------------------------------------------------------------------------


def finished(state, **fields):
    return Job(JobId(7), state, "default", 0, THREE_RETRIES, **fields)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_finished_job_runs_again_and_its_attempts_go_on_counting(state):
    scheduler = make_scheduler()

    scheduler.revive(finished(state, attempt=4, failures=3), NOW)

    assert started(scheduler) == [(7, 5, 1)]


def test_a_revived_job_has_all_its_retries_again():
    scheduler = make_scheduler()
    scheduler.revive(finished(State.FAILED, attempt=4, failures=3, unseen=2), NOW)

    assert end(scheduler, JobId(7), Outcome.UNKNOWN).job.state is State.SCHEDULED


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_an_unfinished_job_cannot_be_revived(state):
    with pytest.raises(KeyError):
        make_scheduler().revive(finished(state), NOW)


def test_a_job_cannot_be_revived_twice():
    scheduler = make_scheduler()
    scheduler.revive(finished(State.FAILED), NOW)

    with pytest.raises(KeyError):
        scheduler.revive(finished(State.FAILED), NOW)


def test_a_job_cancelled_and_revived_in_the_queue_starts_once():
    scheduler = make_scheduler(slots=2)
    scheduler.pause(Cause.PAUSE)
    job_id = submit(scheduler)
    job = scheduler.get(job_id)
    scheduler.cancel(job_id, NOW)
    scheduler.revive(Job(job_id, State.CANCELLED, job.queue, job.priority, job.policy), NOW)

    scheduler.resume(Cause.PAUSE, NOW)

    assert started_ids(scheduler) == [job_id]


def test_the_time_of_a_cancelled_wait_does_not_count_for_the_next():
    scheduler = make_scheduler()
    submit(scheduler, delay=1.0)  # comes first, so that the cancelled wait stays behind it
    job_id = submit(scheduler, THREE_RETRIES, delay=3.0)
    job = scheduler.get(job_id)
    scheduler.cancel(job_id, NOW)
    scheduler.revive(Job(job_id, State.CANCELLED, job.queue, job.priority, job.policy), NOW)
    end(scheduler, job_id, Outcome.EXIT)

    scheduler.advance(at(3.0))
    assert scheduler.get(job_id).state is State.SCHEDULED

    assert scheduler.next_timer_at() == 5.0


# --- restoring -----------------------------------------------------------------------------------------


def test_restored_jobs_are_as_they_were_and_are_not_saved_again():
    scheduler = make_scheduler(slots=2)
    scheduler.pause(Cause.PAUSE)
    jobs = [
        Job(JobId(1), State.QUEUED, "default", 0, NO_RETRIES),
        Job(JobId(2), State.SCHEDULED, "default", 0, NO_RETRIES, due=50.0),
        Job(JobId(3), State.RUNNING, "default", 0, NO_RETRIES, attempt=2),
        Job(JobId(4), State.STOPPING, "default", 0, NO_RETRIES, attempt=1, making_way=True),
    ]

    for job, slot in zip(jobs, [None, None, 2, 3], strict=True):
        scheduler.restore(job, slot)

    assert [scheduler.get(job.id) for job in jobs] == jobs
    assert scheduler.active_jobs() == jobs[2:]
    assert scheduler.next_timer_at() == 50.0
    assert scheduler.take_effects() == []


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD])
def test_jobs_restored_together_are_as_if_each_was_restored(state):
    together, apart = make_scheduler(slots=3), make_scheduler(slots=3)
    together.restore(Job(JobId(250), state, "default", 1, NO_RETRIES), count=10)
    for number in range(250, 260):
        apart.restore(Job(JobId(number), state, "default", 1, NO_RETRIES))

    for scheduler in (together, apart):
        submit(scheduler)
        submit(scheduler, priority=2)

    assert together.take_effects() == apart.take_effects()
    assert together.counts == apart.counts
    assert len(together) == len(apart)
    assert together.waiting_jobs() == apart.waiting_jobs()


def test_a_restored_slot_is_not_given_to_another():
    scheduler = make_scheduler(slots=3)
    scheduler.restore(Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1), slot=2)

    ids = [submit(scheduler) for _ in range(2)]

    assert started(scheduler) == [(ids[0], 1, 1), (ids[1], 1, 3)]


def test_restored_attempts_count_in_their_queue():
    scheduler = make_scheduler(slots=3, narrow=1)
    scheduler.restore(Job(JobId(1), State.RUNNING, "narrow", 0, NO_RETRIES, attempt=1), slot=1)

    submit(scheduler, queue="narrow")

    assert started(scheduler) == []


def test_an_active_job_without_a_slot_is_not_restored():
    with pytest.raises(ValueError, match="job 1 is running and holds no slot"):
        make_scheduler().restore(Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1))


def test_a_scheduled_job_without_a_time_is_not_restored():
    with pytest.raises(ValueError, match="job 1 is scheduled for no time"):
        make_scheduler().restore(Job(JobId(1), State.SCHEDULED, "default", 0, NO_RETRIES))


# --- memory --------------------------------------------------------------------------------------------


def test_jobs_of_equal_policies_share_one():
    scheduler = make_scheduler()

    first, second = (submit(scheduler, RetryPolicy(retries=7)) for _ in range(2))

    assert scheduler.get(first).policy is scheduler.get(second).policy


def test_jobs_of_a_queue_share_its_name():
    scheduler = make_scheduler()

    first, second = (submit(scheduler, queue=f"long-{kind}") for kind in ("name", "name"))

    assert scheduler.get(first).queue is scheduler.get(second).queue


def test_a_new_policy_each_time_does_not_pile_up():
    scheduler = make_scheduler()
    scheduler.pause(Cause.PAUSE)

    for number in range(1_500):
        scheduler.cancel(submit(scheduler, RetryPolicy(delay=float(number))), NOW)

    assert len(scheduler.table._shared) <= 1001


def test_restored_jobs_of_equal_policies_share_one():
    scheduler = make_scheduler()
    for number in (1, 2):
        scheduler.restore(
            Job(JobId(number), State.HELD, "default", 0, RetryPolicy(retries=1, on_exceptions=()))
        )

    assert scheduler.get(JobId(1)).policy is scheduler.get(JobId(2)).policy
