from __future__ import annotations

from math import inf
from unittest.mock import Mock

import pytest

from bgd.core.explain import Cause, Reason, likely_start, words_of
from bgd.core.job import Conditions, Job, JobId, Outcome, Rate, State
from bgd.core.limits import QueueRule
from bgd.core.queues import ReadyQueues
from bgd.core.scheduler import Scheduler, StartAttempt
from bgd.core.spec import NOTIFICATION_QUEUE
from tests.core.scheduling import (
    NO_RETRIES,
    NOW,
    OBSTACLES,
    THREE_RETRIES,
    at,
    dead_weight,
    limits,
    make_scheduler,
    spec,
    started,
    started_ids,
    submit,
)

MANY = 1_000
PAUSED = QueueRule(paused=True)
APART = {"apart": QueueRule(slots=1, apart=True)}


def finish(scheduler, job_id):
    scheduler.ended(job_id, 1, Outcome.SUCCEEDED, NOW)


# --- why a job has not started -------------------------------------------------------------------------


def test_a_queued_job_says_what_it_waits_for():
    scheduler = make_scheduler(slots=2, narrow=1)
    running = [submit(scheduler, queue="narrow"), submit(scheduler)]
    narrow, wide = submit(scheduler, queue="narrow"), submit(scheduler, slots=9)
    assert started_ids(scheduler) == running

    assert [scheduler.explain(each, NOW) for each in (narrow, wide)] == [
        (Reason(cause=Cause.QUEUE_SLOTS, subject="narrow", slots=1, taken=1, ahead=0), full(1, ahead=None)),
        (full(2, ahead=0),),
    ]
    scheduler.resize(2, {"narrow": PAUSED}, NOW)
    paused = Reason(cause=Cause.QUEUE_PAUSE, subject="narrow")
    assert scheduler.explain(narrow, NOW) == (paused, full(1, ahead=0))
    scheduler.pause(Cause.PAUSE)
    assert scheduler.explain(narrow, NOW) == (Reason(cause=Cause.PAUSE), paused, full(1, ahead=0))


def full(wanted, ahead):
    return Reason(cause=Cause.SLOTS, wanted=wanted, slots=2, taken=2, ahead=ahead)


def test_a_queued_job_knows_how_many_start_before_it():
    scheduler = make_scheduler(slots=1)
    scheduler.pause(Cause.LAUNCHER)
    low, first, gone, last = (submit(scheduler, priority=each) for each in (-1, 0, 0, 0))
    urgent = submit(scheduler, priority=5)
    scheduler.cancel(gone, NOW)
    scheduler.hold(first, NOW)
    scheduler.release(first, NOW)  # it has two entries now

    assert scheduler.explain(urgent, NOW) == (Reason(cause=Cause.LAUNCHER),)
    ahead = {job: scheduler.explain(job, NOW)[-1].ahead for job in (first, last, low)}
    assert ahead == {first: 1, last: 2, low: 3}
    assert scheduler.explain(low, NOW)[1] == Reason(cause=Cause.TURN, slots=1, ahead=3)


# --- jobs that change their queue -----------------------------------------------------------------------


def test_a_job_that_left_for_a_full_queue_holds_back_no_job_of_the_queue_it_was_in():
    scheduler = make_scheduler(slots=2, narrow=1)
    submit(scheduler, queue="narrow")
    running, moved, behind = (submit(scheduler) for _ in range(3))
    scheduler.edit(moved, spec(queue="narrow"), NO_RETRIES, {"queue"}, NOW)

    finish(scheduler, running)

    assert scheduler.get(behind).state is State.RUNNING
    assert scheduler.get(moved).state is State.QUEUED


# --- large jobs ----------------------------------------------------------------------------------------


def test_a_job_larger_than_all_slots_takes_them_all():
    scheduler = make_scheduler(slots=2)
    large, small = submit(scheduler, slots=9), submit(scheduler)

    assert started_ids(scheduler) == [large]
    assert (scheduler.running, scheduler.taken) == (1, 2)
    finish(scheduler, large)
    assert started_ids(scheduler) == [small]


def test_a_large_job_is_not_overtaken_for_ever():
    scheduler = make_scheduler(slots=2)
    first, _, large = submit(scheduler), submit(scheduler), submit(scheduler, slots=2)
    later = [submit(scheduler, priority=-1) for _ in range(5)]
    scheduler.take_effects()

    finish(scheduler, first)
    assert started(scheduler) == []
    finish(scheduler, JobId(2))
    assert started_ids(scheduler) == [large]
    finish(scheduler, large)
    assert started_ids(scheduler) == later[:2]


def test_a_job_larger_than_its_queue_runs_alone_in_it_and_beside_others():
    scheduler = make_scheduler(slots=4, narrow=2)
    small, large = submit(scheduler, queue="narrow"), submit(scheduler, queue="narrow", slots=3)
    behind = submit(scheduler, queue="narrow")
    other = submit(scheduler)
    assert started_ids(scheduler) == [small, other]

    finish(scheduler, small)
    assert started_ids(scheduler) == [large]
    finish(scheduler, large)
    assert started_ids(scheduler) == [behind]


def test_slot_numbers_stay_within_the_slots_whatever_the_sizes():
    scheduler = make_scheduler(slots=4)
    submit(scheduler, slots=2)
    submit(scheduler)
    submit(scheduler)
    assert [slot for _, _, slot in started(scheduler)] == [1, 2, 3]

    scheduler.resize(2, {}, NOW)
    for job_id in map(JobId, (1, 3)):
        finish(scheduler, job_id)
    submit(scheduler)
    assert [slot for _, _, slot in started(scheduler)] == [1]


def test_a_running_job_keeps_its_number_of_slots_when_there_are_more():
    scheduler = make_scheduler(slots=2)
    submit(scheduler, slots=4)
    small = submit(scheduler)
    scheduler.take_effects()

    scheduler.resize(3, {}, NOW)

    assert started_ids(scheduler) == [small]
    assert scheduler.taken == 3


def test_a_restored_job_takes_as_many_slots_as_it_asks_for():
    scheduler = make_scheduler(slots=3)
    scheduler.restore(
        Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1, conditions=Conditions(slots=2)),
        slot=3,
    )

    ids = [submit(scheduler) for _ in range(2)]

    assert started(scheduler) == [(ids[0], 1, 1)]


# --- rules ---------------------------------------------------------------------------------------------


def test_a_paused_queue_starts_nothing_although_its_jobs_were_in_the_shared_heap():
    scheduler = make_scheduler(slots=1)
    running = submit(scheduler)
    first, other, second = (
        submit(scheduler, queue="a"),
        submit(scheduler, queue="b"),
        submit(scheduler, queue="a"),
    )
    scheduler.take_effects()

    scheduler.resize(1, {"a": PAUSED}, NOW)
    finish(scheduler, running)
    assert started_ids(scheduler) == [other]
    finish(scheduler, other)
    assert started_ids(scheduler) == []
    scheduler.resize(2, {}, NOW)

    assert started_ids(scheduler) == [first, second]


def test_the_most_urgent_job_of_many_limited_queues_starts():
    names = [f"q{number}" for number in range(20)]  # so many that no order of looking finds only better ones
    scheduler = make_scheduler(slots=1, **dict.fromkeys(names, 1))
    running = submit(scheduler)
    scheduler.take_effects()
    mixed = [index * 7 % len(names) for index in range(len(names))]
    ids = {
        priority: submit(scheduler, queue=name, priority=priority)
        for name, priority in zip(names, mixed, strict=True)
    }

    for priority in sorted(ids, reverse=True):
        finish(scheduler, running)
        running = ids[priority]
        assert started_ids(scheduler) == [running]


def test_a_queue_may_be_paused_and_limited_at_once():
    scheduler = make_scheduler(slots=3)

    scheduler.resize(3, {"a": QueueRule(slots=1, paused=True)}, NOW)
    ids = [submit(scheduler, queue="a") for _ in range(2)]
    assert started_ids(scheduler) == []
    scheduler.resize(3, limits(a=1), NOW)

    assert started_ids(scheduler) == ids[:1]


def test_rules_that_come_and_go_leave_nothing_behind():
    scheduler = make_scheduler(slots=1)
    running = submit(scheduler, priority=9)
    ids = [submit(scheduler, queue=queue) for queue in ("a", "b", "a")]
    scheduler.take_effects()

    for number in range(MANY):
        scheduler.resize(1, {"a": PAUSED, f"queue-{number}": PAUSED}, NOW)
        scheduler.resize(1, {}, NOW)
    assert len(scheduler.table.queues._heaps) < 5
    for job_id in [running, *ids]:
        finish(scheduler, job_id)

    assert started_ids(scheduler) == ids
    assert dead_weight(scheduler) == 0


def test_jobs_cancelled_after_their_queue_got_a_rule_do_not_pile_up():
    scheduler = make_scheduler(slots=1)
    submit(scheduler, slots=1)
    submit(scheduler, priority=9)  # jobs behind it in the shared heap do not come to the top
    ids = [submit(scheduler, queue="a") for _ in range(MANY)]

    scheduler.resize(1, {"a": PAUSED}, NOW)
    for job_id in ids:
        scheduler.cancel(job_id, NOW)

    assert dead_weight(scheduler) < 400


# --- pauses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", OBSTACLES)
def test_nothing_starts_until_the_last_reason_to_pause_has_ended(last):
    scheduler = make_scheduler()
    for why in OBSTACLES:
        scheduler.pause(why)
    job_id = submit(scheduler)

    for why in set(OBSTACLES) - {last}:
        scheduler.resume(why, NOW)
    assert started_ids(scheduler) == []
    scheduler.resume(last, NOW)

    assert started_ids(scheduler) == [job_id]


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
    queues = ReadyQueues(1, dict.fromkeys(names, PAUSED), look, lambda _: 1)
    for job in jobs.values():
        queues.push(job)
    assert queues.take_next() is None

    looks = 0
    queues.push(jobs[JobId(1)])
    assert queues.take_next() is None
    assert looks < 10


# --- a queue that is apart -----------------------------------------------------------------------------


def test_a_queue_that_is_apart_takes_no_slot_of_the_others_and_starts_while_they_are_paused():
    scheduler = Scheduler(1, APART, last_id=0, roll=lambda: 0.5)
    usual, other = submit(scheduler), submit(scheduler)
    apart, next_apart = submit(scheduler, queue="apart"), submit(scheduler, queue="apart")

    assert started(scheduler) == [(usual, 1, 1), (apart, 1, 0)]
    assert (scheduler.running, scheduler.taken) == (2, 1)
    scheduler.pause(Cause.PAUSE)
    assert scheduler.explain(next_apart, NOW) == (
        Reason(cause=Cause.QUEUE_SLOTS, subject="apart", slots=1, taken=1, ahead=0),
    )
    finish(scheduler, usual)
    assert started(scheduler) == []
    finish(scheduler, apart)
    assert started(scheduler) == [(next_apart, 1, 0)]
    scheduler.resume(Cause.PAUSE, NOW)
    assert started(scheduler) == [(other, 1, 1)]


def test_a_job_of_a_queue_that_is_apart_holds_its_slot_after_a_restart():
    scheduler = Scheduler(1, APART, last_id=0, roll=lambda: 0.5)
    running = Job(id=JobId(1), state=State.RUNNING, queue="apart", priority=0, policy=NO_RETRIES, attempt=1)
    scheduler.restore(running, slot=0)
    second, usual = submit(scheduler, queue="apart"), submit(scheduler)

    assert started(scheduler) == [(usual, 1, 1)]
    finish(scheduler, running.id)
    assert started(scheduler) == [(second, 1, 0)]


# --- notifications -------------------------------------------------------------------------------------


def make_notifier(slots=1):
    return Scheduler(slots, {NOTIFICATION_QUEUE: QueueRule(apart=True)}, last_id=0, roll=lambda: 0.5)


def notify(scheduler, target, **options):
    return submit(scheduler, policy=THREE_RETRIES, queue=NOTIFICATION_QUEUE, name=target, **options)


def test_a_target_takes_one_notification_at_a_time_and_no_other_target_waits_for_it():
    scheduler = make_notifier()
    hanging, behind, further = (notify(scheduler, "ops") for _ in range(3))
    healthy = notify(scheduler, "pager")

    assert started(scheduler) == [(hanging, 1, 0), (healthy, 1, 0)]
    assert scheduler.explain(further, NOW) == (
        Reason(cause=Cause.QUEUE_SLOTS, subject=NOTIFICATION_QUEUE, slots=1, taken=1, ahead=1),
    )
    finish(scheduler, healthy)
    later = notify(scheduler, "pager")
    assert started(scheduler) == [(later, 1, 0)]
    finish(scheduler, hanging)
    assert started(scheduler) == [(behind, 1, 0)]


def test_what_is_new_for_a_target_comes_before_what_is_tried_again():
    scheduler = make_notifier()
    failed, old = notify(scheduler, "ops"), notify(scheduler, "ops")
    assert started_ids(scheduler) == [failed]
    scheduler.ended(failed, 1, Outcome.TIMEOUT, NOW)
    assert started_ids(scheduler) == [old]
    new = notify(scheduler, "ops")
    scheduler.advance(at(10.0))  # the retry is due

    scheduler.ended(old, 1, Outcome.SUCCEEDED, at(10.0))
    assert started(scheduler) == [(new, 1, 0)]
    scheduler.ended(new, 1, Outcome.SUCCEEDED, at(10.0))
    assert started(scheduler) == [(failed, 2, 0)]


def test_a_healthy_target_waits_for_none_of_ten_that_hang():
    scheduler = make_notifier()
    for number in range(10):
        for _ in range(10):
            notify(scheduler, f"hanging {number}")
    running = dict.fromkeys(started_ids(scheduler), 60.0)
    assert len(running) == 10
    while running:
        now = min(running.values())
        healthy = notify(scheduler, "healthy", now=at(now))
        assert healthy in started_ids(scheduler), "at once"
        scheduler.ended(healthy, 1, Outcome.SUCCEEDED, at(now))
        for job in [job for job, ends_at in running.items() if ends_at <= now]:
            del running[job]
            scheduler.ended(job, scheduler.get(job).attempt, Outcome.TIMEOUT, at(now))
        running |= dict.fromkeys(started_ids(scheduler), now + 60.0)
        assert len({scheduler.get(job).conditions.target for job in running}) == len(running)


def test_a_target_whose_notification_ran_before_a_restart_takes_no_other():
    scheduler = make_notifier()
    running = Job(
        id=JobId(1),
        state=State.RUNNING,
        queue=NOTIFICATION_QUEUE,
        priority=0,
        policy=NO_RETRIES,
        attempt=1,
        conditions=Conditions(target="ops"),
    )
    scheduler.restore(running, slot=0)
    same, other = notify(scheduler, "ops"), notify(scheduler, "pager")

    assert started_ids(scheduler) == [other]
    finish(scheduler, running.id)
    assert started_ids(scheduler) == [same]


def test_targets_that_are_gone_leave_no_lane():
    scheduler = make_notifier()
    for number in range(100):
        finish(scheduler, notify(scheduler, f"target {number}"))
    scheduler.pause(Cause.PAUSE)
    notify(scheduler, "last")

    assert len(scheduler.table.queues._heaps) <= 2


# --- a queue whose jobs run elsewhere --------------------------------------------------------------------

CLUSTER = {"cluster": QueueRule(slots=3, elsewhere=True)}


def test_jobs_that_run_elsewhere_take_only_slots_of_their_queue():
    scheduler = Scheduler(1, CLUSTER, last_id=0, roll=lambda: 0.5)
    large, small, waiting = (submit(scheduler, queue="cluster", slots=slots) for slots in (2, 1, 1))
    usual = submit(scheduler)

    assert started(scheduler) == [(large, 1, 0), (small, 1, 0), (usual, 1, 1)]
    assert (scheduler.running, scheduler.taken) == (3, 1)
    assert scheduler.explain(waiting, NOW) == (
        Reason(cause=Cause.QUEUE_SLOTS, subject="cluster", slots=3, taken=3, ahead=0),
    )
    finish(scheduler, small)
    assert started(scheduler) == [(waiting, 1, 0)]


@pytest.mark.parametrize(
    ("rules", "why", "cause"),
    [
        (APART, Cause.SHUTDOWN, Cause.SHUTDOWN),
        (APART, Cause.LAUNCHER, Cause.LAUNCHER),
        (CLUSTER, Cause.LAUNCHER, Cause.LAUNCHER),
        (CLUSTER, Cause.PAUSE, Cause.PAUSE),
    ],
)
def test_jobs_that_take_no_slot_of_the_daemon_wait_while_nothing_may_start(rules, why, cause):
    scheduler = Scheduler(1, rules, last_id=0, roll=lambda: 0.5)
    scheduler.pause(why)
    job = submit(scheduler, queue=next(iter(rules)))

    assert started(scheduler) == []
    assert scheduler.explain(job, NOW) == (Reason(cause=cause),)
    scheduler.resume(why, NOW)
    assert started(scheduler) == [(job, 1, 0)]


def test_a_queue_whose_jobs_run_elsewhere_from_now_on_keeps_the_slots_that_it_has():
    scheduler = Scheduler(2, {"cluster": QueueRule(slots=3)}, last_id=0, roll=lambda: 0.5)
    first, second, third = (submit(scheduler, queue="cluster") for _ in range(3))
    assert started(scheduler) == [(first, 1, 1), (second, 1, 2)]

    scheduler.resize(2, CLUSTER, NOW)

    assert started(scheduler) == [(third, 1, 0)]
    assert scheduler.taken == 2
    scheduler.resize(2, {"cluster": QueueRule(slots=3)}, NOW)
    finish(scheduler, third)
    finish(scheduler, first)
    assert scheduler.taken == 1


def test_queued_jobs_of_a_queue_whose_jobs_run_elsewhere_from_now_on_wait_for_no_others():
    scheduler = Scheduler(1, {}, last_id=0, roll=lambda: 0.5)
    running, before, job = submit(scheduler), submit(scheduler), submit(scheduler, queue="cluster")
    assert started(scheduler) == [(running, 1, 1)]

    scheduler.resize(1, CLUSTER, NOW)

    assert started(scheduler) == [(job, 1, 0)]
    finish(scheduler, running)
    assert started(scheduler) == [(before, 1, 1)]


# --- resources, rates and weights ------------------------------------------------------------------------

GPUS = {"gpu": ("0", "1")}


def tokens_of(scheduler):
    """Take the effects; return the tokens of the jobs that start."""
    return {
        effect.job.id: effect.tokens
        for effect in scheduler.take_effects()
        if isinstance(effect, StartAttempt)
    }


def test_a_job_that_waits_for_two_tokens_holds_back_only_later_jobs_that_want_one():
    scheduler = Scheduler(8, {}, 0, lambda: 0.5, GPUS | {"disk": ("a",)})
    first = submit(scheduler, resources={"gpu": 1})
    both = submit(scheduler, resources={"gpu": 2})
    later = submit(scheduler, resources={"gpu": 1})
    other, plain = submit(scheduler, resources={"disk": 1}), submit(scheduler)

    assert tokens_of(scheduler) == {first: {"gpu": ("0",)}, other: {"disk": ("a",)}, plain: {}}
    assert scheduler.explain(later, NOW) == (Reason(cause=Cause.TURN, slots=8, taken=3, ahead=1),)
    finish(scheduler, first)
    assert tokens_of(scheduler) == {both: {"gpu": ("0", "1")}}
    finish(scheduler, both)
    assert tokens_of(scheduler) == {later: {"gpu": ("0",)}}


def test_a_job_that_asks_for_more_than_there_is_holds_back_nobody():
    scheduler = Scheduler(8, {}, 0, lambda: 0.5, GPUS)
    scheduler.pause(Cause.PAUSE)
    impossible, usual = submit(scheduler, resources={"gpu": 3}), submit(scheduler, resources={"gpu": 1})
    scheduler.resume(Cause.PAUSE, NOW)

    assert tokens_of(scheduler) == {usual: {"gpu": ("0",)}}
    assert scheduler.explain(impossible, NOW)[0] == Reason(
        cause=Cause.TOKENS, subject="gpu", wanted=3, slots=2, taken=1, ahead=0
    )
    scheduler.resize(8, {}, NOW, {"gpu": ("1", "2", "3")})
    assert tokens_of(scheduler) == {impossible: {"gpu": ("1", "2", "3")}}


def test_a_token_that_was_removed_stays_held_and_is_not_given_out_again():
    scheduler = Scheduler(8, {}, 0, lambda: 0.5, GPUS)
    first = submit(scheduler, resources={"gpu": 1})
    scheduler.resize(8, {}, NOW, {})
    scheduler.resize(8, {}, NOW, GPUS)
    second, third = submit(scheduler, resources={"gpu": 1}), submit(scheduler, resources={"gpu": 1})
    assert tokens_of(scheduler) == {first: {"gpu": ("0",)}, second: {"gpu": ("1",)}}

    scheduler.resize(8, {}, NOW, {})
    finish(scheduler, first)
    scheduler.resize(8, {}, NOW, GPUS)
    assert tokens_of(scheduler) == {third: {"gpu": ("0",)}}


def test_resources_say_how_many_tokens_are_taken_and_how_many_queued_jobs_ask_for_them():
    scheduler = Scheduler(8, {}, 0, lambda: 0.5, GPUS | {"disk": ("a",)})
    first = submit(scheduler, resources={"gpu": 2})
    waits = submit(scheduler, resources={"gpu": 1, "disk": 1})
    submit(scheduler, resources={"gpu": 1}, hold=True)
    assert list(scheduler.resources()) == [("disk", 1, 0, 1), ("gpu", 2, 2, 1)]

    scheduler.resize(8, {}, NOW, {"gpu": ("1",)})
    scheduler.cancel(waits, NOW)
    assert list(scheduler.resources()) == [("gpu", 1, 2, 0)]  # "0" was removed and is held
    scheduler.resize(8, {}, NOW, {})
    assert list(scheduler.resources()) == [("gpu", 0, 2, 0)]
    finish(scheduler, first)
    assert list(scheduler.resources()) == []


def test_a_restored_job_holds_the_tokens_that_it_held():
    scheduler = Scheduler(8, {}, 0, lambda: 0.5, GPUS)
    conditions = Conditions(resources=(("gpu", 1),))
    active = Job(JobId(1), State.RUNNING, "default", 0, NO_RETRIES, attempt=1, conditions=conditions)
    scheduler.restore(active, slot=1, tokens={"gpu": ("0",), "gone": ("x",)})

    assert tokens_of(scheduler) == {}
    later = submit(scheduler, resources={"gpu": 1})
    assert tokens_of(scheduler) == {later: {"gpu": ("1",)}}


def test_a_full_queue_claims_no_token_unless_a_later_job_of_it_runs():
    scheduler = Scheduler(8, {"train": QueueRule(slots=1)}, 0, lambda: 0.5, {"gpu": ("0",)})
    running = submit(scheduler, queue="train")
    waits = submit(scheduler, queue="train", resources={"gpu": 1})
    other = submit(scheduler, resources={"gpu": 1})
    assert started_ids(scheduler) == [running, other]  # `waits` could not use it meanwhile

    finish(scheduler, running)
    overtakes = submit(scheduler, queue="train")
    assert started_ids(scheduler) == [overtakes]
    another = submit(scheduler, resources={"gpu": 1})
    finish(scheduler, other)
    assert started_ids(scheduler) == []  # the token is kept for `waits`
    finish(scheduler, overtakes)
    assert started_ids(scheduler) == [waits]
    finish(scheduler, waits)
    assert started_ids(scheduler) == [another]


def test_waiting_for_a_token_costs_a_submit_no_look_at_those_that_wait():
    looks = 0

    def look(job_id):
        nonlocal looks
        looks += 1
        return jobs.get(job_id)

    conditions = Conditions(resources=(("gpu", 1),))
    jobs = {
        JobId(number): Job(JobId(number), State.QUEUED, "default", 0, NO_RETRIES, conditions=conditions)
        for number in range(1, MANY + 1)
    }
    queues = ReadyQueues(8, {}, look, lambda _: 1, {"gpu": ("0",)})
    queues.push(jobs[JobId(1)])
    taken = queues.take_next()
    assert taken is not None
    queues.occupy(taken)
    for number in range(2, MANY):
        queues.push(jobs[JobId(number)])
        assert queues.take_next() is None
    looks = 0
    queues.push(jobs[JobId(MANY)])
    assert queues.take_next() is None
    assert looks < 10


def test_a_rate_counts_starts_within_any_such_time_and_rings_one_timer():
    scheduler = Scheduler(8, {"api": QueueRule(rate=Rate(2, 60.0, "2/1m"))}, 0, lambda: 0.5)
    first = submit(scheduler, queue="api")
    second = submit(scheduler, queue="api", now=at(10.0))
    assert scheduler.next_timer_at() is None  # nothing waits
    third, fourth = (submit(scheduler, queue="api", now=at(20.0)) for _ in range(2))
    other = submit(scheduler, now=at(20.0))

    assert started_ids(scheduler) == [first, second, other]
    assert scheduler.next_timer_at() == 60.0
    assert scheduler.explain(third, at(20.0)) == (
        Reason(cause=Cause.RATE, subject="api", limit="2/1m", at=1060.0, ahead=0),
    )
    assert scheduler.openings(at(20.5)) == {"api": 1060.0}
    assert scheduler.openings(at(60.0)) == {}
    scheduler.advance(at(60.0))
    assert (started_ids(scheduler), scheduler.next_timer_at()) == ([third], 70.0)
    scheduler.resize(8, {"api": QueueRule(rate=Rate(2, 60.0, "2/1m"), paused=True)}, at(65.0))
    assert scheduler.next_timer_at() is None
    scheduler.resize(8, {"api": QueueRule(rate=Rate(2, 60.0, "2/1m"))}, at(75.0))
    assert (started_ids(scheduler), scheduler.next_timer_at()) == ([fourth], None)
    scheduler.cancel(fourth, at(75.0))


def test_starts_before_a_restart_count_for_a_rate():
    scheduler = Scheduler(8, {"api": QueueRule(rate=Rate(2, 60.0))}, 0, lambda: 0.5)
    scheduler.table.queues.starts.restore([("api", -59.0), ("gone", -5.0), ("api", -1.0)])
    job = submit(scheduler, queue="api", delay=100.0)
    soon = submit(scheduler, queue="api")

    assert (started_ids(scheduler), scheduler.next_timer_at()) == ([], 1.0)
    scheduler.advance(at(1.0))
    assert (started_ids(scheduler), scheduler.next_timer_at()) == ([soon], 100.0)
    scheduler.advance(at(100.0))
    assert started_ids(scheduler) == [job]


def test_queues_with_weights_take_turns_and_a_batch_delays_nobody():
    rules = {"batch": QueueRule(weight=1), "mail": QueueRule(weight=2)}
    scheduler = Scheduler(1, rules, 0, lambda: 0.5)
    batch = [submit(scheduler, queue="batch") for _ in range(1_000)]
    [running] = started_ids(scheduler)
    mail = [submit(scheduler, queue="mail") for _ in range(4)]
    other = submit(scheduler)

    assert scheduler.explain(mail[0], NOW)[0].ahead == 0
    order = []
    for _ in range(8):
        finish(scheduler, running)
        [running] = started_ids(scheduler)
        order.append(running)
    assert order == [mail[0], other, mail[1], batch[1], mail[2], mail[3], batch[2], batch[3]]


def test_without_weights_jobs_start_in_the_order_of_submission_whatever_their_queue():
    scheduler = Scheduler(1, {"mail": QueueRule(slots=5)}, 0, lambda: 0.5)
    batch = [submit(scheduler) for _ in range(3)]
    mail = submit(scheduler, queue="mail")

    order = started_ids(scheduler)
    for _ in range(3):
        finish(scheduler, order[-1])
        order += started_ids(scheduler)
    assert order == [*batch, mail]


def test_reasons_of_many_jobs_look_once_for_the_one_that_holds_them_back(monkeypatch):
    rules = {"mail": QueueRule(slots=1), "off": QueueRule(paused=True)}
    scheduler = Scheduler(8, rules, 0, lambda: 0.5)
    submit(scheduler, slots=5)
    submit(scheduler, queue="mail")
    assert len(started_ids(scheduler)) == 2
    wide = submit(scheduler, slots=4, priority=1)
    plain, mail, off = (
        [submit(scheduler, queue=queue) for _ in range(50)] for queue in ("default", "mail", "off")
    )
    assert not started_ids(scheduler)
    looks = Mock(wraps=scheduler.table.queues._best)
    monkeypatch.setattr(scheduler.table.queues, "_best", looks)

    found = scheduler.explain_queued([wide, *plain, *mail, *off, JobId(999)], NOW)

    behind = f"behind job {wide}, which needs 4 slots; 6 are taken"
    looks.assert_called_once()
    assert {job: [words_of(reason) for reason in reasons] for job, reasons in found.items()} == {
        wide: ["for 4 of 8 slots: 6 are taken"],
        **{job: [behind] for job in plain},
        **{job: ["for a slot of queue mail: 1 of 1 is taken", behind] for job in mail},
        **{job: ["until `bgctl resume off`: its queue is paused", behind] for job in off},
    }


def test_those_behind_a_job_that_needs_many_slots_name_it_and_what_it_waits_for():
    scheduler = make_scheduler(slots=8)
    usual, stopped = submit(scheduler), submit(scheduler)
    assert started_ids(scheduler) == [usual, stopped]
    scheduler.set_suspended(stopped, NOW, suspended=True)
    wide, behind = submit(scheduler, slots=20), submit(scheduler)
    assert not started_ids(scheduler)

    [turn] = scheduler.explain(behind, NOW)
    assert turn == Reason(cause=Cause.TURN, slots=8, taken=2, ahead=1, head=wide, head_wants=20)
    assert words_of(turn) == f"behind job {wide}, which needs 20 slots; 2 are taken"
    nameless = Reason(cause=Cause.TURN, slots=8, taken=2, ahead=1)
    assert scheduler.with_holders(nameless) == nameless
    assert scheduler.explain(wide, NOW) == (Reason(cause=Cause.SLOTS, wanted=8, slots=8, taken=2, ahead=0),)
    for reason in (turn, *scheduler.explain(wide, NOW)):
        held = scheduler.with_holders(reason)
        assert (held.holders, held.suspended) == ((stopped, usual), (stopped,))
        assert likely_start([held], [(1, 5.0), (1, inf)], 2.0, 0.0) is None
        assert likely_start([held], [(1, 5.0), (1, 7.0)], 2.0, 0.0) == 7.0


def test_jobs_that_fill_all_slots_leave_no_head_to_name():
    scheduler = make_scheduler(slots=1)
    submit(scheduler)
    started_ids(scheduler)
    submit(scheduler)
    last = submit(scheduler)

    assert scheduler.explain(last, NOW) == (Reason(cause=Cause.SLOTS, slots=1, taken=1, ahead=1),)
