"""A daemon with schedules whose clocks a test sets, one life after another on the same files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from bgd.core.filters import Filter
from bgd.core.job import JobId, Outcome, State
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.schedules import Occurrence
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage import lists
from bgd.daemon.storage import schedules as storage
from bgd.settings.config import Config
from bgd.system.clock import Clocks
from bgd.wire.launching import Launch
from bgd.wire.requests import List
from bgd.wire.schedules import OccurrenceView
from tests.daemon.harness import Harness, command, running_supervisor
from tests.daemon.scripted_launcher import ScriptedLauncher, end
from tests.daemon.waiting import soon

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
HOURLY = ScheduleSpec(job=command(), cron="0 * * * *", timezone="UTC")
NIGHTLY = ScheduleSpec(job=command(), cron="0 3 * * *", timezone="UTC")


class FakeClocks:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.wall = NOON
        self.awake = 1_000.0
        self.elapsed = 2_000.0

    def __call__(self) -> Clocks:
        return Clocks(self.wall, self.awake, self.elapsed)

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.awake += seconds
        self.elapsed += seconds


class Life:
    """A daemon with schedules, whose time passes only when a test says so."""

    def __init__(self, harness: Harness, clocks: FakeClocks) -> None:
        self.harness = harness
        self.clocks = clocks
        self.schedules = Schedules(harness.supervisor, harness.actions, harness.store, clocks)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, as if the daemon looked at each occurrence."""
        self.clocks.go_on(seconds)
        await self.schedules.clock.look()
        await soon(self.harness.supervisor.saved())

    async def jump(self, seconds: float) -> None:
        """Set the wall clock."""
        self.clocks.wall += seconds
        await self.schedules.clock.look()
        await soon(self.harness.supervisor.saved())

    async def rows(self, name: str) -> list[Occurrence]:
        """Return the stored occurrences of a schedule, oldest first."""
        await soon(self.harness.supervisor.saved())
        found = await self.harness.store.read(storage.history, name, 100)
        return [_stored(name, each) for each in reversed(found)]

    async def jobs(self) -> list[int]:
        await soon(self.harness.supervisor.saved())
        return sorted(
            await self.harness.store.read(lists.select_ids, List(id=0, states=list(State)), Filter())
        )

    async def finish(self, job: int, outcome: Outcome, exit_code: int) -> None:
        launch = await self.harness.launcher.hear(Launch)
        assert launch.key.job == job
        self.harness.launcher.say(end(launch.key, outcome=outcome, exit_code=exit_code))
        await self.harness.heard()


class LifeContext:
    """One life of the daemon after another, on the same files."""

    def __init__(self, config: Config, launcher: ScriptedLauncher, clocks: FakeClocks) -> None:
        self.config = config
        self.launcher = launcher
        self.clocks = clocks

    @asynccontextmanager
    async def begin(self, config: Config | None = None) -> AsyncIterator[Life]:
        async with running_supervisor(config or self.config, self.launcher) as harness:
            await self.launcher.greet()
            await soon(harness.is_met.wait())
            life = Life(harness, self.clocks)
            await life.schedules.clock.load()
            await soon(harness.supervisor.saved())
            yield life


def _stored(name: str, view: OccurrenceView) -> Occurrence:
    job = None if view.job is None else JobId(view.job)
    return Occurrence(view.due_at, view.outcome, view.reason, view.count, name, job, view.late)
