"""Queues the jobs of schedules when they are due, and stores the result of each occurrence."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from math import inf
from typing import TypeVar

from msgspec.structs import replace

from bgd.core.cron import REBOOT
from bgd.core.heaps import DueHeap
from bgd.core.job import WAITING, JobId
from bgd.core.schedule_spec import Overlap, Result, ScheduleSpec
from bgd.core.schedules import (
    NEVER_BEGAN,
    ON_TIME,
    PAUSED,
    Moment,
    Occurrence,
    Timetable,
    count,
    next_at,
    pass_time,
    starts,
)
from bgd.core.spec import JobSpec
from bgd.daemon.job_actions import JobActions
from bgd.daemon.schedule_definitions import ActiveSchedule, Run, check_names, job_of, meaning_of
from bgd.daemon.storage import schedules as storage
from bgd.daemon.storage.records import StoredSchedule
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.errors import BgdError, Refused
from bgd.system import clock, timezones
from bgd.system.clock import Clocks, now

logger = logging.getLogger(__name__)

T = TypeVar("T")


AT_ONCE = 100  # schedules handled in one turn of the loop
DEFINED_AT_ONCE = 20  # definitions handled in one turn of the loop; each takes a tenth of a millisecond
_MAX_REASON = 300  # characters

RunsByName = dict[str, dict[JobId, Run]]
Meant = tuple[Timetable, float | None]  # what a definition means, and its first time


class ScheduleClock:
    """The schedules in force, from the configuration and from users, as time passes.

    Each occurrence is stored in one transaction with the job that it queues, so none runs twice or is lost.

    Attributes:
        by_name: the schedules in force.
        changes: a counter of changes of schedules and their history.
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
        self.by_name: dict[str, ActiveSchedule] = {}
        self._due = DueHeap[str](lambda name, at: name in self.by_name and self.by_name[name].next_at == at)
        self._boot = clock.boot_id()
        self._configured_at = 0.0
        self._is_outdated = False  # not all schedules of the present configuration are loaded
        self._is_configured = asyncio.Event()
        self._wakeup = asyncio.Event()
        self._alarm = clock.Alarm(asyncio.get_running_loop(), self._wakeup.set, on_wall_clock=True)
        self._late_at = DueHeap[str](
            lambda name, at: name in self.by_name and self.by_name[name].late_at == at
        )
        self._late: set[str] = set()  # schedules with a late job, as of the last look
        self._late_alarm = clock.Alarm(asyncio.get_running_loop(), self._wakeup.set)
        self._has_caught_up = False
        self._looked = read_clocks()
        actions.retries.overlap = self._overlap

    async def load(self) -> None:
        """Load the stored and the configured schedules; times while bgd was down are missed.

        Raises:
            ConfigError: a name is configured and stored.
        """
        stored = await self._store.read(storage.read_schedules)
        check_names(self._supervisor.config, {name for name, each in stored.items() if each.uid is not None})
        for names in batched(stored, DEFINED_AT_ONCE):
            runs = await self._store.read(storage.latest_runs, names)
            for name in names:
                self._put(name, stored[name], self._restored(runs[name]))
        self._supervisor.on_configured.append(self._configure)
        self._configure()
        await self._take_over()
        if not self._supervisor.permits.unresolved:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Handle the times while bgd was down: they are missed, or their jobs run now."""
        self._has_caught_up = True
        self._looked = self._read_clocks()
        await self._note_late()
        at = self.now()
        for names in batched(self.by_name):
            await asyncio.sleep(0)
            for name in names:
                schedule = self.by_name[name]
                if not schedule.seen <= at < schedule.next_at:
                    self._pass(name, Moment(at, schedule.seen, was_down=True))
                self._pass_boot(name)

    async def run(self) -> None:
        """Queue the jobs of schedules when they are due, forever."""
        try:
            await self._supervisor.permits.are_resolved.wait()  # it may replace a job that has begun
            if not self._has_caught_up:
                await self._catch_up()
            while True:
                # without a time it still rings when the clock is set
                waits = self.by_name and not self._supervisor.is_draining
                self._alarm.set(self._next_at() if waits else None)
                self._late_alarm.set(self._late_at.next_at())
                await self._wakeup.wait()
                self._wakeup.clear()
                await self.look()
        finally:
            self._alarm.close()
            self._late_alarm.close()

    async def configured(self) -> None:
        """Wait until the schedules of the present configuration are loaded."""
        await self._is_configured.wait()
        await self._supervisor.saved_unless_stuck()

    async def look(self) -> None:
        """Handle everything that is due, some schedules at a time."""
        await self._take_over()
        moment = self._moment()
        self._looked = self._read_clocks()
        await self._note_late()  # first: due schedules may replace it
        if moment.gap_at is not None and moment.gap_at > moment.at:  # the clock was set back: for all
            for name, each in self.by_name.items():
                self._wait_until(name, each, moment.at)
        while self._next_at() <= moment.at and not self._supervisor.is_draining:
            for _ in range(AT_ONCE):
                if (due := self._due.pop_due(moment.at)) is not None:
                    self._pass(due, moment)
            await asyncio.sleep(0)

    def _moment(self) -> Moment:
        """Read the clock, and detect whether it jumped, or bgd was down when a schedule was due."""
        clocks = self._read_clocks()
        expected = self._looked.wall + clocks.awake - self._looked.awake
        began = expected
        if clocks.wall >= expected:
            began = min(expected, self._next_at() - 1)  # by then bgd no longer ran
        return Moment(clocks.wall, began) if abs(clocks.wall - began) > ON_TIME else Moment(clocks.wall)

    def _pass(self, name: str, moment: Moment) -> None:
        """Store the results of occurrences until this moment, and queue their jobs."""
        schedule = self.by_name[name]
        if schedule.timetable is None or schedule.is_paused:
            return
        found, schedule.seen = pass_time(schedule.stored.spec, schedule.timetable, schedule.seen, moment)
        for each in found:
            if each.result is Result.RAN:
                self._run(name, schedule, each)
            else:
                self.add(name, each, None)
        self.wait(name, schedule)

    def _pass_boot(self, name: str) -> None:
        """Run the schedules that are due once after each boot."""
        schedule = self.by_name[name]
        if schedule.stored.spec.cron == REBOOT and schedule.stored.boot_id != self._boot:
            schedule.stored = replace(schedule.stored, boot_id=self._boot)
            self.save(name)
            if not schedule.is_paused:
                self._run(name, schedule, Occurrence(self.now(), Result.RAN))

    def _run(self, name: str, schedule: ActiveSchedule, due: Occurrence) -> None:
        """Queue the job of an occurrence, or store why it does not run."""
        try:
            reason = self.start(name, schedule, due)
        except BgdError as error:
            logger.warning("schedule %s: its job cannot be queued: %s", name, error)
            self.add(name, replace(due, result=Result.MISSED, reason=str(error)[:_MAX_REASON]), None)
            return
        if isinstance(reason, str):
            self.add(name, replace(due, result=Result.SKIPPED, reason=reason), None)

    def start(self, name: str, schedule: ActiveSchedule, due: Occurrence) -> JobId | str:
        """Queue the job of an occurrence, and store that; if the overlap forbids it, return why.

        Raises:
            BgdError: the job is refused.
        """
        self._supervisor.check_certain()
        before = self._unfinished_before(schedule)
        if isinstance(before, str):
            return before
        spec, replaces = self.current_job(name, schedule), schedule.stored.spec.overlap is Overlap.REPLACE
        self._actions.check([spec])
        job = self._replace(name, schedule, before, spec) if replaces else None
        if job is None:
            after = tuple(each for each in before if self._supervisor.is_unfinished(each))
            uid = os.geteuid() if schedule.stored.uid is None else schedule.stored.uid
            job = JobId(self._actions.submit([replace(spec, after_any=after)], uid).jobs[0])
        # one that a person has asked for is never late
        schedule.runs[job] = Run(due.due_at, None if due.reason else self._elapsed(due.due_at))
        self.add(name, due, job)
        self._watch(name)
        return job

    def _replace(
        self, name: str, schedule: ActiveSchedule, jobs: tuple[JobId, ...], spec: JobSpec
    ) -> JobId | None:
        """Cancel these jobs of a schedule, except one that has not begun: it gets this spec, and is returned.

        It keeps its place in the queue. A new job behind all others would be replaced before it begins.
        """
        unbegun = [job for job in jobs if self._is_unbegun(job)]
        for job in unbegun:
            self.add(name, Occurrence(schedule.runs[job].due_at, Result.REPLACED, NEVER_BEGAN), job)
        kept = unbegun[0] if unbegun else None
        others = tuple(job for job in jobs if job != kept)
        if kept is not None:
            actions = self._actions.asked_by(f"schedule {name}")
            actions.respecify(kept, replace(spec, after_any=others), {"after_any"}, now())
        for job in others:
            self._cancel(job, name)
        return kept

    def _cancel(self, job: JobId, name: str) -> None:
        if self._supervisor.is_unfinished(job):  # the end of another one may have cancelled it
            self._supervisor.decide(lambda scheduler, at: scheduler.cancel(job, at), by=f"schedule {name}")

    def _is_unbegun(self, job_id: JobId) -> bool:
        job = self._supervisor.get(job_id)
        return job is not None and job.state in WAITING and not job.attempt

    def _unfinished_before(self, schedule: ActiveSchedule) -> tuple[JobId, ...] | str:
        """Return the jobs that the next one of a schedule waits for, or replaces; or why it must not run."""
        unfinished = [job for job in schedule.runs if self._supervisor.is_unfinished(job)]
        # one that has finished may be retried
        for job in schedule.runs.keys() - {*unfinished, *list(schedule.runs)[-storage.LATEST :]}:
            del schedule.runs[job]
        return starts(schedule.stored.spec.overlap, unfinished)

    def _overlap(self, name: str, job: JobId) -> tuple[JobId, ...]:
        """Return the jobs of its schedule that a retried job has to wait for.

        Raises:
            Refused: others of them have not finished, and the overlap is not for such a job.
        """
        schedule = self.by_name.get(name)
        if schedule is None:
            return ()
        before = self._unfinished_before(schedule)
        overlap = schedule.stored.spec.overlap
        if before and overlap is Overlap.REPLACE:
            before = f"job {before[-1]} has replaced it"
        if isinstance(before, str):
            raise Refused(f"job {job} is of schedule {name} with overlap {overlap}, and {before}")
        schedule.runs.setdefault(job, Run(self.now(), None))
        return before

    def current_job(self, name: str, schedule: ActiveSchedule) -> JobSpec:
        """Return the job of a schedule. Leave out a notify target that was removed from the configuration."""
        spec = job_of(name, schedule.stored.spec)
        if spec.notify in {None, *self._supervisor.config.notify}:
            return spec
        logger.warning(
            "schedule %s: there is no [notify.%s], so its job notifies no target", name, spec.notify
        )
        return replace(spec, notify=None)

    def add(self, name: str, each: Occurrence, job: JobId | None) -> None:
        """Store the result of an occurrence, in one transaction with its job."""
        transaction = self._supervisor.transaction
        transaction.occurrences.append(replace(each, schedule=name, job=job))
        transaction.seen[name] = self.by_name[name].seen
        self.note_change()

    def finish(self, name: str, schedule: ActiveSchedule, at: float) -> None:
        """Store the results of all occurrences until `at`, when a schedule changes."""
        if schedule.timetable is None:
            return
        if not schedule.is_paused:
            if schedule.next_at <= at:  # not looked at yet
                self._pass(name, replace(self._moment(), at=at))
            schedule.seen = max(schedule.seen, at)
            return
        skipped = count(schedule.timetable, schedule.seen, at)
        first = next_at(schedule.timetable, schedule.seen)
        schedule.seen = at
        if skipped and first is not None:
            self.add(name, Occurrence(first, Result.SKIPPED, PAUSED, skipped), None)

    def _restored(self, rows: Iterable[Occurrence]) -> dict[JobId, Run]:
        """Return stored jobs of a schedule; those started by hand are never late."""
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

    def _configure(self) -> None:
        """Record that the configuration has changed: load its schedules in turns from now on."""
        self._configured_at = self.now()
        self._is_outdated = True
        self._is_configured.clear()
        self._wakeup.set()

    async def _take_over(self) -> None:
        """Load the schedules of the present configuration, some at a time."""
        while self._is_outdated:
            self._is_outdated = False
            wanted, at = self._supervisor.config.schedules, self._configured_at
            for names in batched({**self.by_name, **wanted}, DEFINED_AT_ONCE):
                former = await self.former_runs([name for name in names if name in wanted])
                if self._is_outdated:  # it has changed again
                    break
                for name in names:
                    old = self.by_name.get(name)
                    if name not in wanted and old is not None and old.stored.uid is None:
                        self.finish(name, old, at)
                        self.forget(name)
                    elif name in wanted and (old is None or old.stored.spec != wanted[name]):
                        self.define(name, wanted[name], at, None, former)
                    elif old is not None and _is_in_another_zone(old):
                        self.define(name, old.stored.spec, at, old.stored.uid, former)
                self.note_change()
                await asyncio.sleep(0)
        self._is_configured.set()

    async def former_runs(self, names: Collection[str]) -> RunsByName:
        """Return the jobs of names that have no schedule now: it may have been removed while they ran."""
        found: RunsByName = {}
        while new := [name for name in names if name not in self.by_name and name not in found]:
            await self._supervisor.saved_unless_stuck()
            for some in batched(new, DEFINED_AT_ONCE):
                runs = await self._store.read(storage.latest_runs, some)
                found |= {name: self._restored(runs[name]) for name in some}
        return found

    def define(
        self,
        name: str,
        spec: ScheduleSpec,
        at: float,
        uid: int | None,
        former: RunsByName,
        meant: Meant | None = None,
    ) -> None:
        """Put a new or changed schedule in force; `former`: the jobs that a new one may have already.

        `meant`: what the definition means, if that is known: it takes a while to find out.
        """
        old = self.by_name.get(name)
        if old is not None:
            self.finish(name, old, at)
        stored = StoredSchedule(
            spec=spec,
            uid=uid,
            paused=None if old is None else old.stored.paused,
            seen_at=at,
            boot_id=self._boot,
        )
        self._put(name, stored, former[name] if old is None else old.runs, meant)
        self._supervisor.transaction.schedules[name] = stored

    def forget(self, name: str) -> None:
        """Take a schedule out of force."""
        del self.by_name[name]
        self._supervisor.transaction.schedules[name] = None

    def _put(
        self, name: str, stored: StoredSchedule, runs: dict[JobId, Run], meant: Meant | None = None
    ) -> None:
        meaning = meaning_of(name, stored.spec) if meant is None else meant[0]
        timetable, problem = (None, meaning) if isinstance(meaning, str) else (meaning, None)
        if problem is not None:
            logger.warning("schedule %s cannot be used: %s", name, problem)
        self.by_name[name] = schedule = ActiveSchedule(
            stored=stored, timetable=timetable, problem=problem, seen=stored.seen_at, runs=runs
        )
        if meant is None or schedule.is_paused:
            self.wait(name, schedule)
        else:
            self._wait_until(name, schedule, inf if meant[1] is None else meant[1])
        self._watch(name)

    def wait(self, name: str, schedule: ActiveSchedule) -> None:
        """Wait for the next occurrence of a schedule."""
        timetable = None if schedule.is_paused else schedule.timetable
        due_at = None if timetable is None else next_at(timetable, schedule.seen)
        self._wait_until(name, schedule, inf if due_at is None else due_at)

    def _wait_until(self, name: str, schedule: ActiveSchedule, at: float) -> None:
        schedule.next_at = at
        self._due.forget()
        if at < inf:
            self._due.push(name, at)
        self._wakeup.set()

    def _next_at(self) -> float:
        at = self._due.next_at()
        return inf if at is None else at

    # --- jobs that are late: on the elapsed clock, so none is late because the clock was set

    @property
    def late_count(self) -> int:
        """The number of schedules with a late job that has not finished."""
        self._late = {name for name in self._late if self.is_late(name)}
        return len(self._late)

    def is_late(self, name: str) -> bool:
        """Tell whether a job of a schedule is late and has not finished."""
        schedule = self.by_name.get(name)
        return schedule is not None and any(
            run.is_late and self._supervisor.is_unfinished(job) for job, run in schedule.runs.items()
        )

    async def _note_late(self) -> None:
        """Record jobs that have not finished when `late_after` is over, some schedules at a time."""
        elapsed, found = self._looked.elapsed, False
        while (at := self._late_at.next_at()) is not None and at <= elapsed:
            for _ in range(AT_ONCE):
                if (name := self._late_at.pop_due(elapsed)) is not None:
                    found |= self._settle_late(name, elapsed)
            await asyncio.sleep(0)
        if found:
            self.note_change()

    def _settle_late(self, name: str, elapsed: float) -> bool:
        """Settle for each run of a schedule whose time is over whether it is late; return whether any is."""
        schedule, found = self.by_name[name], False
        late_after = schedule.stored.spec.late_after
        for job, run in schedule.runs.items():
            if run.due is None or late_after is None or run.due + late_after > elapsed:
                continue
            run.due = None
            if self._supervisor.is_unfinished(job):
                run.is_late = found = True
                late = Occurrence(run.due_at, Result.RAN, schedule=name, job=job, late=True)
                self._supervisor.transaction.occurrences.append(late)
        self._watch(name)
        return found

    def _watch(self, name: str) -> None:
        """Watch the runs of a schedule, which have changed."""
        schedule = self.by_name[name]
        late_after = schedule.stored.spec.late_after
        due = min((run.due for run in schedule.runs.values() if run.due is not None), default=inf)
        schedule.late_at = inf if late_after is None else due + late_after
        self._late_at.forget()
        if schedule.late_at < inf:
            self._late_at.push(name, schedule.late_at)
            self._wakeup.set()
        if any(run.is_late for run in schedule.runs.values()):
            self._late.add(name)

    def now(self) -> float:
        """Return the time of the wall clock."""
        return self._read_clocks().wall

    def save(self, name: str) -> None:
        """Store a schedule that has changed."""
        self._supervisor.transaction.schedules[name] = self.by_name[name].stored
        self.note_change()

    def note_change(self) -> None:
        """Notify watchers, once everything decided so far is on disk."""
        self.changes += 1
        self._supervisor.when_saved(self._supervisor.subscriptions.look_soon)


def _is_in_another_zone(schedule: ActiveSchedule) -> bool:
    """Return whether the machine's time zone was set since a schedule without one of its own was defined."""
    try:
        zone = timezones.zone(schedule.stored.spec.timezone)
    except LookupError:
        return False
    return schedule.timetable is not None and schedule.timetable.zone is not zone


def batched(items: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """Yield the items some at a time."""
    rest = iter(list(items))
    while batch := list(islice(rest, size)):
        yield batch
