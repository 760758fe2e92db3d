"""Limits by key: who takes a place, who waits, who is skipped; and what it costs."""

from __future__ import annotations

from collections import Counter

import pytest

from bgd.core.explain import MAX_AHEAD, Cause, Reason, holders_in_words, in_words
from bgd.core.job import Conditions, Job, JobId, KeyLimit, Outcome, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import SaveJob, Scheduler
from bgd.core.spec import OnLimit
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

ONE, TWO = ("customer:9", 1), ("customer:9", 2)
MAIL = {"mail": QueueRule(slots=1)}


def uses(scheduler):
    return scheduler.table.queues.limits._uses


def submit_all(scheduler, *limits, **options):
    return [submit(scheduler, limit=limit, **options) for limit in limits]


# --- places -----------------------------------------------------------------------------------------------


def test_a_job_waits_for_its_key_and_holds_back_no_job_with_another_key():
    scheduler = make_scheduler(slots=2)
    first, second = submit_all(scheduler, ONE, ONE)
    other, plain = submit_all(scheduler, ("customer:8", 1), None)

    assert started_ids(scheduler) == [first, other]
    end(scheduler, other)
    assert scheduler.get(plain).state is State.RUNNING
    assert scheduler.get(second).state is State.QUEUED
    end(scheduler, first)
    assert scheduler.get(second).state is State.RUNNING


def test_jobs_get_a_place_by_priority_and_then_in_their_order():
    scheduler = make_scheduler(slots=9)
    first, second, third = submit_all(scheduler, ONE, ONE, ONE)
    urgent = submit(scheduler, limit=ONE, priority=5)
    order = []
    for _ in range(4):
        [running] = scheduler.active_jobs()
        order.append(running.id)
        end(scheduler, running.id)

    assert order == [first, urgent, second, third]


def test_a_key_counts_across_queues_and_a_paused_queue_keeps_no_place():
    scheduler = make_scheduler(slots=9)
    scheduler.resize(9, {"paused": QueueRule(paused=True)}, NOW)
    first = submit(scheduler, limit=ONE)
    paused = submit(scheduler, limit=ONE, queue="paused", priority=5)
    second = submit(scheduler, limit=ONE, queue="mail")
    end(scheduler, first)

    assert [job.id for job in scheduler.active_jobs()] == [second]
    scheduler.resize(9, {"paused": QueueRule()}, NOW)
    assert scheduler.get(paused).state is State.QUEUED
    end(scheduler, second)
    assert scheduler.get(paused).state is State.RUNNING


def test_a_queue_that_gets_a_rule_takes_its_waiting_jobs_along():
    scheduler = make_scheduler(slots=9)
    first, mail, film = (submit(scheduler, limit=ONE, queue=queue) for queue in ("default", "mail", "film"))
    scheduler.resize(9, {"mail": QueueRule(paused=True)}, NOW)
    end(scheduler, first)

    assert scheduler.get(film).state is State.RUNNING
    assert scheduler.get(mail).state is State.QUEUED


def test_a_waiting_job_claims_no_tokens_and_no_slots_of_its_queue():
    scheduler = make_scheduler(slots=9)
    scheduler.resize(9, {}, NOW, {"gpu": ("0", "1")})
    small = submit(scheduler, resources={"gpu": 1})
    large = submit(scheduler, resources={"gpu": 2}, limit=ONE)
    behind = submit(scheduler, resources={"gpu": 1})
    assert scheduler.get(behind).state is State.QUEUED  # the large one has a place, and claims both
    holder = submit(scheduler, limit=ONE)

    assert scheduler.get(behind).state is State.RUNNING
    for job in (small, behind):
        end(scheduler, job)
    assert scheduler.get(large).state is State.QUEUED
    end(scheduler, holder)
    assert scheduler.get(large).state is State.RUNNING


@pytest.mark.parametrize("leave", [Scheduler.cancel, Scheduler.hold])
def test_the_next_job_takes_the_place_of_one_that_no_longer_waits(leave):
    scheduler = make_scheduler(slots=1)
    first, second, third = submit_all(scheduler, ONE, ONE, ONE)
    blocker = submit(scheduler, priority=9)
    end(scheduler, first)  # the second is back in its lane, behind the blocker
    leave(scheduler, second, NOW)
    end(scheduler, blocker)

    assert [job.id for job in scheduler.active_jobs()] == [third]


def test_a_waiting_job_that_is_cancelled_is_never_started():
    scheduler = make_scheduler(slots=9)
    first, second, third = submit_all(scheduler, ONE, ONE, ONE)
    scheduler.cancel(second, NOW)
    end(scheduler, first)

    assert [job.id for job in scheduler.active_jobs()] == [third]


def test_the_key_is_free_between_two_attempts():
    scheduler = make_scheduler(slots=9)
    first = submit(scheduler, THREE_RETRIES, limit=ONE)
    second = submit(scheduler, limit=ONE)
    end(scheduler, first, Outcome.EXIT)

    assert scheduler.get(second).state is State.RUNNING
    scheduler.advance(at(5.0))
    assert scheduler.get(first).state is State.QUEUED
    end(scheduler, second, now=at(6.0))
    assert scheduler.get(first).state is State.RUNNING


# --- the number of places ---------------------------------------------------------------------------------


def test_the_newest_job_says_how_many_places_there_are():
    scheduler = make_scheduler(slots=9)
    first, second = submit_all(scheduler, ONE, ONE)
    third = submit(scheduler, limit=TWO)

    assert started_ids(scheduler) == [first, second]
    fourth = submit(scheduler, limit=ONE)
    end(scheduler, first)
    assert [job.id for job in scheduler.active_jobs()] == [second]
    end(scheduler, second)
    assert [job.id for job in scheduler.active_jobs()] == [third]
    end(scheduler, third)
    assert [job.id for job in scheduler.active_jobs()] == [fourth]


def test_an_older_job_does_not_change_what_a_newer_one_says():
    scheduler = make_scheduler(slots=9)
    late = submit(scheduler, limit=TWO, delay=5.0)
    first, second = submit_all(scheduler, ONE, ONE)
    scheduler.advance(at(5.0))

    assert started_ids(scheduler) == [first]
    assert {scheduler.get(job).state for job in (late, second)} == {State.QUEUED}


def test_jobs_queued_while_nothing_ran_get_the_places_of_the_newest_that_comes_to_the_top():
    scheduler = make_scheduler(slots=1)
    blocker = submit(scheduler)
    first, second, third = submit_all(scheduler, ONE, ONE, TWO)
    scheduler.resize(4, {}, NOW)

    assert started_ids(scheduler) == [blocker, first, second]
    end(scheduler, first)
    assert scheduler.get(third).state is State.RUNNING


def test_a_larger_number_lets_as_many_start_as_there_are_places():
    scheduler = make_scheduler(slots=9)
    first, second, third, fourth = submit_all(scheduler, ONE, ONE, ONE, ONE)
    last = submit(scheduler, limit=("customer:9", 3))

    assert started_ids(scheduler) == [first, second, third]
    assert {scheduler.get(job).state for job in (fourth, last)} == {State.QUEUED}


# --- skipping ---------------------------------------------------------------------------------------------


def skip(scheduler, **options):
    return submit(scheduler, limit=ONE, on_limit=OnLimit.SKIP, **options)


def test_a_job_that_skips_is_cancelled_at_its_turn_and_says_who_holds_the_key():
    scheduler = make_scheduler(slots=9)
    first = submit(scheduler, limit=ONE)
    skipped = skip(scheduler)

    last = [each for each in scheduler.take_effects() if isinstance(each, SaveJob)][-1]
    assert (last.job.id, last.job.state) == (skipped, State.CANCELLED)
    assert last.reason == f"skipped: job {first} holds customer:9"
    end(scheduler, first)
    assert scheduler.get(skip(scheduler)).state is State.RUNNING


def test_a_job_that_skips_waits_for_its_turn_and_runs_if_its_key_is_free_by_then():
    scheduler = make_scheduler(slots=1)
    first = submit(scheduler, limit=ONE)
    second = skip(scheduler)
    assert scheduler.explain(second, NOW)[0].cause is Cause.SLOTS
    end(scheduler, first)

    assert scheduler.get(second).state is State.RUNNING


def test_a_large_job_that_is_skipped_does_not_wait_for_slots():
    scheduler = make_scheduler(slots=3)
    submit(scheduler, limit=ONE)
    large, small = skip(scheduler, slots=3), submit(scheduler)

    assert scheduler.get(large) is None
    assert scheduler.get(small).state is State.RUNNING


def test_jobs_that_wait_for_one_that_is_skipped_are_updated_at_once():
    scheduler = make_scheduler(slots=9)
    submit(scheduler, limit=ONE)
    skipped = scheduler.submit(spec(limit=ONE, on_limit=OnLimit.SKIP), NO_RETRIES, NOW)
    cancelled = scheduler.submit(spec(after=(skipped,)), NO_RETRIES, NOW)
    started = scheduler.submit(spec(after_any=(skipped,)), NO_RETRIES, NOW)

    scheduler.advance(NOW)

    assert scheduler.get(cancelled) is None
    assert scheduler.get(started).state is State.RUNNING


# --- explaining -------------------------------------------------------------------------------------------


def test_explain_names_those_who_hold_the_key():
    scheduler = make_scheduler(slots=9)
    first, second, third = submit_all(scheduler, TWO, TWO, TWO)
    [reason] = scheduler.explain(third, NOW)

    assert reason == Reason(cause=Cause.LIMIT, subject="customer:9", slots=2, taken=2, ahead=0)
    assert in_words(reason, str) == "for limit customer:9: 2 of 2 are taken"
    assert holders_in_words(scheduler.with_holders(reason)) == f"jobs {first}, {second} hold customer:9"
    fourth = submit(scheduler, limit=TWO)
    assert scheduler.explain(fourth, NOW)[0].ahead == 1
    scheduler.cancel(third, NOW)
    scheduler.set_suspended(first, NOW, suspended=True)
    submit(scheduler, limit=ONE)
    [reason, *_] = scheduler.explain(fourth, NOW)
    assert (
        holders_in_words(scheduler.with_holders(reason))
        == f"jobs {first} (suspended), {second} hold customer:9"
    )


def test_only_jobs_with_its_key_are_said_to_be_before_a_job_at_its_limit():
    scheduler = make_scheduler(slots=2)
    submit_all(scheduler, ONE, None, None, ONE, None)
    last = submit(scheduler, limit=ONE)

    limit, slots = scheduler.explain(last, NOW)

    assert in_words(limit, str) == "for limit customer:9: 1 of 1 is taken, and 1 job is before it"
    assert in_words(slots, str) == "for 1 of 2 slots: 2 are taken, and 3 jobs are before it"


def test_no_number_is_said_if_too_many_other_jobs_are_before_one_at_its_limit():
    scheduler = make_scheduler(slots=2)
    submit_all(scheduler, ONE, *[None] * 200)
    limit, slots = scheduler.explain(submit(scheduler, limit=ONE), NOW)

    assert in_words(limit, str) == "for limit customer:9: 1 of 1 is taken"
    assert in_words(slots, str) == "for 1 of 2 slots: 2 are taken, and 100 or more jobs are before it"


def test_explain_names_one_holder():
    scheduler = make_scheduler(slots=9)
    first, second = submit_all(scheduler, ONE, ONE)

    [reason] = map(scheduler.with_holders, scheduler.explain(second, NOW))

    assert in_words(reason, str) == "for limit customer:9: 1 of 1 is taken"
    assert holders_in_words(reason) == f"job {first} holds customer:9"


# --- cost -------------------------------------------------------------------------------------------------


def test_unused_keys_are_not_remembered():
    scheduler = make_scheduler(slots=1)
    jobs = submit_all(scheduler, *((f"customer:{number}", 1) for number in range(100)))
    assert len(uses(scheduler)) == 1
    for job in jobs:
        end(scheduler, job)

    assert not uses(scheduler)


def test_waiting_jobs_that_are_cancelled_leave_nothing():
    scheduler = make_scheduler(slots=2)
    first, *waiting = submit_all(scheduler, *[ONE] * 500)
    for job in waiting:
        scheduler.cancel(job, NOW)
    assert sum(map(len, uses(scheduler)["customer:9"].waiting.values())) < 200
    end(scheduler, first)

    assert not uses(scheduler)


def count_looks(scheduler, monkeypatch):
    """Count from now on how often the queues look a job up."""
    looks = Counter[str]()

    def counted(job_id, get=scheduler.table.jobs.get):
        looks["jobs"] += 1
        return get(job_id)

    for place in (scheduler.table.queues, scheduler.table.queues.limits):
        monkeypatch.setattr(place, "_job_of", counted)
    return looks


def test_an_end_does_not_look_at_all_who_wait(monkeypatch):
    scheduler = make_scheduler(slots=2)
    submit_all(scheduler, *[ONE] * 2_000)
    looks = count_looks(scheduler, monkeypatch)
    for _ in range(10):
        end(scheduler, scheduler.active_jobs()[0].id)

    assert 10 < looks["jobs"] < 300


@pytest.mark.parametrize("change", [Scheduler.advance, lambda scheduler, now: scheduler.resize(9, MAIL, now)])
def test_a_million_jobs_with_one_key_are_moved_many_at_a_time(monkeypatch, change):
    scheduler = make_scheduler(slots=9)
    scheduler.pause(Cause.PAUSE)
    conditions = Conditions(limit=KeyLimit("customer:9", 2))
    job = Job(JobId(1), State.QUEUED, "default", 0, NO_RETRIES, conditions=conditions)
    scheduler.restore(job, count=1_000_000)
    looks = count_looks(scheduler, monkeypatch)

    scheduler.resume(Cause.PAUSE, NOW)
    change(scheduler, NOW)

    assert [job.id for job in scheduler.active_jobs()] == [1, 2]
    assert looks["jobs"] < 50_000
    end(scheduler, JobId(1))
    assert [job.id for job in scheduler.active_jobs()] == [2, 3]
    reason, *_ = scheduler.explain(JobId(1_000_000), NOW)
    assert (reason.cause, reason.ahead) == (Cause.LIMIT, MAX_AHEAD)


def test_the_last_of_many_jobs_changes_the_number_of_places():
    scheduler = make_scheduler(slots=9)
    jobs = submit_all(scheduler, *[ONE] * 1_000)
    scheduler.edit(jobs[500], spec(limit=TWO), NO_RETRIES, {"limit"}, NOW)
    assert len(scheduler.active_jobs()) == 1
    scheduler.edit(jobs[-1], spec(limit=TWO), NO_RETRIES, {"limit"}, NOW)

    assert [job.id for job in scheduler.active_jobs()] == jobs[:2]


def test_restored_attempts_hold_their_key_with_the_places_of_the_newest():
    scheduler = make_scheduler(slots=9)
    for number, places in ((1, 1), (2, 3)):
        conditions = Conditions(limit=KeyLimit("customer:9", places))
        scheduler.restore(
            Job(JobId(number), State.RUNNING, "default", 0, NO_RETRIES, attempt=1, conditions=conditions),
            slot=number,
        )

    third, fourth = submit_all(scheduler, ("customer:9", 3), ("customer:9", 3))

    assert scheduler.get(third).state is State.RUNNING
    assert scheduler.get(fourth).state is State.QUEUED
