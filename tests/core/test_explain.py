"""What explain names keeps a job from running, and nothing else does."""

from __future__ import annotations

import os
import random

import pytest
from msgspec.structs import replace

from bgd.core.explain import (
    MAX_AHEAD,
    MAX_HOLDERS,
    MAX_NAMED,
    Cause,
    Explanation,
    Reason,
    deadlock_in_words,
    holders_in_words,
    in_words,
    likely_start,
    waiting_line,
    without_slots_of_today,
    words_of,
)
from bgd.core.job import JobId, Now, Outcome, Rate, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import Scheduler
from tests.core.scheduling import NOW, OBSTACLES, at, end, make_scheduler, submit

STATES = int(os.environ.get("BGD_EXPLAIN_STATES", "800"))  # by hand: 100000
PAUSED = QueueRule(paused=True)
OF_ATTEMPTS = {Cause.START, Cause.REQUESTS, Cause.CONTROLLER, Cause.NODE, Cause.PILOT}
QUEUES = ("default", "mail", "film")
APART = {"apart": QueueRule(slots=1, apart=True)}


def causes(scheduler, job_id, now=NOW):
    return [reason.cause for reason in scheduler.explain(job_id, now)]


# --- the property -----------------------------------------------------------------------------------------


class Situation:
    """A scheduler in a random state, and a job of it that waits."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.has_weights = seed % 2 == 1
        self.now = at(float(self.dice.randrange(100)))
        self.slots, self.rules = self.dice.randint(1, 4), self.random_rules()
        self.resources = self.random_resources()
        self.scheduler = make_scheduler(self.slots)
        self.resize()
        for _ in range(self.dice.randint(1, 25)):
            self.happen()
        waiting = self.scheduler.waiting_jobs()
        self.job = self.dice.choice(waiting) if waiting else self.submit(hold=True)

    def random_rules(self):
        chosen = self.dice.sample(QUEUES, self.dice.randint(0, len(QUEUES)))
        return APART | {
            queue: QueueRule(
                slots=self.dice.choice([None, 1, 2, 3]),
                paused=self.dice.choice([False, False, True]),
                elsewhere=self.dice.choice([False, False, False, True]),
                rate=self.dice.choice([None, None, Rate(1, 50.0, "1/50s"), Rate(2, 90.0, "2/90s")]),
                weight=self.dice.choice([None, 1, 3]) if self.has_weights else None,
            )
            for queue in chosen
        }

    def random_resources(self):
        """Return what the machine has, and perhaps less than some jobs ask for."""
        return {
            "gpu": tuple("0123"[: self.dice.choice([1, 2, 2, 3])]),
            "disk": tuple("ab"[: self.dice.choice([0, 1, 2])]),
        }

    def resize(self):
        self.scheduler.resize(self.slots, self.rules, self.now, self.resources)

    def submit(self, **options):
        dice, known = self.dice, sorted(job.id for job in self.scheduler.table.jobs)
        others = dice.sample(known, min(len(known), dice.choice([0, 0, 0, 1, 2])))
        options = {
            "queue": dice.choice([*QUEUES, "apart"]),
            "priority": dice.choice([0, 0, 0, 1, -1]),
            "slots": dice.choice([1, 1, 1, 2, 9]),
            "resources": dice.choice([None, None, {"gpu": 1}, {"gpu": 2}, {"gpu": 1, "disk": 1}]),
            "limit": dice.choice([None, None, None, ("one", 1), ("two", 2)]),
            "delay": dice.choice([0.0, 0.0, 0.0, 50.0]),
            "hold": dice.random() < 0.1,
            dice.choice(["after", "after_any"]): tuple(others),
        } | options
        if not options["delay"] and dice.random() < 0.1:
            options["at"] = self.now.wall + 30.0
        return submit(self.scheduler, now=self.now, **options)

    def happen(self):
        dice, scheduler = self.dice, self.scheduler
        active = scheduler.active_jobs()
        match dice.randrange(10):
            case 0 if active:
                job = dice.choice(active)
                scheduler.ended(job.id, job.attempt, Outcome.SUCCEEDED, self.now)
            case 1:
                self.slots, self.rules = dice.randint(1, 4), self.random_rules()
                self.resources = self.random_resources()
                self.resize()
            case 2:
                scheduler.pause(dice.choice(OBSTACLES))
            case 3:
                for why in OBSTACLES:
                    scheduler.resume(why, self.now)
            case 4:
                self.now = Now(self.now.elapsed + 20.0, self.now.wall + 20.0)
                scheduler.advance(self.now)
            case _:
                self.submit()

    def grant(self, reasons):
        """Grant these and nothing else, all at the same moment."""
        named = {reason.cause for reason in reasons}
        was_paused = set(self.scheduler._pauses)
        self.scheduler.pause(Cause.SHUTDOWN)
        self.hold(lambda job: job.state in {State.BLOCKED, State.SCHEDULED})  # nothing else comes due
        before = self.jobs_before()
        ahead = next((reason.ahead for reason in reasons if reason.ahead is not None), 0)
        assert len(before) >= ahead, "more jobs are said to be before it than there are"
        # one that takes no slots comes first, and may take the only place of a key
        self.hold(lambda job: job.state is State.QUEUED and self.wants_the_same_key(job))
        if self.has_weights:
            self.hold_those_with_another_turn(reasons)
        if ahead or named & {
            Cause.TIME,
            Cause.QUEUE_SLOTS,
            Cause.SLOTS,
            Cause.TOKENS,
            Cause.RATE,
            Cause.LIMIT,
        }:
            self.hold(lambda job: job.id in before)  # also who could not use what is granted until now
        for reason in reversed(reasons):
            self.grant_one(reason)
        for why in OBSTACLES:
            if why not in was_paused or why in named:
                self.scheduler.resume(why, self.now)

    def jobs_before(self):
        """Return the queued jobs that are more urgent than this one."""
        mine = self.scheduler.get(self.job)
        return {
            job.id
            for job in self.scheduler.table.jobs
            if job.state is State.QUEUED
            and (-job.priority, job.id) < (-mine.priority, mine.id)
            and (not self.takes_turns(job) or self.wants_the_same(job))
        }

    def hold_those_with_another_turn(self, reasons):
        """Hold those whose turn is said to come before, and those that could not start until now.

        Who is left has to wait for the turn of this job.
        """
        before = {self.share(queue) for reason in reasons for queue in reason.queues}
        ready = {Cause.SLOTS, Cause.SHARE, Cause.TURN, *OBSTACLES}
        others = [job for job in self.scheduler.table.jobs if self.takes_turns(job)]
        held = {
            job.id
            for job in others
            if self.share(job.queue) in before
            or self.scheduler.table.queues._before(job) != set()
            or not ready.issuperset(causes(self.scheduler, job.id, self.now))
        }
        self.hold(lambda job: job.id in held)

    def takes_turns(self, job):
        """Tell whether the weights of queues decide which one starts first, this job or another one."""
        mine = self.scheduler.get(self.job)
        is_apart = "apart" in {job.queue, mine.queue}
        is_equal = job.state is State.QUEUED and job.priority == mine.priority
        return (
            self.scheduler.table.queues._shares.are_set
            and not is_apart
            and is_equal
            and self.share(job.queue) != self.share(mine.queue)
        )

    def share(self, queue):
        return queue if queue in self.rules else None

    def wants_the_same(self, job):
        mine = self.scheduler.get(self.job)
        return bool(dict(job.conditions.resources).keys() & dict(mine.conditions.resources).keys())

    def wants_the_same_key(self, job):
        mine = self.scheduler.get(self.job)
        is_later = "apart" in {job.queue, mine.queue} or (-job.priority, job.id) > (-mine.priority, mine.id)
        return is_later and job.conditions.limit is not None and job.conditions.limit == mine.conditions.limit

    def hold(self, is_meant):
        jobs = [job for job in self.scheduler.table.jobs if job.id != self.job and is_meant(job)]
        for job in jobs:
            self.scheduler.hold(job.id, self.now)
        return len(jobs)

    def grant_one(self, reason):  # noqa: C901, PLR0912 - a flat list of cases
        scheduler = self.scheduler
        job = scheduler.get(self.job)
        cause: Cause = reason.cause
        match cause:
            case Cause.QUEUE_PAUSE:
                self.set_rule(job.queue, paused=False)
            case Cause.QUEUE_SLOTS:
                self.set_rule(job.queue, slots=reason.taken + reason.wanted)
            case Cause.LIMIT:
                limits = scheduler.table.queues.limits
                if (use := limits._uses.get(reason.subject)) is not None:  # else it has made way
                    use.places, use.newest = reason.taken + 1, JobId(10**6)
                    limits._wake(reason.subject)
            case Cause.SLOTS:  # more slots would make a job larger that takes all there are
                while scheduler.taken + reason.wanted > reason.slots:
                    self.make_way(scheduler.active_jobs()[0])
            case Cause.RATE:
                assert reason.at > self.now.wall
                self.set_rule(job.queue, rate=None)
            case Cause.TOKENS:
                more = tuple(f"new{number}" for number in range(reason.wanted - reason.slots + reason.taken))
                self.resources[reason.subject] += more
                self.resize()
            case Cause.HOLD:
                scheduler.release(self.job, self.now)
            case Cause.TIME:
                self.now = Now(self.now.elapsed + 100.0, self.now.wall + 100.0)
                scheduler.advance(self.now)
            case Cause.JOBS:
                others = {*job.conditions.after, *job.conditions.after_any}
                assert reason.jobs
                assert set(reason.jobs) == others
                for other in others:
                    scheduler._notify(self.job, other, State.SUCCEEDED, self.now)
                scheduler.advance(self.now)
            case (
                Cause.DEADLOCK
                | Cause.LAUNCHER
                | Cause.SHUTDOWN
                | Cause.PAUSE
                | Cause.SHARE
                | Cause.TURN
                | Cause.SUSPENSION
                | Cause.BREAKER  # tests/core/test_breakers.py
                | (Cause.START | Cause.REQUESTS | Cause.CONTROLLER | Cause.NODE | Cause.PILOT)
                | (Cause.LOAD | Cause.MEMORY)
            ):
                pass  # `grant` ends the pauses last, and holds the jobs before it first

    def make_way(self, active):
        """Take an active job off its slots, without the end for which others may wait."""
        self.scheduler.requeue(active.id, self.now)
        self.scheduler.ended(active.id, active.attempt, Outcome.CANCELLED, self.now)
        self.scheduler.hold(active.id, self.now)

    def set_rule(self, queue, **changes):
        self.rules[queue] = replace(self.rules[queue], **changes)
        self.resize()

    def has_started(self):
        return self.scheduler.get(self.job).state is State.RUNNING


def test_a_job_starts_once_all_that_explain_names_is_granted():
    named = set()
    for seed in range(STATES):
        situation = Situation(seed)
        reasons = situation.scheduler.explain(situation.job, situation.now)
        assert reasons, seed
        named |= {reason.cause for reason in reasons}

        situation.grant(reasons)

        assert situation.has_started(), (seed, reasons)
    assert named >= set(Cause) - {Cause.SUSPENSION, Cause.BREAKER, Cause.DEADLOCK, *OF_ATTEMPTS}


def test_a_job_does_not_start_while_one_of_the_reasons_remains():
    left_out = set()
    for seed in range(STATES):
        situation = Situation(seed)
        reasons = situation.scheduler.explain(situation.job, situation.now)
        index = seed % len(reasons)
        reason = reasons[index]
        named = {each.cause for each in reasons}
        if (
            reason.cause in {Cause.SHARE, Cause.TURN}
            or (reason.cause in {Cause.LIMIT, Cause.QUEUE_SLOTS, Cause.TOKENS} and Cause.SLOTS in named)
            or (reason.cause is Cause.RATE and Cause.TIME in named)
        ):
            continue  # one grant may grant another: those that make way may be of its queue or have tokens
        situation.grant([*reasons[:index], *reasons[index + 1 :]])

        assert not situation.has_started(), (seed, reason)
        left_out.add(reason.cause)
    assert left_out >= set(Cause) - {
        Cause.SHARE,
        Cause.TURN,
        Cause.SUSPENSION,
        Cause.BREAKER,
        Cause.DEADLOCK,
        *OF_ATTEMPTS,
    }


def test_reasons_of_many_queued_jobs_are_those_of_each_without_the_jobs_before_it():
    explained = 0
    for seed in range(STATES):
        situation = Situation(seed)
        scheduler, now = situation.scheduler, situation.now
        found = scheduler.explain_queued(scheduler.waiting_jobs(), now)
        for job, reasons in found.items():
            explained += bool(reasons)
            each = (replace(reason, ahead=None) for reason in scheduler.explain(job, now))
            assert list(reasons) == [
                reason
                for reason in each
                if reason.cause is not Cause.SHARE and (reason.cause is not Cause.TURN or reason.head)
            ], (seed, job)
    assert explained > STATES


# --- what it names ----------------------------------------------------------------------------------------


def test_reasons_come_in_the_order_in_which_people_can_do_something():
    scheduler = make_scheduler(slots=1)
    scheduler.resize(1, {"mail": QueueRule(slots=1, paused=True)}, NOW)
    running = submit(scheduler, now=NOW)
    scheduler.pause(Cause.LAUNCHER)
    scheduler.pause(Cause.SHUTDOWN)
    scheduler.pause(Cause.PAUSE)
    job = submit(scheduler, queue="mail", hold=True, delay=9.0, after=(running,))

    assert causes(scheduler, job) == [
        Cause.LAUNCHER,
        Cause.SHUTDOWN,
        Cause.PAUSE,
        Cause.QUEUE_PAUSE,
        Cause.HOLD,
        Cause.TIME,
        Cause.JOBS,
        Cause.SLOTS,
    ]


def test_what_a_job_need_not_wait_for_any_more_is_not_named():
    scheduler = make_scheduler(slots=1)
    held = submit(scheduler, hold=True, delay=9.0)
    dated = submit(scheduler, hold=True, at=NOW.wall + 9.0)

    assert causes(scheduler, held) == causes(scheduler, dated) == [Cause.HOLD, Cause.TIME]
    assert causes(scheduler, held, at(9.0)) == causes(scheduler, dated, at(9.0)) == [Cause.HOLD]


def test_a_job_that_runs_waits_for_nothing_unless_it_is_suspended():
    scheduler = make_scheduler()
    job = submit(scheduler)
    assert scheduler.explain(job, NOW) == scheduler.explain(JobId(404), NOW) == ()

    scheduler.set_suspended(job, NOW, suspended=True)
    assert scheduler.explain(job, NOW) == (Reason(cause=Cause.SUSPENSION, subject="1"),)


def test_a_job_whose_queue_has_had_its_share_waits_for_the_turn_of_others():
    rules = {"batch": QueueRule(weight=1), "mail": QueueRule(weight=3), "night": QueueRule(paused=True)}
    scheduler = Scheduler(1, rules, 0, lambda: 0.5)
    running, waits = (submit(scheduler, queue="batch") for _ in range(2))
    mail = submit(scheduler, queue="mail")
    submit(scheduler, queue="night")
    submit(scheduler, queue="mail", priority=-1)

    reasons = scheduler.explain(waits, NOW)
    assert [reason.cause for reason in reasons] == [Cause.SLOTS, Cause.SHARE]
    assert reasons[1] == Reason(cause=Cause.SHARE, subject="batch", limit="1 of 4", queues=("mail",))
    assert causes(scheduler, mail) == [Cause.SLOTS]
    assert likely_start(reasons, [(1, 110.0)], 15.0, 100.0) is None  # others start before it
    scheduler.resize(1, rules | {"night": QueueRule(slots=5, paused=True)}, NOW)
    assert scheduler.explain(waits, NOW) == reasons  # as much was used before
    end(scheduler, running)
    assert [job.id for job in scheduler.active_jobs()] == [mail]
    assert causes(scheduler, waits) == [Cause.SLOTS]


def test_jobs_that_wait_for_tokens_take_no_turns():
    rules = {"batch": QueueRule(weight=1), "mail": QueueRule(weight=1)}
    scheduler = Scheduler(8, rules, 0, lambda: 0.5, {"gpu": ("0", "1")})
    submit(scheduler, queue="mail", resources={"gpu": 1})
    submit(scheduler, queue="mail", resources={"gpu": 2})
    waits = submit(scheduler, queue="batch", resources={"gpu": 1})

    assert scheduler.explain(waits, NOW) == (Reason(cause=Cause.TURN, slots=8, taken=1, ahead=1),)


def test_of_many_jobs_that_one_waits_for_the_first_are_named():
    scheduler = make_scheduler(slots=1)
    others = [submit(scheduler) for _ in range(MAX_NAMED + 2)]
    job = submit(scheduler, after_any=tuple(others))

    [reason, *_] = scheduler.explain(job, NOW)

    assert (reason.jobs, reason.more) == (tuple(others[:MAX_NAMED]), 2)


def test_more_urgent_jobs_of_other_queues_are_before_a_job():
    scheduler = make_scheduler(slots=1, mail=1)
    submit(scheduler)
    urgent = submit(scheduler, queue="mail", priority=1)
    job = submit(scheduler)

    assert [scheduler.explain(each, NOW)[0].ahead for each in (urgent, job)] == [0, 1]


def test_jobs_before_one_are_counted_up_to_a_limit_and_not_through_dead_entries():
    scheduler = make_scheduler(slots=1)
    jobs = [submit(scheduler) for _ in range(MAX_AHEAD + 5)]
    assert scheduler.explain(jobs[-1], NOW)[0].ahead == MAX_AHEAD

    scheduler.resize(1, {"mail": QueueRule()}, NOW)
    submit(scheduler, queue="mail")
    for _ in range(2_000):
        scheduler.cancel(submit(scheduler, queue="mail", priority=1), NOW)
    later = [submit(scheduler, queue="mail", priority=1) for _ in range(3_000)]
    for job in later[1:1_400]:
        scheduler.cancel(job, NOW)
    assert scheduler.explain(later[1_450], NOW)[0].ahead in {None, 50}


def test_reasons_name_the_jobs_that_hold_slots_and_tokens():
    resources = {"gpu": ("0", "a", "b"), "license": ("1",)}
    rules = {"mail": QueueRule(slots=1), "far": QueueRule(slots=1, elsewhere=True)}
    scheduler = Scheduler(8, rules, last_id=0, roll=lambda: 0.5, resources=resources)
    two, one = (submit(scheduler, resources={"gpu": count}) for count in (2, 1))
    mail, far = (submit(scheduler, queue=queue) for queue in ("mail", "far"))
    others = [submit(scheduler, slots=slots) for slots in (1, 1, 1, 2)]

    def holders(job_id):
        return [scheduler.with_holders(each) for each in scheduler.explain(job_id, NOW)]

    [tokens] = holders(submit(scheduler, resources={"gpu": 1, "license": 1}, slots=1))[1:]
    assert (tokens.holders, tokens.held, tokens.other_holders) == ((two, one), ("0, a", "b"), 0)
    [queue, _] = holders(submit(scheduler, queue="mail"))
    assert (queue.cause, queue.holders, queue.held) == (Cause.QUEUE_SLOTS, (mail,), ())
    slots = holders(submit(scheduler))[0]
    in_all = [two, one, mail, *others]  # not what runs elsewhere
    assert (slots.cause, slots.holders) == (Cause.SLOTS, tuple(in_all[:MAX_HOLDERS]))
    assert slots.other_holders == len(in_all) - MAX_HOLDERS
    held = submit(scheduler, hold=True)
    assert holders(held)[0] == Reason(cause=Cause.HOLD, subject=str(held))
    assert far not in slots.holders


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason(cause=Cause.SLOTS, holders=(3,)), "held by job 3"),
        (Reason(cause=Cause.SLOTS, holders=(3, 4), other_holders=2), "held by jobs 3, 4 and 2 more"),
        (
            Reason(cause=Cause.SLOTS, holders=(4, 3), suspended=(4,)),
            "held by jobs 4 (suspended), 3",
        ),
        (
            Reason(cause=Cause.TOKENS, subject="gpu", holders=(3, 4), held=("0", "1, 2"), other_holders=2),
            "job 3 holds gpu 0, job 4 holds gpu 1, 2 and 2 more",
        ),
    ],
)
def test_those_that_hold_what_a_job_waits_for_have_words(reason, words):
    assert holders_in_words(reason) == words


def test_a_job_that_is_not_queued_yet_does_not_wait_for_slots_of_today():
    held, slots, load = Reason(cause=Cause.HOLD), Reason(cause=Cause.SLOTS), Reason(cause=Cause.LOAD)
    pause, deadlock = Reason(cause=Cause.PAUSE), Reason(cause=Cause.DEADLOCK)

    assert without_slots_of_today((pause, held, load, slots)) == (pause, held)
    assert without_slots_of_today((pause, load, slots)) == (pause, load, slots)
    assert without_slots_of_today((deadlock, held, slots)) == (deadlock, held, slots)


# --- in words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason(cause=Cause.LAUNCHER, problem="it hung up"), "for a launcher: it hung up"),
        (Reason(cause=Cause.LAUNCHER), "for a launcher: it is starting"),
        (Reason(cause=Cause.SHUTDOWN), "until bgd starts again: it is shutting down"),
        (Reason(cause=Cause.PAUSE), "until `bgctl resume`: all queues are paused"),
        (Reason(cause=Cause.QUEUE_PAUSE, subject="mail"), "until `bgctl resume mail`: its queue is paused"),
        (Reason(cause=Cause.HOLD, subject="7"), "until `bgctl release 7`"),
        (Reason(cause=Cause.TIME, at=1.5), "until 1.5"),
        (Reason(cause=Cause.JOBS, jobs=(3,)), "for job 3"),
        (Reason(cause=Cause.JOBS, jobs=(3, 4), more=2), "for jobs 3, 4 and 2 more"),
        (
            Reason(cause=Cause.QUEUE_SLOTS, subject="mail", slots=1, taken=1, ahead=0),
            "for a slot of queue mail: 1 of 1 is taken",
        ),
        (
            Reason(cause=Cause.QUEUE_SLOTS, subject="mail", wanted=2, slots=3, taken=2, ahead=1),
            "for 2 slots of queue mail: 2 of 3 are taken, and 1 job is before it",
        ),
        (
            Reason(cause=Cause.SLOTS, slots=1, taken=1, ahead=2),
            "for the only slot: it is taken, and 2 jobs are before it",
        ),
        (
            Reason(cause=Cause.SLOTS, slots=4, taken=4, ahead=100),
            "for 1 of 4 slots: 4 are taken, and 100 or more jobs are before it",
        ),
        (
            Reason(cause=Cause.TOKENS, subject="gpu", wanted=2, slots=2, taken=1, ahead=1),
            "for 2 gpu: 1 of 2 is taken, and 1 job is before it",
        ),
        (Reason(cause=Cause.TOKENS, subject="gpu", wanted=2, slots=1), "for 2 gpu: bgd has 1"),
        (Reason(cause=Cause.TOKENS, subject="gpu", wanted=2, slots=0), "for 2 gpu: bgd has none"),
        (
            Reason(cause=Cause.RATE, subject="api", limit="10/1m", ahead=2, at=5.0),
            "for the rate of queue api, 10/1m, 2 jobs are before it, until 5.0",
        ),
        (Reason(cause=Cause.LOAD, problem="it is 9"), "for the load of the machine: it is 9"),
        (Reason(cause=Cause.LOAD), "for the load of the machine: it is too high"),
        (Reason(cause=Cause.MEMORY), "for memory of the machine: too little is available"),
        (
            Reason(cause=Cause.SHARE, subject="batch", limit="1 of 4", queues=("mail",)),
            "for its share of the slots: queue batch has weight 1 of 4, and it is the turn of mail",
        ),
        (
            Reason(cause=Cause.SHARE, subject="a", limit="1 of 9", queues=("b", "c"), more=2),
            "for its share of the slots: queue a has weight 1 of 9, and it is the turn of b, c and 2 more",
        ),
        (Reason(cause=Cause.TURN, slots=4, ahead=7), "for its turn: 7 jobs are before it"),
        (Reason(cause=Cause.TURN, slots=4), "for its turn"),
        (Reason(cause=Cause.SUSPENSION, subject="7"), "until `bgctl continue 7`: it is suspended"),
        (Reason(cause=Cause.START), "to be started by the launcher"),
        (Reason(cause=Cause.START, problem="the disk is full"), "to be started: the disk is full"),
        (
            Reason(cause=Cause.REQUESTS),
            "for bgd's own limit on requests to Slurm (requests_per_second)",
        ),
        (
            Reason(cause=Cause.CONTROLLER, at=1.5),
            "for Slurm's controller (retrying): unreachable since 1.5",
        ),
        (Reason(cause=Cause.NODE), "in Slurm for a node"),
        (Reason(cause=Cause.PILOT, subject="far"), "for room on a pilot of executor far"),
        (
            Reason(cause=Cause.PILOT, subject="far", problem="too little time is left on node n1"),
            "for room on a pilot of executor far; too little time is left on node n1",
        ),
        (Reason(cause=Cause.NODE, problem="Resources"), "in Slurm for resources (Resources)"),
        (
            Reason(cause=Cause.NODE, problem="ReqNodeNotAvail, UnavailableNodes:n1; fan broke"),
            "in Slurm for a node that is not available (ReqNodeNotAvail, UnavailableNodes:n1; fan broke)",
        ),
        (
            Reason(cause=Cause.NODE, problem="SUSPENDED"),
            "in Slurm until it continues the allocation (SUSPENDED)",
        ),
        (Reason(cause=Cause.NODE, problem="QOSMaxJobsPerUserLimit"), "in Slurm: QOSMaxJobsPerUserLimit"),
    ],
)
def test_each_reason_has_words(reason, words):
    assert in_words(reason, str) == words


def test_a_line_says_what_comes_before_the_slots():
    held, at_a_time = Reason(cause=Cause.HOLD, subject="7"), Reason(cause=Cause.TIME, at=1.5)
    slots, turn = Reason(cause=Cause.QUEUE_SLOTS, subject="mail", slots=1, taken=1), Reason(cause=Cause.TURN)

    def line(*reasons):
        return waiting_line(Explanation(reasons=reasons), str)

    assert line(held, at_a_time, turn) == "until `bgctl release 7`, then until 1.5"
    assert line(slots, turn) == "for a slot of queue mail: 1 of 1 is taken, then for its turn"
    assert line() == ""


# --- when it will likely start ------------------------------------------------------------------------------


def turn(ahead=0, slots=2, taken=2, wanted=1):
    return Reason(cause=Cause.SLOTS, wanted=wanted, slots=slots, taken=taken, ahead=ahead)


RUNNING = [(1, 110.0), (1, 130.0)]


@pytest.mark.parametrize(
    ("reasons", "running", "seconds", "likely"),
    [
        ([turn()], RUNNING, None, 110.0),
        ([turn(wanted=2)], RUNNING, None, 130.0),
        (
            [turn(ahead=2)],
            RUNNING,
            15.0,
            130.0,
        ),  # they start at 110 and 125, the slots are free at 130 and 140
        ([turn(ahead=2)], RUNNING, None, None),
        ([turn(ahead=0), Reason(cause=Cause.TURN, slots=8, head=9, head_wants=8)], RUNNING, 15.0, None),
        ([turn(taken=1)], RUNNING[:1], None, 100.0),
        ([turn(taken=2)], [(2, 90.0)], None, None),  # longer than usual: its end is unknown
        ([turn(taken=2)], [(2, 100.0)], None, 100.0),
        ([turn()], [(1, None)], 15.0, None),
        ([turn(wanted=3, slots=3)], RUNNING[:1], None, None),  # another one has started meanwhile
        ([turn(ahead=MAX_AHEAD)], RUNNING, 15.0, None),
        ([turn(ahead=None)], RUNNING, 15.0, None),
        ([Reason(cause=Cause.TIME, at=200.0)], [], None, 200.0),
        ([Reason(cause=Cause.RATE, at=200.0, ahead=0)], [], None, 200.0),
        ([Reason(cause=Cause.RATE, at=200.0, ahead=2)], [], 15.0, None),
        ([Reason(cause=Cause.TIME, at=200.0), turn()], RUNNING, None, 200.0),
        ([Reason(cause=Cause.HOLD), turn()], RUNNING, None, None),
        ([], RUNNING, 15.0, None),
    ],
)
def test_the_likely_start_follows_from_how_long_jobs_take(reasons, running, seconds, likely):
    assert likely_start(reasons, running, seconds, 100.0) == likely


def test_every_cause_has_words():
    for cause in Cause:
        assert words_of(Reason(cause=cause, subject="reports", limit="3/1m", slots=1)).isprintable()


# --- deadlocks --------------------------------------------------------------------------------------------


def deadlock(scheduler, job_id, **awaited):
    """Return which job waits for which in the deadlock of a job; `awaited`: job_1={2} and so on."""
    by_job = {JobId(int(name.removeprefix("job_"))): jobs for name, jobs in awaited.items()}
    reason = scheduler.deadlock(job_id, by_job, NOW)
    return reason and reason.problem


def test_jobs_are_in_a_deadlock_if_all_that_hold_the_slots_wait_for_them():
    scheduler = make_scheduler(slots=2)
    for _ in range(4):
        submit(scheduler)

    assert deadlock(scheduler, 3, job_1={3}, job_2={4}) == "job 1 waits for job 3, job 2 waits for job 4"
    assert deadlock(scheduler, 1, job_1={3}, job_2={1}) == "job 1 waits for job 3, job 2 waits for job 1"
    assert deadlock(scheduler, 1, job_1={1}, job_2={4}) == "job 1 waits for job 1"
    for one in range(1, 5):
        assert deadlock(scheduler, one, job_1={3}) is None  # job 2 works
        assert deadlock(scheduler, one, job_1={2, 3}) is None
        assert deadlock(scheduler, one, job_1={3}, job_2={404}) is None  # which has finished
        assert deadlock(scheduler, one) is None
    scheduler.resize(3, {}, NOW)
    assert deadlock(scheduler, 4, job_1={3}, job_2={4}) is None


def test_a_job_that_is_to_end_is_in_no_deadlock():
    scheduler = make_scheduler(slots=1)
    outer, inner = submit(scheduler), submit(scheduler)
    scheduler.cancel(outer, NOW)

    assert deadlock(scheduler, inner, job_1={inner}) is None


@pytest.mark.parametrize(
    "options",
    [{"queue": "mail"}, {"resources": {"gpu": 1}}, {"limit": ("one", 1)}],
    ids=str,
)
def test_what_else_a_job_needs_may_be_held_in_a_deadlock(options):
    rules = {"mail": QueueRule(slots=1)}
    scheduler = Scheduler(8, rules, last_id=0, roll=lambda: 0.5, resources={"gpu": ("0",)})
    submit(scheduler, **options)
    inner = submit(scheduler, **options)

    assert deadlock(scheduler, inner, job_1={inner}) == "job 1 waits for job 2"


def test_a_job_that_waits_for_its_own_follower_is_in_a_deadlock():
    scheduler = make_scheduler(slots=2)
    outer, free = submit(scheduler), submit(scheduler)
    inner = submit(scheduler, after=(outer, free))

    assert deadlock(scheduler, inner, job_1={inner}) == "job 1 waits for job 3"
    assert deadlock(scheduler, free, job_1={inner}) is None


def test_of_many_jobs_in_a_deadlock_the_first_are_named():
    scheduler = make_scheduler(slots=MAX_HOLDERS + 2)
    for _ in range(MAX_HOLDERS + 3):
        submit(scheduler)
    last = JobId(MAX_HOLDERS + 3)
    awaited = {JobId(number): {last} for number in range(1, last)}

    reason = scheduler.deadlock(last, awaited, NOW)

    assert reason is not None
    explanation = Explanation(reasons=(reason, Reason(cause=Cause.SLOTS, slots=1)))
    assert deadlock_in_words(explanation) == words_of(reason)
    assert words_of(reason).endswith("job 5 waits for job 8 and 2 more; cancel one, or allow more")
