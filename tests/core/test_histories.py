"""Random lives of a busy daemon: whatever can happen, in any order, a loss between any two steps."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bgd.core.job import FINAL, JobSpec, Outcome, RetryPolicy
from tests.core.world import World

slot_counts = st.integers(1, 4)
queue_slots = st.dictionaries(st.sampled_from(["narrow", "wide"]), st.integers(0, 3))
seconds = st.one_of(st.integers(0, 10), st.floats(0, 100))
outcomes = st.sampled_from(Outcome)
policies = st.builds(
    RetryPolicy,
    retries=st.integers(0, 3),
    delay=st.sampled_from([0.0, 1.0, 5.0]),
    backoff=st.sampled_from([1.0, 2.0]),
    max_delay=st.sampled_from([0.0, 4.0, 3600.0]),
    jitter=st.sampled_from([0.0, 0.1, 1.0]),
    rerun=st.sampled_from([None, True, False]),
)
specs = st.builds(
    JobSpec,
    argv=st.just(("true",)),
    queue=st.sampled_from(["default", "narrow", "wide"]),
    priority=st.integers(-2, 2),
    delay=st.sampled_from([0.0, 0.0, 0.0, 1.0, 7.0]),
)
# One rule for all of these: a daemon disturbed at every other step never gets old
disturbances = st.one_of(
    st.sampled_from([World.pause, World.resume, World.resume]),
    st.builds(lambda *room: lambda world: world.resize(*room), slot_counts, queue_slots),
    st.sampled_from(
        [
            World.lose_supervisor,
            World.lose_launcher,
            World.lose_launcher_and_its_records,
            World.lose_power,
        ]
    ),
)
# How far the supervisor gets with what was decided before the next thing happens
progress = st.sampled_from(["acted", "acted", "acted", "written", "decided"])


class Histories(RuleBasedStateMachine):
    @initialize(
        slots=slot_counts,
        queue_slots=queue_slots,
        rolls=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    )
    def begin(self, slots, queue_slots, rolls):
        self.world = World(slots, queue_slots, itertools.cycle(rolls).__next__)

    @rule(jobs=st.lists(st.tuples(specs, policies), min_size=1, max_size=3), progress=progress)
    def submit(self, jobs, progress):
        for spec, policy in jobs:
            self.world.submit(spec, policy)
        self.go_on(progress)

    @precondition(lambda self: self.world.launcher.running)
    @rule(data=st.data(), outcome=outcomes, progress=progress)
    def one_ends(self, data, outcome, progress):
        self.world.end(data.draw(st.sampled_from(sorted(self.world.launcher.running))), outcome)
        self.go_on(progress)

    @precondition(lambda self: self.world.launcher.running)
    @rule(outcome=outcomes, progress=progress)
    def all_end(self, outcome, progress):
        for key in sorted(self.world.launcher.running):
            self.world.end(key, outcome)
        self.go_on(progress)

    @precondition(lambda self: self.world.disk.end)
    @rule(data=st.data(), outcome=outcomes)
    def repeat_end(self, data, outcome):
        self.world.repeat_end(data.draw(st.sampled_from(sorted(self.world.disk.end))), outcome)

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), progress=progress)
    def cancel(self, data, progress):
        self.world.cancel(data.draw(st.sampled_from(self.unfinished())))
        self.go_on(progress)

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), progress=progress)
    def make_way(self, data, progress):
        self.world.make_way(data.draw(st.sampled_from(self.unfinished())))
        self.go_on(progress)

    @precondition(lambda self: self.finished())
    @rule(data=st.data(), progress=progress)
    def revive(self, data, progress):
        self.world.revive(data.draw(st.sampled_from(self.finished())))
        self.go_on(progress)

    @rule(seconds=seconds, is_noticed=st.booleans(), progress=progress)
    def time_passes(self, seconds, is_noticed, progress):
        self.world.let_pass(seconds)
        if is_noticed:
            self.world.advance()
        self.go_on(progress)

    @rule(disturbance=disturbances, progress=progress)
    def disturb(self, disturbance, progress):
        disturbance(self.world)
        self.go_on(progress)

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def effects_and_memory_agree(self):
        self.world.referee.check(self.world.scheduler)

    @invariant()
    def only_wanted_attempts_run(self):
        active = {(job.id, job.attempt) for job in self.world.scheduler.active_jobs()}
        assert self.world.launcher.running <= active

    # --- steps ------------------------------------------------------------------------------------------

    def go_on(self, progress):
        if progress != "decided":
            self.world.write()
        if progress == "acted":
            self.world.act()

    def unfinished(self):
        return sorted(job.id for job in self.world.referee.jobs.values() if job.state not in FINAL)

    def finished(self):
        return sorted(job.id for job in self.world.referee.jobs.values() if job.state in FINAL)


TestHistories = Histories.TestCase
