"""A world around the Scheduler that can lose any part of itself: memory, launcher, or all but the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from bgd.core.effects import Effect, Start
from bgd.core.job import ACTIVE, Job, JobId, JobSpec, Now, Outcome, RetryPolicy, State
from bgd.core.scheduler import Scheduler
from tests.core.referee import Referee
from tests.core.survivors import Disk, Key, Launcher


class World:
    """A supervisor with its Scheduler, disk, launcher and clocks, and a referee that sees every effect.

    Each fact is decided at once; `write` and `act` are the later steps that a crash may prevent.
    """

    def __init__(self, slots: int, queue_slots: Mapping[str, int], roll: Callable[[], float]) -> None:
        self.now = Now(elapsed=100.0, wall=1e9)
        self.disk = Disk()
        self.launcher = Launcher()
        self.referee = Referee(slots, queue_slots)
        self._roll = roll
        self._on_disk = self.referee.copy()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.scheduler = Scheduler(
            self.referee.slots, self.referee.queue_slots, max(self.disk.jobs, default=0), self._roll
        )
        self._unwritten: list[Effect] = []
        self._unwritten_ends: dict[Key, Outcome] = {}
        self._to_do: list[Effect] = []
        self._to_acknowledge: set[Key] = set()

    # --- facts --------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, policy: RetryPolicy) -> JobId:
        job_id = self.scheduler.submit(spec, policy, self.now)
        self._decided()
        return job_id

    def cancel(self, job_id: JobId) -> None:
        was_stopping = self.referee.jobs[job_id].state is State.STOPPING
        state = self.scheduler.cancel(job_id, self.now)
        self._decided(is_settled=not was_stopping)
        assert state is self.referee.jobs[job_id].state
        assert not self.referee.jobs[job_id].making_way

    def make_way(self, job_id: JobId) -> None:
        self.scheduler.make_way(job_id, self.now)
        self._decided(is_settled=False)

    def end(self, key: Key, outcome: Outcome) -> None:
        self.launcher.end(key, outcome)
        self._take_end(key, outcome)

    def repeat_end(self, key: Key, outcome: Outcome) -> None:
        assert not self.scheduler.ended(*key, outcome, self.now)
        assert self.scheduler.take_effects() == []

    def revive(self, job_id: JobId) -> None:
        self.scheduler.revive(self.referee.jobs[job_id], self.now)
        self._decided(revived=job_id)

    def resize(self, slots: int, queue_slots: Mapping[str, int]) -> None:
        self.referee.slots, self.referee.queue_slots = slots, dict(queue_slots)
        self.scheduler.resize(slots, queue_slots, self.now)
        self._decided()

    def pause(self) -> None:
        self.referee.is_paused = True
        self.scheduler.pause()
        self._decided(is_settled=False)

    def resume(self) -> None:
        self.referee.is_paused = False
        self.scheduler.resume(self.now)
        self._decided()

    def let_pass(self, seconds: float) -> None:
        self.now = Now(self.now.elapsed + seconds, self.now.wall + seconds)

    def advance(self) -> None:
        self.scheduler.advance(self.now)
        self._decided()

    # --- the steps after a decision -----------------------------------------------------------------------

    def write(self) -> None:
        self.disk.write(self._unwritten, self._unwritten_ends, self.launcher.instance, self.now)
        self._to_do += self._unwritten
        self._unwritten, self._unwritten_ends = [], {}
        self._to_acknowledge = set(self.launcher.ended) & set(self.disk.end)
        self._on_disk = self.referee.copy()
        assert self.disk.jobs == self.referee.jobs

    def act(self) -> None:
        effects, self._to_do = self._to_do, []
        for effect in effects:
            if isinstance(effect, Start):
                self._launch((effect.job.id, effect.job.attempt))
        for key in self._to_acknowledge:
            self.launcher.acknowledge(key)

    def _launch(self, key: Key) -> None:
        """Send a Launch, if it is still wanted and its launcher is still the one it was written for."""
        job = self.scheduler.get(key[0])
        is_wanted = job is not None and job.state in ACTIVE and job.attempt == key[1]
        if is_wanted and self.disk.given_to[key] == self.launcher.instance:
            self.launcher.launch(key)

    # --- losses -------------------------------------------------------------------------------------------

    def lose_supervisor(self) -> None:
        """Lose all memory, and what was decided but not written, or written and not acted on."""
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
        """Lose everything but what is on disk; the elapsed clock begins again."""
        self.launcher.die(Outcome.INTERRUPTED)
        self.now = Now(elapsed=0.0, wall=self.now.wall + 30.0)
        self._restart()
        for job in self.disk.unfinished():
            if job.due is not None:
                job = replace(job, due=max(0.0, self.disk.due_at[job.id] - self.now.wall))  # noqa: PLW2901
                self.disk.jobs[job.id] = self.referee.jobs[job.id] = job
            self._restore(job)
        self._meet_launcher()

    def _restart(self) -> None:
        self.referee = self._on_disk.copy()
        self.referee.is_paused = False
        self.referee.settled_at = 0.0
        self._begin_anew()

    def _restore(self, job: Job) -> None:
        slot = self.disk.slot[job.id, job.attempt] if job.state in ACTIVE else None
        self.scheduler.restore(job, slot)
        assert self.scheduler.get(job.id) == job
        assert self.scheduler.take_effects() == []

    def _meet_launcher(self) -> None:
        """Bring what is written down and what the launcher knows together (R3)."""
        was_paused = self.referee.is_paused
        self.pause()
        self.write()  # having no launcher keeps nobody from writing
        for job in self.scheduler.active_jobs():
            key = job.id, job.attempt
            if key in self.launcher.running or key in self.launcher.ended:
                continue
            if self.disk.given_to[key] not in self.launcher.covers:
                self._take_end(key, Outcome.UNKNOWN)
            elif job.state is State.STOPPING:
                self._take_end(key, Outcome.CANCELLED)
            else:
                self.disk.given_to[key] = self.launcher.instance
                self._launch(key)
        for key, outcome in self.launcher.ended.items():
            if key not in self.disk.end and key not in self._unwritten_ends:
                self._take_end(key, outcome)
        if not was_paused:
            self.resume()

    # --- following ----------------------------------------------------------------------------------------

    def _take_end(self, key: Key, outcome: Outcome) -> None:
        self.referee.saw_end(key[0], outcome)
        assert self.scheduler.ended(*key, outcome, self.now)
        self._unwritten_ends[key] = outcome
        self._decided()

    def _decided(self, *, revived: JobId | None = None, is_settled: bool = True) -> None:
        effects = self.scheduler.take_effects()
        if is_settled:
            self.referee.settled_at = self.now.elapsed
        self.referee.follow(effects, revived)
        self._unwritten += effects
