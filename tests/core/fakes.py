"""Stand-ins for what outlives the supervisor: the disk, and the launcher with its attempts."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from bgd.core.job import FINAL, Decision, Job, JobId, Now, Outcome
from bgd.core.limits import Tokens
from bgd.core.scheduler import Effect, SaveJob, StartAttempt

Key = tuple[JobId, int]  # job and number of the attempt
End = tuple[Outcome, int | None, Decision | None]  # outcome, exit code, decision of the job


class FakeDisk:
    """What survives everything. `write` is one transaction."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, Job] = {}
        # In epoch time, because the clock of another boot starts at another time
        self.due_at: dict[JobId, float] = {}
        self.expires_at: dict[JobId, float] = {}
        self.slot: dict[Key, int] = {}
        self.tokens: dict[Key, Tokens] = {}
        self.given_to: dict[Key, int] = {}  # the launcher instance for which an attempt was saved
        self.end: dict[Key, End] = {}

    def write(self, effects: list[Effect], ends: Mapping[Key, End], launcher: int, now: Now) -> None:
        last_saves = {effect.job.id: effect.job for effect in effects if isinstance(effect, SaveJob)}
        self.jobs.update(last_saves)
        for job in last_saves.values():
            if job.due is not None:
                self.due_at[job.id] = now.wall + job.due - now.elapsed
            if job.conditions.expires is not None:
                self.expires_at[job.id] = now.wall + job.conditions.expires - now.elapsed
        for effect in effects:
            if isinstance(effect, StartAttempt):
                key = effect.job.id, effect.job.attempt
                assert key not in self.slot, "an attempt is started once"
                self.slot[key] = effect.slot
                self.tokens[key] = effect.tokens
                self.given_to[key] = launcher
        assert self.end.keys().isdisjoint(ends), "an end is written once"
        self.end.update(ends)

    def on_another_boot(self, job: Job, now: Now) -> Job:
        """Return a job with its instants on the clock of another boot, which began at 0."""
        if job.due is not None:
            job = replace(job, due=now.elapsed + max(0.0, self.due_at[job.id] - now.wall))
        if job.conditions.expires is not None:
            expires = now.elapsed + max(0.0, self.expires_at[job.id] - now.wall)
            job = replace(job, conditions=replace(job.conditions, expires=expires))
        return job

    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state not in FINAL]


class FakeLauncher:
    """Keeps attempts running while the supervisor is away, and their ends until they are acknowledged."""

    def __init__(self) -> None:
        self.instance = 1
        self.covers = {1}  # instances whose attempts this one would know
        self.running: set[Key] = set()
        self.ended: dict[Key, End] = {}
        self._ever: set[Key] = set()

    def launch(self, key: Key) -> None:
        if key in self.running or key in self.ended:
            return
        assert key not in self._ever, "an attempt is started at most once"
        assert key[0] not in {job_id for job_id, _ in self.running}, "two attempts of a job at the same time"
        self._ever.add(key)
        self.running.add(key)

    def end(self, key: Key, end: End) -> None:
        self.running.remove(key)
        self.ended[key] = end

    def acknowledge(self, key: Key) -> None:
        self.ended.pop(key, None)

    def die(self, seen_as: Outcome) -> None:
        """Die, followed by a launcher that reports this outcome for all that ran."""
        self.ended.update(dict.fromkeys(self.running, (seen_as, None, None)))
        self.running.clear()
        self.instance += 1
        self.covers.add(self.instance)

    def die_with_records(self) -> None:
        """Die, followed by a launcher that knows nothing about earlier attempts."""
        self.running.clear()
        self.ended.clear()
        self.instance += 1
        self.covers = {self.instance}
