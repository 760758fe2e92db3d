"""A machine around the Scheduler that can lose its memory, its launcher, or everything except the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from bgd.core.conditions import find_cycle, revived, unmet
from bgd.core.explain import Cause
from bgd.core.job import ACTIVE, FINAL, Job, JobId, Now, Outcome, RetryPolicy, State
from bgd.core.limits import NO_TOKENS, QueueRule, Resources
from bgd.core.scheduler import Effect, Scheduler, StartAttempt
from bgd.core.spec import JobSpec
from tests.core.effect_checker import EffectChecker, Request
from tests.core.fakes import End, FakeDisk, FakeLauncher, Key


class SimulatedMachine:
    """A supervisor with a Scheduler, disk, launcher and clocks, and a checker that sees every effect.

    Each fact is decided at once. A crash may prevent the later steps, `write` and `act`.
    """

    def __init__(
        self,
        slots: int,
        rules: Mapping[str, QueueRule],
        roll: Callable[[], float],
        resources: Resources = NO_TOKENS,
    ) -> None:
        self.now = Now(elapsed=100.0, wall=1e9)
        self.disk = FakeDisk()
        self.launcher = FakeLauncher()
        self.checker = EffectChecker(slots, rules, resources)
        self._roll = roll
        self._on_disk = self.checker.copy()
        self._start_empty()

    def _start_empty(self) -> None:
        model = self.checker.slots
        self.scheduler = Scheduler(
            model.slots, model.rules, max(self.disk.jobs, default=0), self._roll, model.resources
        )
        self._unwritten: list[Effect] = []
        self._unwritten_ends: dict[Key, End] = {}
        self._to_do: list[Effect] = []
        self._to_acknowledge: set[Key] = set()

    # --- facts --------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, policy: RetryPolicy) -> None:
        if spec.key is not None and self.scheduler.holder_of(spec.key, self.now) is not None:
            return
        job_id = self.scheduler.submit(spec, policy, self.now, self._finished_of(spec))
        self.scheduler.advance(self.now)
        self._decided(Request(job_id=job_id, what="submit", spec=spec))

    def hold(self, job_id: JobId) -> None:
        was_held = self.checker.jobs[job_id].state is State.HELD
        state = self.scheduler.hold(job_id, self.now)
        self._decided(Request(job_id=job_id, what="hold"), is_settled=not was_held)
        assert state is self.checker.jobs[job_id].state

    def release(self, job_id: JobId) -> None:
        state = self.scheduler.release(job_id, self.now)
        self._decided(Request(job_id=job_id, what="release"))
        assert state is self.checker.jobs[job_id].state

    def edit(self, job_id: JobId, changes: Mapping[str, object], policy: RetryPolicy) -> None:
        """Edit a waiting job, unless it would then wait for itself."""
        spec = replace(self.checker.specs[job_id], **changes)
        others = (*spec.after, *spec.after_any)
        is_cycle = self.checker.dependencies.closes_cycle(job_id, others)
        assert (find_cycle(job_id, others, self.scheduler.get) is not None) == is_cycle
        if is_cycle:
            return
        changed = frozenset(changes)
        state = self.scheduler.edit(job_id, spec, policy, changed, self.now, self._finished_of(spec))
        self._decided(Request(job_id=job_id, what="edit", spec=spec, changed=changed))
        assert state is self.checker.jobs[job_id].state

    def set_suspended(self, job_id: JobId, *, suspended: bool) -> None:
        self.scheduler.set_suspended(job_id, self.now, suspended=suspended)
        self._decided(is_settled=False)
        assert self.checker.jobs[job_id].suspended is suspended

    def cancel(self, job_id: JobId) -> None:
        was_stopping = self.checker.jobs[job_id].state is State.STOPPING
        state = self.scheduler.cancel(job_id, self.now)
        self._decided(Request(job_id=job_id, what="cancel"), is_settled=not was_stopping)
        assert state is self.checker.jobs[job_id].state
        assert not self.checker.jobs[job_id].making_way

    def requeue(self, job_id: JobId) -> None:
        self.scheduler.requeue(job_id, self.now)
        self._decided(Request(job_id=job_id, what="requeue"), is_settled=False)

    def end(self, key: Key, end: End) -> None:
        self.launcher.end(key, end)
        self._take_end(key, end)

    def repeat_end(self, key: Key, outcome: Outcome) -> None:
        assert not self.scheduler.ended(*key, outcome, self.now)
        assert self.scheduler.take_effects() == []

    def revive(self, job_id: JobId) -> None:
        job = self.checker.jobs[job_id]
        if (
            job.conditions.key is not None
            and self.scheduler.holder_of(job.conditions.key, self.now) is not None
        ):
            return
        spec = self.checker.specs[job_id]
        finished = self._finished_of(spec)
        awaited = [JobId(other) for other in (*spec.after, *spec.after_any) if other not in finished]
        if unmet(job, spec, finished, awaited) is None:
            self.scheduler.revive(revived(job, spec, self.now, awaited), self.now)
            self._decided(Request(job_id=job_id, what="revive"))

    def resize(self, slots: int, rules: Mapping[str, QueueRule], resources: Resources = NO_TOKENS) -> None:
        model = self.checker.slots
        model.starts = [
            (queue, at)
            for queue, at in model.starts
            if queue in rules and queue in model.rules and rules[queue].rate == model.rules[queue].rate
        ]
        if _weights(rules) != _weights(model.rules):
            model.forget_shares()
        model.slots, model.rules, model.resources = slots, dict(rules), dict(resources)
        self.scheduler.resize(slots, rules, self.now, resources)
        self._decided()

    def pause(self, why: Cause) -> None:
        self.checker.pauses.add(why)
        self.scheduler.pause(why)
        self._decided(is_settled=False)

    def resume(self, why: Cause) -> None:
        self.checker.pauses.discard(why)
        self.scheduler.resume(why, self.now)
        self._decided()

    def let_pass(self, seconds: float, jump: float) -> None:
        """Let time pass while somebody sets the wall clock forward by `jump`, or back."""
        self.now = Now(self.now.elapsed + seconds, self.now.wall + seconds + jump)

    def advance(self) -> None:
        self.scheduler.advance(self.now)
        self._decided()

    # --- questions-----------------------------------------------------------------------------------------

    def ids(self, states: Collection[State]) -> list[JobId]:
        return sorted(job.id for job in self.checker.jobs.values() if job.state in states)

    def _finished_of(self, spec: JobSpec) -> dict[JobId, State]:
        others = (self.checker.jobs[JobId(other)] for other in (*spec.after, *spec.after_any))
        return {other.id: other.state for other in others if other.state in FINAL}

    # --- the steps after a decision -----------------------------------------------------------------------

    def write(self) -> None:
        self.disk.write(self._unwritten, self._unwritten_ends, self.launcher.instance, self.now)
        self._to_do += self._unwritten
        self._unwritten, self._unwritten_ends = [], {}
        self._to_acknowledge = set(self.launcher.ended) & set(self.disk.end)
        self._on_disk = self.checker.copy()
        assert self.disk.jobs == self.checker.jobs

    def act(self) -> None:
        effects, self._to_do = self._to_do, []
        for effect in effects:
            if isinstance(effect, StartAttempt):
                self._launch((effect.job.id, effect.job.attempt))
        for key in self._to_acknowledge:
            self.launcher.acknowledge(key)

    def _launch(self, key: Key) -> None:
        """Send a Launch if it is still wanted and the launcher is the one for which it was saved."""
        job = self.scheduler.get(key[0])
        is_wanted = job is not None and job.state in ACTIVE and job.attempt == key[1]
        if is_wanted and self.disk.given_to[key] == self.launcher.instance:
            self.launcher.launch(key)

    def _recount(self) -> Counter[tuple[str, State]]:
        jobs = self.checker.jobs.values()
        return Counter((job.queue, job.state) for job in jobs if job.state not in FINAL)

    # --- losses -------------------------------------------------------------------------------------------

    def lose_supervisor(self) -> None:
        """Lose all memory: what was decided but not written, or written but not acted on."""
        self._restart()
        for job in self.disk.unfinished():
            self._restore(job)
        self._meet_launcher()

    def lose_launcher(self) -> None:
        self.launcher.die(Outcome.UNKNOWN)
        self._meet_launcher()

    def lose_launcher_and_its_records(self) -> None:
        self.launcher.die_with_records()
        self._meet_launcher()

    def lose_power(self) -> None:
        """Lose everything except the disk; the elapsed clock starts again."""
        self.launcher.die(Outcome.INTERRUPTED)
        was, self.now = self.now, Now(elapsed=0.0, wall=self.now.wall + 30.0)
        starts = self._on_disk.slots.starts
        self._on_disk.slots.starts = [(queue, at - was.elapsed - 30.0) for queue, at in starts]
        self._restart()
        for written in self.disk.unfinished():
            job = self.disk.on_another_boot(written, self.now)
            self.disk.jobs[job.id] = self.checker.jobs[job.id] = job
            self._restore(job)
        self._meet_launcher()

    def _restart(self) -> None:
        self.checker = self._on_disk.copy()
        self.checker.pauses.clear()
        self.checker.settled = None
        self.checker.slots.forget_shares()
        self._start_empty()
        starts = sorted(self.checker.slots.starts, key=lambda start: start[1])
        self.scheduler.table.queues.starts.restore(starts)

    def _restore(self, job: Job) -> None:
        slot = self.disk.slot[job.id, job.attempt] if job.state in ACTIVE else None
        tokens = self.disk.tokens[job.id, job.attempt] if job.state in ACTIVE else {}
        self.scheduler.restore(job, slot, tokens)
        if slot is not None:
            self.checker.slots.restore(job, slot, tokens)
        assert self.scheduler.get(job.id) == job
        assert self.scheduler.take_effects() == []

    def _meet_launcher(self) -> None:
        """Reconcile what is on disk with what the launcher knows (R3)."""
        self.pause(Cause.LAUNCHER)
        self.write()  # the daemon also writes without a launcher
        for job in self.scheduler.active_jobs():
            key = job.id, job.attempt
            if key in self.launcher.running or key in self.launcher.ended:
                continue
            if self.disk.given_to[key] not in self.launcher.covers:
                self._take_end(key, (Outcome.UNKNOWN, None, None))
            elif job.state is State.STOPPING:
                self._take_end(key, (Outcome.CANCELLED, None, None))
            else:
                self.disk.given_to[key] = self.launcher.instance
                self._launch(key)
        for key, end in self.launcher.ended.items():
            if key not in self.disk.end and key not in self._unwritten_ends:
                self._take_end(key, end)
        self.resume(Cause.LAUNCHER)

    # --- following ----------------------------------------------------------------------------------------

    def _take_end(self, key: Key, end: End) -> None:
        outcome, code, decision = end
        self.checker.saw_end(key[0], end)
        assert self.scheduler.ended(*key, outcome, self.now, code, decision)
        self._unwritten_ends[key] = end
        self._decided()

    def _decided(self, asked: Request | None = None, *, is_settled: bool = True) -> None:
        effects = self.scheduler.take_effects()
        if is_settled:
            self.checker.settled = self.now
        self.checker.follow(effects, self.now, asked)
        assert self.scheduler.counts == self._recount()
        assert {name: numbers for name, *numbers in self.scheduler.resources()} == self.checker.resources()
        self._unwritten += effects


def _weights(rules: Mapping[str, QueueRule]) -> dict[str, int]:
    return {queue: rule.weight or 1 for queue, rule in rules.items()}
