from __future__ import annotations

import itertools

import pytest

from bgd.core.explain import Cause
from bgd.core.job import CANCELLED_BEFORE_START, FINAL, WAITING, Conditions, Job, Outcome, RetryPolicy, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import SUSPENDED_AT_END, CommandAttempt, SaveJob, StartAttempt
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    THREE_RETRIES,
    at,
    dead_weight,
    end,
    make_scheduler,
    spec,
    started,
    started_ids,
    submit,
)

MANY = 1_000
DAY = 86_400.0


def states(scheduler, *ids):
    return [None if scheduler.get(job_id) is None else scheduler.get(job_id).state for job_id in ids]


def edit(scheduler, job_id, now=NOW, finished=None, **changes):
    return scheduler.edit(job_id, spec(**changes), NO_RETRIES, set(changes), now, finished)


def saves(scheduler):
    return {effect.job.id: effect for effect in scheduler.take_effects() if isinstance(effect, SaveJob)}


# --- holding -------------------------------------------------------------------------------------------


def test_a_held_job_starts_when_it_is_released_and_not_before():
    scheduler = make_scheduler()
    job_id = submit(scheduler, hold=True)
    assert started_ids(scheduler) == []

    assert scheduler.release(job_id, NOW) is State.RUNNING

    assert started_ids(scheduler) == [job_id]


def test_a_delay_goes_on_while_a_job_is_held():
    scheduler = make_scheduler()
    early, late = submit(scheduler, delay=5.0), submit(scheduler, delay=5.0)
    assert scheduler.hold(early, at(1.0)) is scheduler.hold(late, at(1.0)) is State.HELD

    assert scheduler.release(early, at(2.0)) is State.SCHEDULED
    assert scheduler.next_timer_at() == 5.0
    assert scheduler.release(late, at(6.0)) is State.QUEUED  # the other one came due, and runs


def test_jobs_behind_a_held_job_start_at_once():
    scheduler = make_scheduler(slots=2)
    submit(scheduler)
    large, small = submit(scheduler, slots=2), submit(scheduler)
    scheduler.take_effects()

    scheduler.hold(large, NOW)

    assert started_ids(scheduler) == [small]


def test_of_jobs_that_are_released_as_a_whole_the_most_urgent_starts_first():
    scheduler = make_scheduler()
    low, high = submit(scheduler, hold=True), submit(scheduler, hold=True, priority=9)
    scheduler.take_effects()

    scheduler.wait_to_settle()
    assert scheduler.release(low, NOW) is scheduler.release(high, NOW) is State.QUEUED
    scheduler.advance(NOW)

    assert started_ids(scheduler) == [high]


@pytest.mark.parametrize("verb", ["hold", "release", "edit", "set_suspended"])
def test_a_verb_is_refused_in_states_to_which_it_does_not_apply(verb):
    scheduler = make_scheduler()
    running, waiting = submit(scheduler), submit(scheduler)
    calls = {
        "hold": lambda: scheduler.hold(running, NOW),
        "release": lambda: scheduler.release(waiting, NOW),
        "edit": lambda: edit(scheduler, running, priority=1),
        "set_suspended": lambda: scheduler.set_suspended(waiting, NOW, suspended=True),
    }

    with pytest.raises(KeyError):
        calls[verb]()


def test_holding_a_job_twice_is_the_same_as_once():
    scheduler = make_scheduler()
    job_id = submit(scheduler, hold=True)
    scheduler.take_effects()

    assert scheduler.hold(job_id, NOW) is State.HELD

    assert scheduler.take_effects() == []


def test_all_waiting_jobs_can_be_held_for_a_reason():
    scheduler = make_scheduler()
    running, queued = submit(scheduler), submit(scheduler)
    held, delayed = submit(scheduler, hold=True), submit(scheduler, delay=5.0)
    scheduler.take_effects()
    assert scheduler.waiting_jobs() == [queued, held, delayed]

    for job_id in scheduler.waiting_jobs():
        scheduler.hold(job_id, NOW, "may have run")

    saved = {effect.job.id: effect.reason for effect in scheduler.take_effects()}
    assert saved == {queued: "may have run", delayed: "may have run"}
    assert scheduler.get(running).state is State.RUNNING


# --- suspending ----------------------------------------------------------------------------------------


def test_a_suspended_job_keeps_its_slot_and_is_suspended_once():
    scheduler = make_scheduler()
    job_id, _ = submit(scheduler), submit(scheduler)
    scheduler.take_effects()

    for _ in range(2):
        scheduler.set_suspended(job_id, NOW, suspended=True)
    save, suspend = scheduler.take_effects()
    assert save.job.suspended
    assert suspend == CommandAttempt(save.job)

    scheduler.set_suspended(job_id, NOW, suspended=False)
    save, go_on = scheduler.take_effects()
    assert not save.job.suspended
    assert go_on == CommandAttempt(save.job)


@pytest.mark.parametrize("outcome", [Outcome.EXIT, Outcome.UNKNOWN, Outcome.SNOOZED, Outcome.INTERRUPTED])
def test_a_suspended_job_that_would_run_again_is_held_until_it_is_released(outcome):
    scheduler = make_scheduler()
    job_id = submit(scheduler, THREE_RETRIES)
    scheduler.set_suspended(job_id, NOW, suspended=True)

    scheduler.take_effects()
    scheduler.ended(job_id, 1, outcome, NOW)

    save = scheduler.take_effects()[-1]
    assert (save.job.state, save.job.suspended, save.reason) == (State.HELD, True, SUSPENDED_AT_END)
    scheduler.advance(at(1000.0))
    assert not started(scheduler)
    scheduler.release(job_id, at(1000.0))
    [(_, attempt, _)] = started(scheduler)
    assert (attempt, scheduler.get(job_id).suspended) == (2, False)


def test_a_suspended_job_that_makes_way_is_held():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.set_suspended(job_id, NOW, suspended=True)
    scheduler.requeue(job_id, NOW)

    end(scheduler, job_id, Outcome.CANCELLED)

    assert scheduler.get(job_id).state is State.HELD
    scheduler.cancel(job_id, NOW)
    *_, save = scheduler.take_effects()
    assert (save.job.state, save.job.suspended) == (State.CANCELLED, False)


def test_a_suspended_job_that_ends_for_good_is_not_held():
    scheduler = make_scheduler()
    job_id = submit(scheduler)
    scheduler.set_suspended(job_id, NOW, suspended=True)

    save = end(scheduler, job_id, Outcome.SIGNAL)

    assert (save.job.state, save.job.suspended) == (State.FAILED, False)


# --- editing -------------------------------------------------------------------------------------------


def test_an_edited_job_is_only_where_it_belongs_now():
    scheduler = make_scheduler(slots=2, narrow=1, shut=1)
    scheduler.resize(2, {}, NOW)
    scheduler.pause(Cause.PAUSE)
    job_id, other = submit(scheduler), submit(scheduler, queue="narrow")
    for queue, priority in [("narrow", 3), ("default", 0), ("shut", 3), ("narrow", 0), ("narrow", -1)]:
        assert edit(scheduler, job_id, queue=queue, priority=priority) is State.QUEUED
    scheduler.take_effects()

    scheduler.resume(Cause.PAUSE, NOW)

    assert started_ids(scheduler) == [other, job_id]
    assert scheduler.get(job_id).queue == "narrow"
    assert len(scheduler.table.queues) == 0


def test_a_job_that_left_its_queue_blocks_nobody_there():
    scheduler = make_scheduler(slots=1, left=1)
    scheduler.resize(1, {"left": QueueRule(slots=1), "shut": QueueRule(paused=True)}, NOW)
    running, moved, behind = (submit(scheduler, queue="left") for _ in range(3))
    scheduler.take_effects()

    edit(scheduler, moved, queue="shut")
    scheduler.ended(running, 1, Outcome.SUCCEEDED, NOW)

    assert started_ids(scheduler) == [behind]


@pytest.mark.parametrize(
    ("before", "changes", "state"),
    [
        ({"delay": DAY}, {"delay": 0.0}, State.QUEUED),
        ({"delay": DAY}, {"delay": 0.0, "at": 2_000.0}, State.SCHEDULED),
        ({"at": 2_000.0}, {"at": None, "delay": 5.0}, State.SCHEDULED),
        ({"at": 2_000.0}, {"at": 999.0}, State.QUEUED),
        ({}, {"at": 999.0}, State.QUEUED),
        ({}, {"delay": 5.0}, State.SCHEDULED),
        ({}, {"after_any": (1,)}, State.BLOCKED),
        ({"after": (1,)}, {"after": ()}, State.QUEUED),
        ({"after": (1,)}, {"after": (), "delay": 5.0}, State.SCHEDULED),
        ({"after": (1,)}, {"priority": 9}, State.BLOCKED),
        ({"hold": True}, {"delay": 5.0}, State.HELD),
    ],
    ids=str,
)
def test_an_edited_job_waits_for_its_new_conditions(before, changes, state):
    scheduler = make_scheduler()
    submit(scheduler)
    job_id = submit(scheduler, **before)

    assert edit(scheduler, job_id, **changes) is state

    job = scheduler.get(job_id)
    assert (job.due, job.conditions.at) == (
        5.0 if changes.get("delay") else None,
        2_000.0 if changes.get("at") == 2_000.0 else None,
    )


def test_an_edit_keeps_the_key_and_takes_the_policy():
    scheduler = make_scheduler()
    _, job_id = submit(scheduler), submit(scheduler, key="nightly", slots=3)

    scheduler.edit(job_id, spec(key="nightly"), THREE_RETRIES, {"slots", "retries"}, NOW)

    assert scheduler.holder_of("nightly", NOW) == job_id
    assert scheduler.get(job_id) == Job(
        job_id, State.QUEUED, "default", 0, THREE_RETRIES, conditions=Conditions(key="nightly")
    )


# --- keys ----------------------------------------------------------------------------------------------


def test_a_key_is_free_as_soon_as_its_job_has_finished():
    scheduler = make_scheduler()
    first = submit(scheduler, key="nightly")
    assert scheduler.holder_of("nightly", NOW) == first
    scheduler.cancel(first, NOW)
    assert scheduler.holder_of("nightly", NOW) == first
    end(scheduler, first, Outcome.CANCELLED)
    assert scheduler.holder_of("nightly", NOW) is None

    second = submit(scheduler, key="nightly")

    assert scheduler.holder_of("nightly", NOW) == second


def test_a_job_that_is_revived_does_not_take_its_key_from_another():
    scheduler = make_scheduler(slots=2)
    first = submit(scheduler, key="nightly")
    finished = end(scheduler, first).job
    second = submit(scheduler, key="nightly")

    scheduler.revive(finished, NOW)
    assert scheduler.holder_of("nightly", NOW) == second
    end(scheduler, first)
    assert scheduler.holder_of("nightly", NOW) == second
    end(scheduler, second)

    assert scheduler.holder_of("nightly", NOW) is None


# --- any order -----------------------------------------------------------------------------------------


# In which states a verb applies to the job
MAY = {"hold": WAITING, "release": {State.HELD}, "edit": WAITING, "cancel": set(State)}


@pytest.mark.parametrize("order", list(itertools.permutations(["free", *MAY])), ids="-".join)
def test_a_blocked_job_comes_out_right_in_every_order(order):
    scheduler = make_scheduler(slots=2)
    other = submit(scheduler)
    job_id = submit(scheduler, after=(other,), key="nightly")
    verbs = {
        "hold": lambda: scheduler.hold(job_id, NOW),
        "free": lambda: scheduler.ended(other, 1, Outcome.SUCCEEDED, NOW),
        "release": lambda: scheduler.release(job_id, NOW),
        "edit": lambda: edit(scheduler, job_id, key="nightly", priority=5),
        "cancel": lambda: scheduler.cancel(job_id, NOW),
    }
    effects = []
    for verb in order:
        job = scheduler.get(job_id)
        if verb not in MAY or (job is not None and job.state in MAY[verb]):
            verbs[verb]()
        effects += scheduler.take_effects()
    last = [effect.job for effect in effects if isinstance(effect, SaveJob) and effect.job.id == job_id][-1]
    if last.state is State.STOPPING:
        last = end(scheduler, job_id, Outcome.CANCELLED).job

    assert last.state is State.CANCELLED
    assert (
        sum(isinstance(effect, StartAttempt) and effect.job.id == job_id for effect in effects)
        == last.attempt
    )
    scheduler.revive(last, NOW)
    assert started_ids(scheduler) == [job_id]


@pytest.mark.parametrize(
    "options",
    [{}, {"delay": DAY}, {"at": DAY}, {"after": (1,)}, {"expires": DAY, "hold": True}],
    ids=str,
)
def test_jobs_that_are_held_edited_and_cancelled_over_and_over_do_not_pile_up(options):
    scheduler = make_scheduler(narrow=1)
    scheduler.pause(Cause.PAUSE)
    submit(scheduler)
    job_id = submit(scheduler, **options)

    for _ in range(MANY):
        scheduler.hold(job_id, NOW)
        scheduler.release(job_id, NOW)
        edit(scheduler, job_id, delay=0.0, after=(), queue="narrow", expires=5.0)
        edit(scheduler, job_id, delay=DAY, after_any=(1,), at=None, priority=1, expires=7.0)
        scheduler.cancel(submit(scheduler, queue="narrow", **options), NOW)

    assert dead_weight(scheduler) < 600
    scheduler.take_effects()
    scheduler.cancel(job_id, NOW)
    (save,) = scheduler.take_effects()
    assert (save.reason, save.job.state in FINAL) == (CANCELLED_BEFORE_START, True)


def test_an_edit_changes_the_policy_of_a_job_that_waits_for_a_retry():
    scheduler = make_scheduler()
    job_id = submit(scheduler, RetryPolicy(retries=1, delay=60.0))
    end(scheduler, job_id, Outcome.EXIT)

    assert scheduler.edit(job_id, spec(), RetryPolicy(retries=9), {"retries"}, NOW) is State.SCHEDULED

    assert (scheduler.get(job_id).policy.retries, scheduler.get(job_id).failures) == (9, 1)


def test_a_person_may_hold_a_job_that_is_held_since_it_was_suspended():
    scheduler = make_scheduler()
    job_id = submit(scheduler, THREE_RETRIES)
    scheduler.set_suspended(job_id, NOW, suspended=True)
    end(scheduler, job_id, Outcome.EXIT)
    assert (scheduler.get(job_id).state, scheduler.get(job_id).suspended) == (State.HELD, True)

    assert scheduler.hold(job_id, NOW) is State.HELD

    assert not scheduler.get(job_id).suspended  # so `continue` does not release it
