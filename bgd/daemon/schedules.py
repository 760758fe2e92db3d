"""Schedules: queues their jobs when they are due, and stores what became of each occurrence."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from bgd import clock, timezones
from bgd.clock import Clocks
from bgd.config import Config
from bgd.core.cron import REBOOT
from bgd.core.describe import describe
from bgd.core.heaps import DueHeap
from bgd.core.job import JobId
from bgd.core.schedule_spec import MAX_SCHEDULES, Result, ScheduleSpec
from bgd.core.schedules import (
    ON_TIME,
    PAUSED,
    Moment,
    Occurrence,
    Timetable,
    count,
    next_at,
    pass_time,
    problem_with_schedule,
    starts,
    upcoming_times,
)
from bgd.core.spec import JobSpec
from bgd.daemon.job_actions import JobActions
from bgd.daemon.late_jobs import AT_ONCE, LateJobs, Run
from bgd.daemon.schedule_definitions import ScheduleDefinition, check_names, definition_of, digest_of, job_of
from bgd.daemon.storage import schedules as storage
from bgd.daemon.storage.records import NewOccurrence, StoredSchedule
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.errors import BgdError, ConfigError, Full, Refused, nearest
from bgd.wire.schedules import OccurrenceView, ScheduleView

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Schedule(Struct, kw_only=True, gc=False):
    """A schedule in force. `timetable` None: it is never due, for the reason in `problem` or by itself.

    `runs`: its latest jobs, and all that have not finished, oldest first.
    """

    stored: StoredSchedule
    timetable: Timetable | None
    problem: str | None
    seen: float
    runs: dict[JobId, Run]
    next_at: float = inf


_RunsByName = dict[str, dict[JobId, Run]]


class Schedules:
    """All schedules, those of the configuration and those that people have added.

    Each occurrence is stored in one transaction with the job that it queues, so none runs twice or is lost.

    Attributes:
        changes: grows whenever a schedule or its history changes.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        actions: JobActions,
        store: StoreReader,
        read_clocks: Callable[[], Clocks] = clock.read_all,
    ) -> None:
        self.changes = 0
        self._read_clocks = read_clocks
        self._supervisor = supervisor
        self._actions = actions
        self._store = store
        self._by_name: dict[str, _Schedule] = {}
        self._due = DueHeap[str](lambda name, at: name in self._by_name and self._by_name[name].next_at == at)
        self._boot = clock.boot_id()
        self._configured_at = 0.0
        self._is_outdated = False  # not all schedules of the configuration in force are taken over
        self._is_configured = asyncio.Event()
        self._rung = asyncio.Event()
        self._alarm = clock.Alarm(asyncio.get_running_loop(), self._rung.set, on_wall_clock=True)
        self.late_jobs = LateJobs(supervisor, self._rung.set)
        self._looked = read_clocks()

    # --- life -----------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take over the stored and the configured schedules; what was due while bgd was down is missed.

        Raises:
            ConfigError: a name is configured and stored.
        """
        stored = await self._store.read(storage.read_schedules)
        check_names(self._supervisor.config, {name for name, each in stored.items() if each.uid is not None})
        for names in _batched(stored, _DEFINED_AT_ONCE):
            runs = await self._store.read(storage.latest_runs, names)
            for name in names:
                each = stored[name]
                definition = definition_of(name, each.spec, each.seen_at)
                self._put(name, each, definition, self._restored(runs[name]))
        self._supervisor.when_configured(self._configure)
        self._configure()
        await self._take_over()
        self._looked = self._read_clocks()
        await self._note_late()
        at = self._now()
        for names in _batched(self._by_name):
            await asyncio.sleep(0)
            for name in names:
                schedule = self._by_name[name]
                if not schedule.seen <= at < schedule.next_at:
                    self._pass(name, Moment(at, schedule.seen, was_down=True))
                self._pass_boot(name)

    async def run(self) -> None:
        """Queue the jobs of schedules when they are due, for ever."""
        try:
            while True:
                # set for ever it still rings when the clock is set
                waits = self._by_name and not self._supervisor.is_draining
                self._alarm.set(self._next_at() if waits else None)
                self.late_jobs.set_alarm()
                await self._rung.wait()
                self._rung.clear()
                await self.look()
        finally:
            self._alarm.close()
            self.late_jobs.close()

    async def configured(self) -> None:
        """Return when those of the configuration in force are taken over."""
        await self._is_configured.wait()
        await self._supervisor.saved_unless_stuck()

    def check(self, config: Config) -> None:
        """Check that a new configuration fits the stored schedules.

        Raises:
            ConfigError: a name is configured and stored, or a target that a stored one tells is gone.
        """
        stored = {
            name: each.stored.spec for name, each in self._by_name.items() if each.stored.uid is not None
        }
        check_names(config, stored)
        for name, spec in stored.items():
            if spec.job.notify not in {None, *config.notify}:
                raise ConfigError(
                    f"{config.source}: schedule {name} tells [notify.{spec.job.notify}]: keep that target, "
                    f"or `bgctl schedule edit {name}` first"
                )

    # --- what people do -------------------------------------------------------------------------------------

    async def set(
        self, name: str, spec: ScheduleSpec, uid: int, *, replaces: bool, digest: str | None = None
    ) -> None:
        """Add a schedule, or put it in the place of another one, which has this digest if one is given.

        Raises:
            Refused: the definition is not valid, or the name is taken or, to be replaced, unknown, or
                somebody has changed it.
            NotAllowed: the configuration does not allow its job.
            Full: there are too many schedules.
        """
        former = await self._former_runs([name])
        if replaces and digest not in {digest_of(self._find(name).stored.spec), None}:
            raise Refused(f"schedule {name} was changed meanwhile, and is not changed now: try again")
        self._check_names([name], replaces=replaces)
        self._define(name, self._checked(name, spec), uid, former)
        self._changed()

    async def set_many(
        self, specs: Mapping[str, ScheduleSpec], uid: int, *, replaces: bool, repeated: bool
    ) -> tuple[list[str], list[str], list[str]]:
        """Add schedules in one transaction, all of them or none; `replaces`: also in the place of others.

        Return the names of those that were added, that were changed, and that are as before.

        One that is there already with the same definition stays as it is; otherwise that is an error unless
        it `replaces` or the request is `repeated`. Raises as `set`.
        """
        checked: dict[str, ScheduleDefinition] = {}
        former: _RunsByName = {}
        config = None
        while config is not self._supervisor.config:  # it may have changed meanwhile
            config = self._supervisor.config
            for names in _batched(specs, _DEFINED_AT_ONCE):
                checked |= {name: self._checked(name, specs[name]) for name in names}
                await asyncio.sleep(0)
            former = await self._former_runs(specs)
        same = {name for name, spec in specs.items() if (replaces or repeated) and self.has(name, spec)}
        new = [name for name in specs if name not in same]
        self._check_names(new, replaces=replaces)
        known = self._by_name.keys() & new
        for name in new:
            self._define(name, checked[name], uid, former)
        self._changed()
        added = [name for name in new if name not in known]
        return added, [name for name in new if name in known], [name for name in specs if name in same]

    def _checked(self, name: str, spec: ScheduleSpec) -> ScheduleDefinition:
        """Return what a definition means; refuse one that is not valid or not allowed."""
        definition = definition_of(name, spec, self._now())
        if problem := problem_with_schedule(spec) or definition.problem:
            raise Refused(problem)
        self._actions.check([job_of(name, spec)])
        return definition

    def _check_names(self, names: Sequence[str], *, replaces: bool) -> None:
        """Refuse names that are configured or taken, and too many."""
        for name in names:
            if name in self._supervisor.config.schedules:
                raise self._is_from_the_file(name, "edited")
            if name in self._by_name and not replaces:
                raise Refused(f"there is a schedule {name} already: `bgctl schedule edit {name}` changes it")
        if len(self._by_name.keys() | set(names)) > MAX_SCHEDULES:
            raise Full(f"at most {MAX_SCHEDULES} schedules fit: `bgctl schedule remove` some")

    def has(self, name: str, spec: ScheduleSpec | None = None) -> bool:
        """Tell whether there is a schedule of this name, with this definition if one is given."""
        found = self._by_name.get(name)
        return found is not None and spec in (None, found.stored.spec)

    def remove(self, name: str) -> None:
        """Remove a stored schedule. Its history stays, and its running job continues.

        Raises:
            Refused: there is no such schedule, or it is configured.
        """
        self._finish(name, self._own(name, "removed"), self._now())
        self._forget(name)
        self._changed()

    def set_paused(self, name: str, *, paused: bool) -> None:
        """Pause a schedule, so that its occurrences are skipped, or resume it.

        Raises:
            Refused: there is no such schedule.
        """
        schedule = self._find(name)
        if _is_paused(schedule) is not paused:
            self._finish(name, schedule, self._now())
        schedule.stored = replace(schedule.stored, paused=paused, seen_at=schedule.seen)
        self._wait(name, schedule)
        self._save(name)

    def run_now(self, name: str, who: str) -> JobId:
        """Queue the job of a schedule now; `who` asks for it.

        Raises:
            BgdError: there is no such schedule, or its job is refused.
        """
        schedule = self._find(name)
        spec = self._job_of(name, schedule)
        self._actions.check([spec])
        at = self._now()
        job = self._submit(schedule, spec, Run(at, None))
        self._add(name, Occurrence(at, Result.RAN, f"run by {who}"), job)
        return job

    # --- what people see ------------------------------------------------------------------------------------

    async def views(self, name: str | None, upcoming: int) -> list[ScheduleView]:
        """Return all schedules by name, or one, each with its next occurrences.

        Raises:
            Refused: there is no such schedule.
        """
        if name is not None:
            self._find(name)
        await self._supervisor.saved_unless_stuck()
        names = sorted(self._by_name) if name is None else [name]
        latest = await self._store.read(storage.latest, names)
        views: list[ScheduleView] = []
        for some in _batched(names):
            views += [self._view(each, latest.get(each), upcoming) for each in some if each in self._by_name]
            await asyncio.sleep(0)
        if name is not None:
            views = [replace(each, digest=digest_of(each.spec)) for each in views]
        return views

    async def history(self, name: str, limit: int, before: int | None) -> list[OccurrenceView]:
        """Return what became of the occurrences of a schedule, newest first, also of one that was removed.

        Raises:
            Refused: there is and was no such schedule.
        """
        await self._supervisor.saved_unless_stuck()
        rows = await self._store.read(storage.history, name, limit, before)
        if not rows:
            self._find(name)
        return [_occurrence_view(number, each) for number, each in rows]

    def _view(self, name: str, latest: tuple[int, NewOccurrence] | None, upcoming: int) -> ScheduleView:
        schedule = self._by_name[name]
        spec, is_paused = schedule.stored.spec, _is_paused(schedule)
        timetable = schedule.timetable
        zone = str(timetable.zone) if timetable else spec.timezone or timezones.machine_zone()
        return ScheduleView(
            name=name,
            spec=spec,
            is_configured=schedule.stored.uid is None,
            is_paused=is_paused,
            words=_as_written(spec) if timetable is None else describe(timetable.when, zone),
            timezone=zone,
            upcoming=upcoming_times(timetable, self._now(), upcoming) if timetable and not is_paused else [],
            latest=None if latest is None else _occurrence_view(*latest),
            problem=schedule.problem,
            is_late=self.late_jobs.is_late(name),
        )

    # --- time passes ----------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Handle everything that is due, some schedules at a time."""
        await self._take_over()
        moment = self._moment()
        self._looked = self._read_clocks()
        await self._note_late()  # first: what is due may replace it
        if moment.gap_at is not None and moment.gap_at > moment.at:  # the clock was set back: for all
            for name, each in self._by_name.items():
                self._wait_until(name, each, moment.at)
        while self._next_at() <= moment.at and not self._supervisor.is_draining:
            for _ in range(AT_ONCE):
                if (due := self._due.pop_due(moment.at)) is not None:
                    self._pass(due, moment)
            await asyncio.sleep(0)

    async def _note_late(self) -> None:
        if await self.late_jobs.look(self._looked.elapsed):
            self._changed()

    def _moment(self) -> Moment:
        """Look at the clock, and find out whether it jumped, or nobody could look when something was due."""
        clocks = self._read_clocks()
        expected = self._looked.wall + clocks.awake - self._looked.awake
        began = expected
        if clocks.wall >= expected:
            began = min(expected, self._next_at() - 1)  # by then nobody looked any more
        return Moment(clocks.wall, began) if abs(clocks.wall - began) > ON_TIME else Moment(clocks.wall)

    def _pass(self, name: str, moment: Moment) -> None:
        """Store what became of occurrences until this moment, and queue the jobs of those that run."""
        schedule = self._by_name[name]
        if schedule.timetable is None or _is_paused(schedule):
            return
        found, schedule.seen = pass_time(schedule.stored.spec, schedule.timetable, schedule.seen, moment)
        for each in found:
            if each.result is Result.RAN:
                self._add(name, *self._start(name, schedule, each))
            else:
                self._add(name, each, None)
        self._wait(name, schedule)

    def _pass_boot(self, name: str) -> None:
        """Run what is due once after each boot."""
        schedule = self._by_name[name]
        if schedule.stored.spec.cron == REBOOT and schedule.stored.boot_id != self._boot:
            schedule.stored = replace(schedule.stored, boot_id=self._boot)
            self._save(name)
            if not _is_paused(schedule):
                self._add(name, *self._start(name, schedule, Occurrence(self._now(), Result.RAN)))

    def _start(self, name: str, schedule: _Schedule, due: Occurrence) -> tuple[Occurrence, JobId | None]:
        """Queue the job of an occurrence, unless something is against it."""
        unfinished = [job for job in schedule.runs if self._supervisor.is_unfinished(job)]
        # somebody may retry one that has finished
        for job in schedule.runs.keys() - {*unfinished, *list(schedule.runs)[-storage.LATEST :]}:
            del schedule.runs[job]
        start = starts(schedule.stored.spec.overlap, unfinished)
        if isinstance(start, str):
            return replace(due, result=Result.SKIPPED, reason=start), None
        for job in start.cancels:
            self._cancel(job, name)
        after = tuple(job for job in start.after if self._supervisor.is_unfinished(job))
        spec = replace(self._job_of(name, schedule), after_any=after)
        try:
            self._actions.check([spec])
        except BgdError as error:
            logger.warning("schedule %s: its job cannot be queued: %s", name, error)
            return replace(due, result=Result.MISSED, reason=str(error)[:_MAX_REASON]), None
        job = self._submit(schedule, spec, Run(due.due_at, self._elapsed(due.due_at)))
        self.late_jobs.watch(name, schedule.runs, schedule.stored.spec.late_after)
        return due, job

    def _job_of(self, name: str, schedule: _Schedule) -> JobSpec:
        """Return the job of a schedule. Leave out a notify target that was removed from the configuration."""
        spec = job_of(name, schedule.stored.spec)
        if spec.notify in {None, *self._supervisor.config.notify}:
            return spec
        logger.warning("schedule %s: there is no [notify.%s], so its job tells nobody", name, spec.notify)
        return replace(spec, notify=None)

    def _cancel(self, job: JobId, name: str) -> None:
        self._supervisor.decide(lambda scheduler, at: scheduler.cancel(job, at), by=f"schedule {name}")

    def _submit(self, schedule: _Schedule, spec: JobSpec, run: Run) -> JobId:
        uid = os.geteuid() if schedule.stored.uid is None else schedule.stored.uid
        job = JobId(self._actions.submit([spec], uid).jobs[0])
        schedule.runs[job] = run
        return job

    def _add(self, name: str, each: Occurrence, job: JobId | None) -> None:
        """Store what became of an occurrence, in one transaction with its job."""
        transaction = self._supervisor.transaction
        transaction.occurrences.append(
            NewOccurrence(name, each.due_at, each.result, job, each.reason, each.count)
        )
        transaction.seen[name] = self._by_name[name].seen
        self._changed()

    def _finish(self, name: str, schedule: _Schedule, at: float) -> None:
        """Store what becomes of all occurrences until `at`, when a schedule changes."""
        if schedule.timetable is None:
            return
        if not _is_paused(schedule):
            if schedule.next_at <= at:  # nobody has looked yet
                self._pass(name, replace(self._moment(), at=at))
            schedule.seen = max(schedule.seen, at)
            return
        skipped = count(schedule.timetable, schedule.seen, at)
        first = next_at(schedule.timetable, schedule.seen)
        schedule.seen = at
        if skipped and first is not None:
            self._add(name, Occurrence(first, Result.SKIPPED, PAUSED, skipped), None)

    def _restored(self, rows: Iterable[NewOccurrence]) -> dict[JobId, Run]:
        """Return jobs of a schedule that were stored; what a person asked for is not late."""
        runs: dict[JobId, Run] = {}
        for row in rows:
            if row.job is not None:
                is_open = row.reason is None and not row.late and self._supervisor.is_unfinished(row.job)
                due = self._elapsed(row.due_at) if is_open else None
                runs[row.job] = Run(row.due_at, due, row.late)
        return runs

    def _elapsed(self, at: float) -> float:
        """Return an instant of the wall clock on the elapsed clock, as they are now."""
        clocks = self._read_clocks()
        return at - clocks.wall + clocks.elapsed

    # --- the table ------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        """Note that the configuration has changed: from now on its schedules count, taken over in turns."""
        self._configured_at = self._now()
        self._is_outdated = True
        self._is_configured.clear()
        self._rung.set()

    async def _take_over(self) -> None:
        """Take over the schedules of the configuration that is in force now, some at a time."""
        while self._is_outdated:
            self._is_outdated = False
            wanted, at = self._supervisor.config.schedules, self._configured_at
            for names in _batched({**self._by_name, **wanted}, _DEFINED_AT_ONCE):
                former = await self._former_runs([name for name in names if name in wanted])
                if self._is_outdated:  # it has changed again
                    break
                for name in names:
                    old = self._by_name.get(name)
                    if name not in wanted and old is not None and old.stored.uid is None:
                        self._finish(name, old, at)
                        self._forget(name)
                    elif name in wanted and not self.has(name, wanted[name]):
                        self._define(name, definition_of(name, wanted[name], at), None, former)
                    elif old is not None and _is_in_another_zone(old):
                        spec = old.stored.spec
                        self._define(name, definition_of(name, spec, at), old.stored.uid, former)
                self._changed()
                await asyncio.sleep(0)
        self._is_configured.set()

    async def _former_runs(self, names: Collection[str]) -> _RunsByName:
        """Return the jobs of names that have no schedule now: it may have been removed while they ran."""
        found: _RunsByName = {}
        while new := [name for name in names if name not in self._by_name and name not in found]:
            await self._supervisor.saved_unless_stuck()
            for some in _batched(new, _DEFINED_AT_ONCE):
                runs = await self._store.read(storage.latest_runs, some)
                found |= {name: self._restored(runs[name]) for name in some}
        return found

    def _define(
        self, name: str, definition: ScheduleDefinition, uid: int | None, former: _RunsByName
    ) -> None:
        """Put a new or changed schedule in force; `former`: the jobs that a new one may have already."""
        old = self._by_name.get(name)
        if old is not None:
            self._finish(name, old, definition.seen_at)
        stored = StoredSchedule(
            spec=definition.spec,
            uid=uid,
            paused=None if old is None else old.stored.paused,
            seen_at=definition.seen_at,
            boot_id=self._boot,
        )
        self._put(name, stored, definition, former[name] if old is None else old.runs)
        self._supervisor.transaction.schedules[name] = stored

    def _forget(self, name: str) -> None:
        del self._by_name[name]
        self.late_jobs.forget(name)
        self._supervisor.transaction.schedules[name] = None

    def _put(
        self, name: str, stored: StoredSchedule, definition: ScheduleDefinition, runs: dict[JobId, Run]
    ) -> None:
        if definition.problem is not None:
            logger.warning("schedule %s cannot be used: %s", name, definition.problem)
        self._by_name[name] = schedule = _Schedule(
            stored=stored,
            timetable=definition.timetable,
            problem=definition.problem,
            seen=stored.seen_at,
            runs=runs,
        )
        self._wait_until(name, schedule, inf if _is_paused(schedule) else definition.next_at)
        self.late_jobs.watch(name, runs, stored.spec.late_after)

    def _wait(self, name: str, schedule: _Schedule) -> None:
        """Wait for the next occurrence of a schedule."""
        timetable = None if _is_paused(schedule) else schedule.timetable
        due_at = None if timetable is None else next_at(timetable, schedule.seen)
        self._wait_until(name, schedule, inf if due_at is None else due_at)

    def _wait_until(self, name: str, schedule: _Schedule, at: float) -> None:
        schedule.next_at = at
        self._due.forget()
        if at < inf:
            self._due.push(name, at)
        self._rung.set()

    def _next_at(self) -> float:
        at = self._due.next_at()
        return inf if at is None else at

    def _now(self) -> float:
        return self._read_clocks().wall

    def _save(self, name: str) -> None:
        self._supervisor.transaction.schedules[name] = self._by_name[name].stored
        self._changed()

    def _changed(self) -> None:
        self.changes += 1
        self._supervisor.when_saved(self._supervisor.subscriptions.look_soon)

    def _find(self, name: str) -> _Schedule:
        if name not in self._by_name:
            raise Refused(f"there is no schedule {name}; {nearest(name, self._by_name)}")
        return self._by_name[name]

    def _own(self, name: str, wanted: str) -> _Schedule:
        schedule = self._find(name)
        if schedule.stored.uid is None:
            raise self._is_from_the_file(name, wanted)
        return schedule

    def _is_from_the_file(self, name: str, wanted: str) -> Refused:
        return Refused(
            f"schedule {name} is configured and cannot be {wanted}: change [schedules.{name}] in"
            f" {self._supervisor.config.source}, then `bgctl reload`"
        )


def _is_in_another_zone(schedule: _Schedule) -> bool:
    """Tell whether the machine's time zone was set since a schedule without one of its own was defined."""
    try:
        zone = timezones.zone(schedule.stored.spec.timezone)
    except LookupError:
        return False
    return schedule.timetable is not None and schedule.timetable.zone is not zone


def _is_paused(schedule: _Schedule) -> bool:
    stored = schedule.stored
    return stored.spec.paused if stored.paused is None else stored.paused


def _as_written(spec: ScheduleSpec) -> str:
    return spec.cron or spec.calendar or f"every {spec.every}"


def _occurrence_view(number: int, each: NewOccurrence) -> OccurrenceView:
    return OccurrenceView(
        id=number,
        due_at=each.due_at,
        outcome=each.result,
        job=each.job,
        reason=each.reason,
        count=each.count,
        late=each.late,
    )


_MAX_REASON = 300  # characters


_DEFINED_AT_ONCE = 20  # definitions handled in one turn of the loop; each takes a tenth of a millisecond


def _batched(items: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """Yield the items some at a time."""
    rest = iter(list(items))
    while batch := list(islice(rest, size)):
        yield batch
