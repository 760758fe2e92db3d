from __future__ import annotations

import itertools

import pytest

from bgd.core.job import FINAL, WAITING, Conditions, Job, Outcome, RetryPolicy, State
from bgd.core.queues import QueueRule
from bgd.core.scheduler import (
    CANCELLED_BEFORE_START,
    ContinueAttempt,
    PauseReason,
    SaveJob,
    StartAttempt,
    SuspendAttempt,
)
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    THREE_RETRIES,
    at,
    dead_weight,
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


# --- holding -------------------------------------------------------------------------------------------


def test_a_held_job_starts_when_it_is_released_and_not_before():
    decider = scheduler()
    job_id = submit(decider, hold=True)
    assert started_ids(decider) == []

    assert decider.release(job_id, NOW) is State.RUNNING

    assert started_ids(decider) == [job_id]


def test_a_delay_goes_on_while_a_job_is_held():
    decider = scheduler()
    early, late = submit(decider, delay=5.0), submit(decider, delay=5.0)
    assert decider.hold(early, at(1.0)) is decider.hold(late, at(1.0)) is State.HELD

    assert decider.release(early, at(2.0)) is State.SCHEDULED
    assert decider.next_timer_at() == 5.0
    assert decider.release(late, at(6.0)) is State.QUEUED  # the other one came due, and runs


def test_jobs_behind_a_held_job_start_at_once():
    decider = scheduler(slots=2)
    submit(decider)
    large, small = submit(decider, slots=2), submit(decider)
    decider.take_effects()

    decider.hold(large, NOW)

    assert started_ids(decider) == [small]


@pytest.mark.parametrize("verb", ["hold", "release", "edit", "set_suspended"])
def test_a_verb_is_refused_in_states_to_which_it_does_not_apply(verb):
    decider = scheduler()
    running, waiting = submit(decider), submit(decider)
    calls = {
        "hold": lambda: decider.hold(running, NOW),
        "release": lambda: decider.release(waiting, NOW),
        "edit": lambda: edit(decider, running, priority=1),
        "set_suspended": lambda: decider.set_suspended(waiting, NOW, suspended=True),
    }

    with pytest.raises(KeyError):
        calls[verb]()


def test_holding_a_job_twice_is_the_same_as_once():
    decider = scheduler()
    job_id = submit(decider, hold=True)
    decider.take_effects()

    assert decider.hold(job_id, NOW) is State.HELD

    assert decider.take_effects() == []


# --- suspending ----------------------------------------------------------------------------------------


def test_a_suspended_job_keeps_its_slot_and_is_suspended_once():
    decider = scheduler()
    job_id, _ = submit(decider), submit(decider)
    decider.take_effects()

    for _ in range(2):
        decider.set_suspended(job_id, NOW, suspended=True)
    save, suspend = decider.take_effects()
    assert save.job.suspended
    assert suspend == SuspendAttempt(save.job)

    decider.set_suspended(job_id, NOW, suspended=False)
    save, go_on = decider.take_effects()
    assert go_on == ContinueAttempt(save.job)


@pytest.mark.parametrize("outcome", [Outcome.EXIT, Outcome.UNKNOWN])
def test_the_next_attempt_is_not_suspended(outcome):
    decider = scheduler()
    job_id = submit(decider, THREE_RETRIES)
    decider.set_suspended(job_id, NOW, suspended=True)

    assert not end(decider, job_id, outcome).job.suspended


# --- editing -------------------------------------------------------------------------------------------


def test_an_edited_job_is_only_where_it_belongs_now():
    decider = scheduler(slots=2, narrow=1, shut=1)
    decider.resize(2, {}, NOW)
    decider.pause(PauseReason.ASKED)
    job_id, other = submit(decider), submit(decider, queue="narrow")
    for queue, priority in [("narrow", 3), ("default", 0), ("shut", 3), ("narrow", 0), ("narrow", -1)]:
        assert edit(decider, job_id, queue=queue, priority=priority) is State.QUEUED
    decider.take_effects()

    decider.resume(PauseReason.ASKED, NOW)

    assert started_ids(decider) == [other, job_id]
    assert decider.get(job_id).queue == "narrow"
    assert len(decider._table.queues) == 0


def test_a_job_that_left_its_queue_blocks_nobody_there():
    decider = scheduler(slots=1, left=1)
    decider.resize(1, {"left": QueueRule(slots=1), "shut": QueueRule(paused=True)}, NOW)
    running, moved, behind = (submit(decider, queue="left") for _ in range(3))
    decider.take_effects()

    edit(decider, moved, queue="shut")
    decider.ended(running, 1, Outcome.SUCCEEDED, NOW)

    assert started_ids(decider) == [behind]


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
    decider = scheduler()
    submit(decider)
    job_id = submit(decider, **before)

    assert edit(decider, job_id, **changes) is state

    job = decider.get(job_id)
    assert (job.due, job.conditions.at) == (
        5.0 if changes.get("delay") else None,
        2_000.0 if changes.get("at") == 2_000.0 else None,
    )


def test_an_edit_keeps_the_key_and_takes_the_policy():
    decider = scheduler()
    _, job_id = submit(decider), submit(decider, key="nightly", slots=3)

    decider.edit(job_id, spec(key="nightly"), THREE_RETRIES, {"slots", "retries"}, NOW)

    assert decider.holder_of("nightly") == job_id
    assert decider.get(job_id) == Job(
        job_id, State.QUEUED, "default", 0, THREE_RETRIES, conditions=Conditions(key="nightly")
    )


# --- keys ----------------------------------------------------------------------------------------------


def test_a_key_is_free_as_soon_as_its_job_has_finished():
    decider = scheduler()
    first = submit(decider, key="nightly")
    assert decider.holder_of("nightly") == first
    decider.cancel(first, NOW)
    assert decider.holder_of("nightly") == first
    end(decider, first, Outcome.CANCELLED)
    assert decider.holder_of("nightly") is None

    second = submit(decider, key="nightly")

    assert decider.holder_of("nightly") == second


def test_a_job_that_is_revived_does_not_take_its_key_from_another():
    decider = scheduler(slots=2)
    first = submit(decider, key="nightly")
    finished = end(decider, first).job
    second = submit(decider, key="nightly")

    decider.revive(finished, NOW)
    assert decider.holder_of("nightly") == second
    end(decider, first)
    assert decider.holder_of("nightly") == second
    end(decider, second)

    assert decider.holder_of("nightly") is None


# --- any order -----------------------------------------------------------------------------------------


# In which states a verb applies to the job
MAY = {"hold": WAITING, "release": {State.HELD}, "edit": WAITING, "cancel": set(State)}


@pytest.mark.parametrize("order", list(itertools.permutations(["free", *MAY])), ids="-".join)
def test_a_blocked_job_comes_out_right_in_every_order(order):
    decider = scheduler(slots=2)
    other = submit(decider)
    job_id = submit(decider, after=(other,), key="nightly")
    verbs = {
        "hold": lambda: decider.hold(job_id, NOW),
        "free": lambda: decider.ended(other, 1, Outcome.SUCCEEDED, NOW),
        "release": lambda: decider.release(job_id, NOW),
        "edit": lambda: edit(decider, job_id, key="nightly", priority=5),
        "cancel": lambda: decider.cancel(job_id, NOW),
    }
    effects = []
    for verb in order:
        job = decider.get(job_id)
        if verb not in MAY or (job is not None and job.state in MAY[verb]):
            verbs[verb]()
        effects += decider.take_effects()
    last = [effect.job for effect in effects if isinstance(effect, SaveJob) and effect.job.id == job_id][-1]
    if last.state is State.STOPPING:
        last = end(decider, job_id, Outcome.CANCELLED).job

    assert last.state is State.CANCELLED
    assert (
        sum(isinstance(effect, StartAttempt) and effect.job.id == job_id for effect in effects)
        == last.attempt
    )
    decider.revive(last, NOW)
    assert started_ids(decider) == [job_id]


@pytest.mark.parametrize(
    "options",
    [{}, {"delay": DAY}, {"at": DAY}, {"after": (1,)}, {"expires": DAY, "hold": True}],
    ids=str,
)
def test_jobs_that_are_held_edited_and_cancelled_over_and_over_do_not_pile_up(options):
    decider = scheduler(narrow=1)
    decider.pause(PauseReason.ASKED)
    submit(decider)
    job_id = submit(decider, **options)

    for _ in range(MANY):
        decider.hold(job_id, NOW)
        decider.release(job_id, NOW)
        edit(decider, job_id, delay=0.0, after=(), queue="narrow", expires=5.0)
        edit(decider, job_id, delay=DAY, after_any=(1,), at=None, priority=1, expires=7.0)
        decider.cancel(submit(decider, queue="narrow", **options), NOW)

    assert dead_weight(decider) < 600
    decider.take_effects()
    decider.cancel(job_id, NOW)
    (save,) = decider.take_effects()
    assert (save.reason, save.job.state in FINAL) == (CANCELLED_BEFORE_START, True)


def test_an_edit_changes_the_policy_of_a_job_that_waits_for_a_retry():
    decider = scheduler()
    job_id = submit(decider, RetryPolicy(retries=1, delay=60.0))
    end(decider, job_id, Outcome.EXIT)

    assert decider.edit(job_id, spec(), RetryPolicy(retries=9), {"retries"}, NOW) is State.SCHEDULED

    assert (decider.get(job_id).policy.retries, decider.get(job_id).failures) == (9, 1)
