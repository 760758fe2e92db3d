"""Requests about schedules: add, edit, pause, run and remove them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from msgspec.structs import replace

from bgd.core.describe import describe
from bgd.core.job import JobId
from bgd.core.schedule_spec import MAX_SCHEDULES, Result, ScheduleSpec
from bgd.core.schedules import Occurrence, next_at, problem_with_schedule, upcoming_times
from bgd.daemon.job_actions import JobActions
from bgd.daemon.schedule_clock import DEFINED_AT_ONCE, Meant, RunsByName, ScheduleClock, batched
from bgd.daemon.schedule_definitions import ActiveSchedule, check_names, job_of, meaning_of
from bgd.daemon.storage import schedules as storage
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.errors import ConfigError, Full, Refused, nearest
from bgd.settings.config import Config
from bgd.system import clock, timezones
from bgd.system.clock import Clocks
from bgd.wire.schedules import OccurrenceView, ScheduleView, digest_of


class Schedules:
    """Changes and shows schedules.

    Attributes:
        clock: the schedules in force.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        actions: JobActions,
        store: StoreReader,
        read_clocks: Callable[[], Clocks] = clock.read_all,
    ) -> None:
        self.clock = ScheduleClock(supervisor, actions, store, read_clocks)
        self._supervisor = supervisor
        self._actions = actions
        self._store = store

    def check(self, config: Config) -> None:
        """Check that a new configuration fits the stored schedules.

        Raises:
            ConfigError: a name is configured and stored, or a target that a stored one tells is gone.
        """
        stored = {
            name: each.stored.spec for name, each in self.clock.by_name.items() if each.stored.uid is not None
        }
        check_names(config, stored)
        for name, spec in stored.items():
            if spec.job.notify not in {None, *config.notify}:
                raise ConfigError(
                    f"{config.source}: schedule {name} still uses [notify.{spec.job.notify}]: keep that"
                    f" target, or `bgctl schedule edit {name}` first"
                )

    async def set(
        self,
        specs: Mapping[str, ScheduleSpec],
        uid: int,
        *,
        replaces: bool,
        repeated: bool = False,
        digests: Mapping[str, str | None] = MappingProxyType({}),
    ) -> tuple[list[str], list[str], list[str]]:
        """Add schedules in one transaction, all of them or none; `replaces`: also in the place of others.

        Return the names of those that were added, that were changed, and that are as before.

        One that is there already with the same definition stays as it is; otherwise that is an error unless
        it `replaces` or the request is `repeated`. `digests`: of those that there must be; None: of any.

        Raises:
            Refused: a definition is not valid, or a name is taken or, to be replaced, unknown or changed.
            NotAllowed: the configuration does not allow its job.
            Full: there are too many schedules.
        """
        at = self.clock.now()
        meant, former = await self._meant(specs, at)
        same = {name for name, spec in specs.items() if (replaces or repeated) and self.has(name, spec)}
        new = [name for name in specs if name not in same]
        self._check_names(new, replaces=replaces)
        for name in digests.keys() - (same if repeated else ()):
            if digests[name] not in {digest_of(self._find(name).stored.spec), None}:
                raise Refused(f"schedule {name} has changed meanwhile, so nothing was done: try again")
        known = self.clock.by_name.keys() & new
        for name in new:
            self.clock.define(name, specs[name], at, uid, former, meant[name])
        self.clock.note_change()
        added = [name for name in new if name not in known]
        return added, [name for name in new if name in known], [name for name in specs if name in same]

    async def _meant(
        self, specs: Mapping[str, ScheduleSpec], at: float
    ) -> tuple[dict[str, Meant], RunsByName]:
        """Return what definitions mean, under the present configuration, and the former jobs of new names."""
        meant: dict[str, Meant] = {}
        while True:
            config = self._supervisor.config
            for names in batched(specs, DEFINED_AT_ONCE):
                meant |= {name: self._checked(name, specs[name], at) for name in names}
                await asyncio.sleep(0)
            former = await self.clock.former_runs(specs)
            if config is self._supervisor.config:  # it may have changed meanwhile
                return meant, former

    def _checked(self, name: str, spec: ScheduleSpec, at: float) -> Meant:
        """Return what a definition means; refuse one that is not valid or not allowed."""
        meaning = meaning_of(name, spec)
        if problem := problem_with_schedule(spec):
            raise Refused(problem)
        if isinstance(meaning, str):
            raise Refused(meaning)
        self._actions.check([job_of(name, spec)])
        return meaning, next_at(meaning, at)

    def _check_names(self, names: Sequence[str], *, replaces: bool) -> None:
        """Refuse names that are configured or taken, and too many."""
        for name in names:
            if name in self._supervisor.config.schedules:
                raise self._is_from_the_file(name, "edited")
            if name in self.clock.by_name and not replaces:
                raise Refused(f"there is a schedule {name} already: `bgctl schedule edit {name}` changes it")
        if len(self.clock.by_name.keys() | set(names)) > MAX_SCHEDULES:
            raise Full(f"at most {MAX_SCHEDULES} schedules fit: `bgctl schedule remove` some")

    def has(self, name: str, spec: ScheduleSpec | None = None) -> bool:
        """Return whether there is a schedule of this name, with this definition if one is given."""
        found = self.clock.by_name.get(name)
        return found is not None and spec in (None, found.stored.spec)

    def remove(self, name: str) -> None:
        """Remove a stored schedule. Its history stays, and its running job continues.

        Raises:
            Refused: there is no such schedule, or it is configured.
        """
        schedule = self._find(name)
        if schedule.stored.uid is None:
            raise self._is_from_the_file(name, "removed")
        self.clock.finish(name, schedule, self.clock.now())
        self.clock.forget(name)
        self.clock.note_change()

    def set_paused(self, name: str, *, paused: bool) -> None:
        """Pause a schedule, so that its occurrences are skipped, or resume it.

        Raises:
            Refused: there is no such schedule.
        """
        schedule = self._find(name)
        if schedule.is_paused is not paused:
            self.clock.finish(name, schedule, self.clock.now())
        schedule.stored = replace(schedule.stored, paused=paused, seen_at=schedule.seen)
        self.clock.wait(name, schedule)
        self.clock.save(name)

    def run_now(self, name: str, who: str) -> JobId:
        """Queue the job of a schedule now, on request of the user `who`, as far as its overlap allows it.

        Raises:
            BgdError: there is no such schedule, or its job is refused.
        """
        schedule = self._find(name)
        due = Occurrence(self.clock.now(), Result.RAN, f"run by {who}")
        job = self.clock.start(name, schedule, due)
        if isinstance(job, str):
            overlap = schedule.stored.spec.overlap
            raise Refused(f"schedule {name} has overlap {overlap}, and {job}: run it later")
        return job

    async def views(self, name: str | None, upcoming: int) -> list[ScheduleView]:
        """Return all schedules by name, or one, each with its next occurrences.

        Raises:
            Refused: there is no such schedule.
        """
        if name is not None:
            self._find(name)
        await self._supervisor.saved_unless_stuck()
        names = sorted(self.clock.by_name) if name is None else [name]
        latest = await self._store.read(storage.latest, names)
        views: list[ScheduleView] = []
        for some in batched(names):
            views += [
                self._view(each, latest.get(each), upcoming) for each in some if each in self.clock.by_name
            ]
            await asyncio.sleep(0)
        if name is not None:
            views = [replace(each, digest=digest_of(each.spec)) for each in views]
        return views

    async def history(self, name: str, limit: int, before: int | None) -> list[OccurrenceView]:
        """Return the history of a schedule, newest first, even of a removed one.

        Raises:
            Refused: there is and was no such schedule.
        """
        await self._supervisor.saved_unless_stuck()
        found = await self._store.read(storage.history, name, limit, before)
        if not found:
            self._find(name)
        return found

    def _view(self, name: str, latest: OccurrenceView | None, upcoming: int) -> ScheduleView:
        schedule = self.clock.by_name[name]
        spec, paused = schedule.stored.spec, schedule.is_paused
        timetable, as_written = schedule.timetable, spec.cron or spec.calendar or f"every {spec.every}"
        zone = str(timetable.zone) if timetable else spec.timezone or timezones.machine_zone()
        return ScheduleView(
            name=name,
            spec=spec,
            is_configured=schedule.stored.uid is None,
            is_paused=paused,
            words=describe(timetable.when, zone) if timetable else as_written,
            timezone=zone,
            upcoming=[] if paused or not timetable else upcoming_times(timetable, self.clock.now(), upcoming),
            latest=latest,
            problem=schedule.problem,
            is_late=self.clock.is_late(name),
        )

    def _find(self, name: str) -> ActiveSchedule:
        if name not in self.clock.by_name:
            raise Refused(f"there is no schedule {name}; {nearest(name, self.clock.by_name)}")
        return self.clock.by_name[name]

    def _is_from_the_file(self, name: str, wanted: str) -> Refused:
        return Refused(
            f"schedule {name} is configured and cannot be {wanted}: change [schedules.{name}] in"
            f" {self._supervisor.config.source}, then `bgctl reload`"
        )
