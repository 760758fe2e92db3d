"""What the Scheduler knows of permits: which jobs may have some, and what became of their attempts."""

from __future__ import annotations

from math import inf

import pytest

from bgd.core.explain import Cause
from bgd.core.heaps import ReadyHeap
from bgd.core.job import JobId, Move, Outcome, Rate, RetryPolicy, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import Scheduler
from tests.core.scheduling import NOW, THREE_RETRIES, at, make_scheduler, spec, started, started_ids, submit


def ids(jobs):
    return [job.id for job in jobs]


def with_rules(slots=1, **rules):
    return Scheduler(slots, rules, last_id=0, roll=lambda: 0.5, resources={"gpu": ("0",)})


def test_the_next_jobs_are_those_that_start_next():
    scheduler = make_scheduler()
    _, later, _, urgent, last = (submit(scheduler, priority=priority) for priority in (0, 0, -1, 1, 0))

    assert ids(scheduler.next_jobs(3)) == [urgent, later, last]
    assert len(scheduler.next_jobs(9)) == 4


def test_queues_with_weights_take_turns_among_the_next_jobs():
    scheduler = with_rules(a=QueueRule(weight=1), b=QueueRule(weight=1))
    submit(scheduler)
    first, second, other = (
        submit(scheduler, queue="a"),
        submit(scheduler, queue="a"),
        submit(scheduler, queue="b"),
    )

    assert ids(scheduler.next_jobs(3)) == [first, other, second]


@pytest.mark.parametrize("why", [Cause.PAUSE, Cause.LAUNCHER, Cause.SHUTDOWN])
def test_no_job_is_next_while_something_pauses_all(why):
    scheduler = make_scheduler()
    submit(scheduler), submit(scheduler)
    scheduler.pause(why)

    assert scheduler.next_jobs(1) == []


def test_jobs_of_a_paused_queue_or_one_that_has_reached_its_rate_are_not_next():
    rate = Rate(1, 60.0, "1/1m")
    scheduler = with_rules(
        4,
        paused=QueueRule(paused=True),
        rated=QueueRule(rate=rate),
        slow=QueueRule(rate=rate),
        free=QueueRule(slots=1),
    )
    submit(scheduler, queue="rated"), submit(scheduler, queue="free")
    for queue in ("paused", "rated"):
        submit(scheduler, queue=queue)
    may = submit(scheduler, queue="free")

    assert ids(scheduler.next_jobs(9)) == [may]


def test_jobs_with_tokens_calls_that_may_be_paused_and_jobs_without_slots_are_not_next():
    scheduler = with_rules(1, far=QueueRule(elsewhere=True, slots=1))
    submit(scheduler), submit(scheduler, queue="far")
    submit(scheduler, resources={"gpu": 1})
    submit(scheduler, RetryPolicy(breaker="app.*"))
    submit(scheduler, queue="far")

    assert scheduler.next_jobs(9) == []


def test_jobs_whose_key_is_taken_are_not_next():
    scheduler = make_scheduler()
    submit(scheduler, limit=("a", 1))
    submit(scheduler, limit=("a", 1))
    free = submit(scheduler, limit=("b", 1))

    assert ids(scheduler.next_jobs(9)) == [free]


def test_few_of_the_next_jobs_are_found_among_many_dead_entries():
    heap = ReadyHeap(lambda job_id, _: job_id > 100)
    heap.push(JobId(1), 0, 200)

    assert heap.first(2) == []


def test_the_next_jobs_are_found_across_runs_and_priorities():
    heap = ReadyHeap(lambda _, __: True)
    for first, priority in ((7, 0), (3, 0), (9, 1), (1, 0)):
        heap.push(JobId(first), priority, 2)

    assert [job_id for _, job_id in heap.first(6)] == [9, 10, 1, 2, 3, 4]
    assert heap.first(0) == []
    assert len(heap.first(20)) == 8


def frozen(**options):
    scheduler = make_scheduler()
    scheduler.pause(Cause.LAUNCHER)
    job = submit(scheduler, **options)
    scheduler.is_frozen = True
    scheduler.take_effects()
    return scheduler, job


def test_nothing_happens_by_itself_while_attempts_may_have_begun():
    scheduler, job = frozen(expires=5.0)
    scheduler.resume(Cause.LAUNCHER, NOW)
    scheduler.advance(at(10.0))

    assert scheduler.next_timer_at() is None
    assert scheduler.get(job).state is State.QUEUED
    assert scheduler.next_jobs(1) == []
    scheduler.is_frozen = False
    scheduler.advance(at(10.0))
    assert scheduler.get(job) is None


@pytest.mark.parametrize(("slot", "taken"), [(3, 3), (0, 1)])
def test_an_adopted_attempt_holds_its_slot(slot, taken):
    scheduler, job = frozen()
    scheduler.adopt(job, slot, NOW)

    assert scheduler.starts == []
    assert started(scheduler) == [(job, 1, taken)]
    assert scheduler.get(job).state is State.RUNNING
    scheduler.is_frozen = False
    scheduler.resume(Cause.LAUNCHER, NOW)
    assert scheduler.ended(job, 1, Outcome.SUCCEEDED, NOW)


def test_an_adopted_attempt_counts_for_the_rate_of_its_queue():
    scheduler = with_rules(2, rated=QueueRule(rate=Rate(1, 60.0, "1/1m")))
    scheduler.pause(Cause.LAUNCHER)
    job, other = submit(scheduler, queue="rated"), submit(scheduler, queue="rated")
    scheduler.table.queues.now = -inf  # as after a restart
    scheduler.is_frozen = True
    scheduler.adopt(job, 1, at(5.0))
    scheduler.is_frozen = False
    scheduler.resume(Cause.LAUNCHER, at(6.0))

    assert scheduler.get(other).state is State.QUEUED
    assert scheduler.next_timer_at() == 65.0


def test_a_queued_job_that_is_edited_to_wait_is_deferred_and_not_retried():
    scheduler = make_scheduler()
    _, job = submit(scheduler), submit(scheduler)
    scheduler.take_effects()
    scheduler.edit(job, spec(delay=60.0), RetryPolicy(), {"delay"}, NOW)

    assert [effect.what for effect in scheduler.take_effects()] == [Move.DEFER]


@pytest.mark.parametrize(
    ("outcome", "policy", "state"),
    [
        (Outcome.INTERRUPTED, RetryPolicy(), None),
        (Outcome.INTERRUPTED, RetryPolicy(rerun=True), State.QUEUED),
        (Outcome.UNKNOWN, THREE_RETRIES, State.SCHEDULED),
    ],
)
def test_rerun_decides_what_follows_an_attempt_that_may_have_begun(outcome, policy, state):
    scheduler, job = frozen(policy=policy)
    scheduler.may_have_begun(job, outcome, NOW)

    known = scheduler.get(job)
    assert (known and known.state) == state
    assert started_ids(scheduler) == []
    assert scheduler.taken == 0
    if state is State.QUEUED:
        scheduler.is_frozen = False
        scheduler.resume(Cause.LAUNCHER, NOW)
        assert started(scheduler) == [(job, 2, 1)]
