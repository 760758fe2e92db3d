"""Random histories of a busy daemon: anything in any order, with a loss between any two steps."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import FINAL, WAITING, Decision, NextStep, Outcome, Rate, RetryPolicy, State
from bgd.core.limits import QueueRule
from bgd.core.retry import exit_code_of
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec, KeyUntil, OnLimit
from tests.core.machine import SimulatedMachine

UNFINISHED = set(State) - FINAL

slot_counts = st.integers(1, 4)
queue_names = st.sampled_from(["default", "narrow", "wide", "apart", NOTIFICATION_QUEUE])
ruled_queues = st.dictionaries(
    st.sampled_from(["default", "narrow", "wide"]),
    st.builds(
        QueueRule,
        slots=st.none() | st.integers(1, 3),
        paused=st.sampled_from([False, False, True]),
        elsewhere=st.sampled_from([False, False, True]),
        weight=st.sampled_from([None, None, 1, 3]),
        rate=st.sampled_from([None, None, Rate(1, 5.0), Rate(2, 20.0)]),
    ),
)
rules_of_queues = ruled_queues.map(
    lambda rules: rules | {"apart": QueueRule(slots=1, apart=True), NOTIFICATION_QUEUE: QueueRule(apart=True)}
)
resources_of_machine = st.fixed_dictionaries(
    {"gpu": st.sampled_from([("0", "1"), ("0", "1", "2"), ("1",), ()])}, optional={"license": st.just(("1",))}
)
seconds = st.one_of(st.integers(0, 10), st.floats(0, 100))
jumps = st.sampled_from([0.0, 0.0, 0.0, 20.0, -20.0])  # of the wall clock
code_lists = st.sampled_from([(1,), (1, 124, 143)])
ends = st.builds(
    lambda outcome, code: (outcome, exit_code_of(outcome, code, 15), None),
    st.sampled_from(Outcome),
    st.integers(1, 2),
)
decisions = st.builds(
    Decision, st.sampled_from(NextStep), st.sampled_from([None, 0.0, 9.0]), st.sampled_from([None, -5.0, 6.0])
)
policies = st.builds(
    RetryPolicy,
    retries=st.integers(0, 3),
    delay=st.sampled_from([0.0, 1.0, 5.0]),
    backoff=st.sampled_from([1.0, 2.0]),
    max_delay=st.sampled_from([0.0, 4.0, 3600.0]),
    jitter=st.sampled_from([0.0, 0.1, 1.0]),
    rerun=st.sampled_from([None, True, False]),
)
choosy_policies = st.builds(RetryPolicy, retries=st.just(2), retry_on=code_lists) | st.builds(
    RetryPolicy, retries=st.just(2), no_retry_on=code_lists
)
any_policies = policies | choosy_policies
# What a spec may have and an edit may change; a date is in seconds from now
fields = {
    "queue": queue_names,
    "name": st.sampled_from(["ops", "pager"]),
    "priority": st.integers(-2, 2),
    "expires": st.sampled_from([None, None, 3.0, 30.0]),
    "slots": st.sampled_from([1, 1, 1, 2, 9]),
    "resources": st.sampled_from([None, None, None, {"gpu": 1}, {"gpu": 2}, {"gpu": 1, "license": 1}]),
    "limit": st.sampled_from([None, None, ("one", 1), ("two", 2)]),
    "on_limit": st.sampled_from([None, None, OnLimit.WAIT, OnLimit.SKIP]),
    "delay": st.sampled_from([0.0, 0.0, 0.0, 1.0, 7.0]),
    "at": st.sampled_from([None, None, -5.0, 6.0]),
}
jobs = st.fixed_dictionaries(
    {
        **fields,
        "key": st.sampled_from([None, None, "a", "b"]),
        "key_until": st.sampled_from([None, KeyUntil.START]),
        "key_for": st.sampled_from([None, 0.5, 30.0]),
        "hold": st.sampled_from([False, False, True]),
    }
)
changes_of_fields = st.fixed_dictionaries({}, optional=fields)
names_of_waits = st.lists(st.sampled_from(["after", "after_any"]), max_size=2, unique=True)
# One rule for all of these: a daemon that is disturbed at every other step does not get far
pauses = st.sampled_from([Cause.PAUSE, Cause.SHUTDOWN, Cause.LOAD])
disturbances = st.one_of(
    st.builds(lambda why: lambda machine: machine.pause(why), pauses),
    st.builds(lambda why: lambda machine: machine.resume(why), pauses),
    st.builds(
        lambda *limits: lambda machine: machine.resize(*limits),
        slot_counts,
        rules_of_queues,
        resources_of_machine,
    ),
    st.sampled_from(
        [
            SimulatedMachine.lose_supervisor,
            SimulatedMachine.lose_launcher,
            SimulatedMachine.lose_launcher_and_its_records,
            SimulatedMachine.lose_power,
        ]
    ),
)
# How far the supervisor gets with its decisions before the next thing happens
progress = st.sampled_from(["acted", "acted", "acted", "written", "decided"])


def jobs_that_are(states):
    return precondition(lambda self: self.machine.ids(states))


class Histories(RuleBasedStateMachine):
    @initialize(
        slots=slot_counts,
        rules=rules_of_queues,
        resources=resources_of_machine,
        rolls=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    )
    def begin(self, slots, rules, resources, rolls):
        self.machine = SimulatedMachine(slots, rules, itertools.cycle(rolls).__next__, resources)

    @rule(
        data=st.data(),
        jobs=st.lists(st.tuples(jobs, any_policies), min_size=1, max_size=3),
        progress=progress,
    )
    def submit(self, data, jobs, progress):
        for options, policy in jobs:
            self.machine.submit(JobSpec(argv=("true",), **self.completed(data, options)), policy)
        self.go_on(progress)

    @jobs_that_are(WAITING)
    @rule(data=st.data(), changes=changes_of_fields, policy=any_policies, progress=progress)
    def edit(self, data, changes, policy, progress):
        self.machine.edit(self.one_of(data, WAITING), self.completed(data, changes), policy)
        self.go_on(progress)

    @jobs_that_are(WAITING)
    @rule(data=st.data(), progress=progress)
    def hold(self, data, progress):
        self.machine.hold(self.one_of(data, WAITING))
        self.go_on(progress)

    @jobs_that_are({State.HELD})
    @rule(data=st.data(), progress=progress)
    def release(self, data, progress):
        self.machine.release(self.one_of(data, {State.HELD}))
        self.go_on(progress)

    @jobs_that_are({State.RUNNING})
    @rule(data=st.data(), suspended=st.booleans(), progress=progress)
    def set_suspended(self, data, suspended, progress):
        self.machine.set_suspended(self.one_of(data, {State.RUNNING}), suspended=suspended)
        self.go_on(progress)

    @precondition(lambda self: self.machine.launcher.running)
    @rule(data=st.data(), end=ends, progress=progress)
    def one_ends(self, data, end, progress):
        self.machine.end(data.draw(st.sampled_from(sorted(self.machine.launcher.running))), end)
        self.go_on(progress)

    @precondition(lambda self: self.machine.launcher.running)
    @rule(data=st.data(), decision=decisions, progress=progress)
    def one_says_how_it_ends(self, data, decision, progress):
        if decision.until is not None:
            decision = replace(decision, until=self.machine.now.wall + decision.until)
        outcome = Outcome.SNOOZED if decision.step is NextStep.SNOOZE else Outcome.ERROR
        key = data.draw(st.sampled_from(sorted(self.machine.launcher.running)))
        self.machine.end(key, (outcome, exit_code_of(outcome, None, None), decision))
        self.go_on(progress)

    @precondition(lambda self: self.machine.launcher.running)
    @rule(end=ends, progress=progress)
    def all_end(self, end, progress):
        for key in sorted(self.machine.launcher.running):
            self.machine.end(key, end)
        self.go_on(progress)

    @precondition(lambda self: self.machine.disk.end)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def repeat_end(self, data, outcome):
        self.machine.repeat_end(data.draw(st.sampled_from(sorted(self.machine.disk.end))), outcome)

    @jobs_that_are(UNFINISHED)
    @rule(data=st.data(), progress=progress)
    def cancel(self, data, progress):
        self.machine.cancel(self.one_of(data, UNFINISHED))
        self.go_on(progress)

    @jobs_that_are(UNFINISHED)
    @rule(data=st.data(), progress=progress)
    def requeue(self, data, progress):
        self.machine.requeue(self.one_of(data, UNFINISHED))
        self.go_on(progress)

    @jobs_that_are(FINAL)
    @rule(data=st.data(), progress=progress)
    def revive(self, data, progress):
        self.machine.revive(self.one_of(data, FINAL))
        self.go_on(progress)

    @rule(seconds=seconds, jump=jumps, is_noticed=st.booleans(), progress=progress)
    def time_passes(self, seconds, jump, is_noticed, progress):
        self.machine.let_pass(seconds, jump)
        if is_noticed:
            self.machine.advance()
        self.go_on(progress)

    @rule(disturbance=disturbances, progress=progress)
    def disturb(self, disturbance, progress):
        disturbance(self.machine)
        self.go_on(progress)

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def effects_and_memory_agree(self):
        self.machine.checker.check(self.machine.scheduler)

    @invariant()
    def only_wanted_attempts_run(self):
        active = {(job.id, job.attempt) for job in self.machine.scheduler.active_jobs()}
        assert self.machine.launcher.running <= active

    # --- steps ------------------------------------------------------------------------------------------

    def go_on(self, progress):
        if progress != "decided":
            self.machine.write()
        if progress == "acted":
            self.machine.act()

    def one_of(self, data, states):
        return data.draw(st.sampled_from(self.machine.ids(states)))

    def completed(self, data, fields):
        """Return fields of a spec with a real date, at most one starting time, and jobs to wait for."""
        if fields.get("at") is not None:
            fields = {**fields, "at": self.machine.now.wall + fields["at"], "delay": 0.0}
        elif fields.get("delay"):
            fields = {**fields, "at": None}
        ids = self.machine.ids(set(State))
        waits = data.draw(names_of_waits) if ids else []
        return fields | {name: tuple(data.draw(st.lists(st.sampled_from(ids), max_size=2))) for name in waits}


TestHistories = Histories.TestCase
