from __future__ import annotations

import pytest

from bgd.core.job import Conditions, Job, JobId, Outcome, State
from bgd.core.queues import QueueRule, ReadyQueues
from bgd.core.scheduler import PauseReason
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    dead_weight,
    limits,
    scheduler,
    started,
    started_ids,
    submit,
)

MANY = 5_000
PAUSED = QueueRule(paused=True)


def finish(decider, job_id):
    decider.ended(job_id, 1, Outcome.SUCCEEDED, NOW)


# --- large jobs ----------------------------------------------------------------------------------------


def test_a_job_larger_than_all_slots_takes_them_all():
    decider = scheduler(slots=2)
    large, small = submit(decider, slots=9), submit(decider)

    assert started_ids(decider) == [large]
    assert (decider.running, decider.taken) == (1, 2)
    finish(decider, large)
    assert started_ids(decider) == [small]


def test_a_large_job_is_not_overtaken_for_ever():
    decider = scheduler(slots=2)
    first, _, large = submit(decider), submit(decider), submit(decider, slots=2)
    later = [submit(decider, priority=-1) for _ in range(5)]
    decider.take_effects()

    finish(decider, first)
    assert started(decider) == []
    finish(decider, JobId(2))
    assert started_ids(decider) == [large]
    finish(decider, large)
    assert started_ids(decider) == later[:2]


def test_a_job_larger_than_its_queue_runs_alone_in_it_and_beside_others():
    decider = scheduler(slots=4, narrow=2)
    small, large = submit(decider, queue="narrow"), submit(decider, queue="narrow", slots=3)
    behind = submit(decider, queue="narrow")
    other = submit(decider)
    assert started_ids(decider) == [small, other]

    finish(decider, small)
    assert started_ids(decider) == [large]
    finish(decider, large)
    assert started_ids(decider) == [behind]


def test_slot_numbers_stay_within_the_slots_whatever_the_sizes():
    decider = scheduler(slots=4)
    submit(decider, slots=2)
    submit(decider)
    submit(decider)
    assert [slot for _, _, slot in started(decider)] == [1, 2, 3]

    decider.resize(2, {}, NOW)
    for job_id in map(JobId, (1, 3)):
        finish(decider, job_id)
    submit(decider)
    assert [slot for _, _, slot in started(decider)] == [1]


def test_a_running_job_keeps_its_number_of_slots_when_there_are_more():
    decider = scheduler(slots=2)
    submit(decider, slots=4)
    small = submit(decider)
    decider.take_effects()

    decider.resize(3, {}, NOW)

    assert started_ids(decider) == [small]
    assert decider.taken == 3


def test_a_restored_job_takes_as_many_slots_as_it_asks_for():
    decider = scheduler(slots=3)
    decider.restore(
        Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1, conditions=Conditions(slots=2)),
        slot=3,
    )

    ids = [submit(decider) for _ in range(2)]

    assert started(decider) == [(ids[0], 1, 1)]


# --- rules ---------------------------------------------------------------------------------------------


def test_a_paused_queue_starts_nothing_although_its_jobs_were_in_the_shared_heap():
    decider = scheduler(slots=1)
    running = submit(decider)
    first, other, second = submit(decider, queue="a"), submit(decider, queue="b"), submit(decider, queue="a")
    decider.take_effects()

    decider.resize(1, {"a": PAUSED}, NOW)
    finish(decider, running)
    assert started_ids(decider) == [other]
    finish(decider, other)
    assert started_ids(decider) == []
    decider.resize(2, {}, NOW)

    assert started_ids(decider) == [first, second]


def test_the_most_urgent_job_of_many_limited_queues_starts():
    names = [f"q{number}" for number in range(20)]  # so many that no order of looking finds only better ones
    decider = scheduler(slots=1, **dict.fromkeys(names, 1))
    running = submit(decider)
    decider.take_effects()
    mixed = [index * 7 % len(names) for index in range(len(names))]
    ids = {
        priority: submit(decider, queue=name, priority=priority)
        for name, priority in zip(names, mixed, strict=True)
    }

    for priority in sorted(ids, reverse=True):
        finish(decider, running)
        running = ids[priority]
        assert started_ids(decider) == [running]


def test_a_queue_may_be_paused_and_limited_at_once():
    decider = scheduler(slots=3)

    decider.resize(3, {"a": QueueRule(slots=1, paused=True)}, NOW)
    ids = [submit(decider, queue="a") for _ in range(2)]
    assert started_ids(decider) == []
    decider.resize(3, limits(a=1), NOW)

    assert started_ids(decider) == ids[:1]


def test_rules_that_come_and_go_leave_nothing_behind():
    decider = scheduler(slots=1)
    running = submit(decider, priority=9)
    ids = [submit(decider, queue=queue) for queue in ("a", "b", "a")]
    decider.take_effects()

    for number in range(MANY):
        decider.resize(1, {"a": PAUSED, f"queue-{number}": PAUSED}, NOW)
        decider.resize(1, {}, NOW)
    assert len(decider._table.queues._heaps) < 5
    for job_id in [running, *ids]:
        finish(decider, job_id)

    assert started_ids(decider) == ids
    assert dead_weight(decider) == 0


def test_jobs_cancelled_after_their_queue_got_a_rule_do_not_pile_up():
    decider = scheduler(slots=1)
    submit(decider, slots=1)
    submit(decider, priority=9)  # jobs behind it in the shared heap do not come to the top
    ids = [submit(decider, queue="a") for _ in range(MANY)]

    decider.resize(1, {"a": PAUSED}, NOW)
    for job_id in ids:
        decider.cancel(job_id, NOW)

    assert dead_weight(decider) < 400


# --- pauses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", PauseReason)
def test_nothing_starts_until_the_last_reason_to_pause_has_ended(last):
    decider = scheduler()
    for why in PauseReason:
        decider.pause(why)
    job_id = submit(decider)

    for why in set(PauseReason) - {last}:
        decider.resume(why, NOW)
    assert started_ids(decider) == []
    decider.resume(last, NOW)

    assert started_ids(decider) == [job_id]


# --- many queues ------------------------------------------------------------------------------------------


def test_a_new_job_costs_no_look_at_queues_that_cannot_start_anything():
    looks = 0

    def look(job_id):
        nonlocal looks
        looks += 1
        return jobs.get(job_id)

    names = [f"queue{number}" for number in range(MANY)]
    jobs = {
        JobId(number): Job(JobId(number), State.QUEUED, name, 0, NO_RETRIES)
        for number, name in enumerate(names, start=1)
    }
    queues = ReadyQueues(1, dict.fromkeys(names, PAUSED), look)
    for job in jobs.values():
        queues.push(job)
    assert queues.take_next() is None

    looks = 0
    queues.push(jobs[JobId(1)])
    assert queues.take_next() is None
    assert looks < 10
