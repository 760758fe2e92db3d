"""Schedules in the simulation: what clients ask of them, and the laws that they keep."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import floor, inf

from msgspec.structs import replace

from bgd.core.job import FINAL, Outcome, State
from bgd.core.schedule_spec import Overlap, Result, ScheduleSpec
from bgd.core.spec import JobSpec
from bgd.wire import schedules
from bgd.wire.replies import Failed
from bgd.wire.requests import Request
from bgd.wire.schedules import (
    PauseSchedule,
    RemoveSchedule,
    RunSchedule,
    SetSchedule,
    SetSchedules,
)
from bgd.wire.views import EventView, ScheduleEvent
from tests.end_to_end.clients import Action
from tests.simulation.machine import SupervisorLife

SLACK = 1.0  # seconds: the disk is slow
_UNSENT = 0
_UNSEEN = {Outcome.INTERRUPTED, Outcome.UNKNOWN}


class ScheduleAsker:
    """Draws the requests of one client about its own schedules, and remembers what it asked and heard."""

    def __init__(self, client: int) -> None:
        self.specs: dict[str, ScheduleSpec] = {}
        self.actions: list[Action] = []
        self._client = client

    def next_request(self, dice: random.Random) -> Request:
        """Draw a request. No name is used again, and only the job of a schedule is changed."""
        if not self.specs or dice.random() < 0.3:
            name = f"s{self._client}-{len(self.specs)}"
            self.specs[name] = spec = _spec(dice)
            if dice.random() < 0.3:
                return SetSchedules(id=_UNSENT, schedules={name: spec})
            return SetSchedule(id=_UNSENT, name=name, spec=spec)
        name = dice.choice([*self.specs])
        spec = self.specs[name]
        urgent = replace(spec, job=replace(spec.job, priority=dice.randint(-2, 2)))
        choices: list[Request] = [
            PauseSchedule(_UNSENT, name, paused=True),
            PauseSchedule(_UNSENT, name, paused=False),
            SetSchedule(id=_UNSENT, name=name, spec=urgent, replaces=True),
            RunSchedule(_UNSENT, name),
            RemoveSchedule(_UNSENT, name),
        ]
        return dice.choices(choices, [2, 3, 2, 1, 1])[0]


def _spec(dice: random.Random) -> ScheduleSpec:
    job = JobSpec(
        argv=("/job", str(dice.choice([0.0, 0.5, 3.0, 20.0])), str(dice.choice([0, 0, 3])), "0"),
        env={},
        cwd="/",
        retries=dice.choice([0, 0, 2]),
    )
    return ScheduleSpec(
        job=job,
        every=f"{dice.choice([2, 5, 11, 40])}s",
        overlap=dice.choice([*Overlap]),
        late_after=dice.choice([None, 2.0, 10.0]),
        env_pass=(),
    )


class ScheduleLaws:
    """What a history has done with schedules, and the laws for it.

    Args:
        disk: the database at the end.
        stream: all events.
        askers: of all clients; the last one has removed what there was.
        lives: all supervisors.
        has_times: whether times can be compared, because nobody set the wall clock.
    """

    def __init__(
        self,
        disk: sqlite3.Connection,
        stream: Iterable[EventView | ScheduleEvent],
        askers: Iterable[ScheduleAsker],
        lives: Iterable[SupervisorLife],
        *,
        has_times: bool,
    ) -> None:
        self._rows = disk.execute("SELECT * FROM occurrences ORDER BY id").fetchall()
        self._specs = {name: spec for asker in askers for name, spec in asker.specs.items()}
        self._actions = [action for asker in askers for action in asker.actions]
        self._lives = list(lives)
        self._has_times = has_times
        self._events = [event for event in stream if isinstance(event, EventView)]
        self._late = Counter(
            event.job for event in stream if isinstance(event, ScheduleEvent) and event.outcome == "late"
        )
        self._told = Counter(
            (event.schedule, event.due_at, event.outcome)
            for event in stream
            if isinstance(event, ScheduleEvent)
        )
        names = disk.execute("SELECT id, name FROM jobs WHERE name IS NOT NULL")
        self.jobs = {job: name for job, name in names if name in self._specs}
        self._ended = dict(disk.execute("SELECT id, finished_at FROM jobs").fetchall())
        # somebody asked for these, whatever else ran
        self._asked_for = {row["job"] for row in self._rows if (row["reason"] or "").startswith("run by")}

    def check(self) -> Counter[str]:
        """Check all laws; return how often each result occurred.

        Raises:
            AssertionError: one is broken.
        """
        self._check_jobs_have_rows()
        self._check_overlap()
        self._check_events()
        self._check_replaced()
        if self._has_times:
            for name, spec in self._specs.items():
                self._check_each_occurrence_has_a_row(name, int((spec.every or "").rstrip("s")))
            self._check_late()
        found = Counter(row["result"] for row in self._rows for _ in range(row["count"]))
        return found + Counter(late=sum(row["late"] for row in self._rows))

    def _check_jobs_have_rows(self) -> None:
        with_rows = Counter(row["job"] for row in self._rows if row["job"] is not None)
        for job, name in self.jobs.items():
            assert with_rows[job] == 1, f"job {job} of schedule {name} has {with_rows[job]} rows"
        assert with_rows.keys() <= self.jobs.keys(), "a row names a job that there is not"

    def _check_each_occurrence_has_a_row(self, name: str, every: int) -> None:
        covered: Counter[float] = Counter()
        for row in self._rows:
            is_due = row["job"] not in self._asked_for and row["due_at"] % every == 0  # not run by hand
            if row["schedule"] == name and is_due:
                covered.update(row["due_at"] + every * number for number in range(row["count"]))
        twice = [at for at, count in covered.items() if count > 1]
        assert not twice, f"of schedule {name} the occurrences at {twice} have two rows"
        begin, end = self._life_of(name)
        begin, end = min([begin, *(at - 1 for at in covered)]), max([end, *covered])
        if begin > end:
            return
        expected = range((floor(begin) // every + 1) * every, floor(end) + 1, every)
        missing = [at for at in expected if at not in covered]
        assert not missing, f"of schedule {name} the occurrences at {missing} have no row"

    def _life_of(self, name: str) -> tuple[float, float]:
        """Return a span within which the schedule was stored for certain; an empty one if there is none."""
        begin, end = inf, -inf
        for action in self._actions:
            request, reply = action.request, action.reply
            is_add = isinstance(request, SetSchedule) and request.name == name and not request.replaces
            is_one_of_many = isinstance(request, SetSchedules) and name in request.schedules
            if (is_add or is_one_of_many) and reply is not None and not isinstance(reply, Failed):
                begin = action.answered_at
            if isinstance(request, RemoveSchedule) and request.name == name and end == -inf:
                end = action.asked_at - SLACK  # it may be removed before somebody has looked
        return (begin, end) if begin < end else (inf, -inf)

    def _check_overlap(self) -> None:
        """Check that no job is queued or started beside another if its schedule does not allow it."""
        states: dict[str, dict[int, State]] = defaultdict(dict)
        for event in self._events:
            name = self.jobs.get(event.job)
            if name is None:
                continue
            others = {job: state for job, state in states[name].items() if job != event.job}
            what = f"job {event.job} of schedule {name} beside {others}"
            begins = event.job not in states[name] and event.state not in FINAL  # submitted, or retried
            match self._specs[name].overlap:
                case Overlap.SKIP:
                    assert not begins or not others, what
                case Overlap.QUEUE:
                    assert not begins or len(others) <= 1, what
                    assert event.what != "start" or not _active(others), what
                case Overlap.REPLACE:
                    assert not begins or others.keys() == _active(others), what
                    assert event.what != "start" or not _active(others), what
                    is_lost = event.attempt == 0 and (event.by or "").startswith("schedule ")
                    assert not (is_lost and event.state is State.CANCELLED), f"{what} never began: {event}"
                case Overlap.ALLOW:
                    pass
            if event.state in FINAL:
                states[name].pop(event.job, None)
            else:
                states[name][event.job] = event.state

    def _check_events(self) -> None:
        """Check that each row was told once, as the change stream says what is stored."""
        stored = Counter((row["schedule"], row["due_at"], row["result"]) for row in self._rows)
        stored += Counter((row["schedule"], row["due_at"], "late") for row in self._rows if row["late"])
        replaced = [row for row in self._rows if row["result"] == Result.REPLACED]
        stored += Counter((row["schedule"], row["due_at"], "ran") for row in replaced)  # when it was queued
        assert self._told == stored, f"events and rows differ: {self._told - stored}, {stored - self._told}"

    def _check_replaced(self) -> None:
        """Check that a job that never began has one row, that of the last time it stood for."""
        for number, row in enumerate(self._rows):
            if row["result"] == Result.REPLACED:
                later = [each for each in self._rows[number + 1 :] if each["schedule"] == row["schedule"]]
                assert row["job"] is None, f"job {row['job']} is the job of a replaced time, too"
                assert any(each["job"] for each in later), f"nothing replaced {dict(row)}"

    def _check_late(self) -> None:
        told = {event.job: event.at for event in self._events if event.state in FINAL}
        # bgd was down when they ended, or the next one replaced them at once
        exempt = {
            event.job
            for event in self._events
            if event.outcome in _UNSEEN or (event.by or "").startswith("schedule ")
        }
        has_ended: set[int] = set()
        for event in self._events:
            if event.state in FINAL:
                has_ended.add(event.job)
            elif event.job in has_ended:  # retried: then it is not late
                exempt.add(event.job)
        for row in self._rows:
            late_after = self._specs[row["schedule"]].late_after
            if row["job"] is None or row["job"] in self._asked_for or late_after is None:
                continue
            late_at, (_, removed_at) = row["due_at"] + late_after, self._life_of(row["schedule"])
            if row["late"]:  # it may have ended while bgd was down
                assert told[row["job"]] > late_at - SLACK, f"job {row['job']} is late, and was in time"
            elif late_at < removed_at and row["job"] not in exempt:
                in_time = self._ended[row["job"]] < self._looked_at(late_at) + SLACK
                assert in_time, f"job {row['job']} is not late, and was not in time"

    def _looked_at(self, late_at: float) -> float:
        """Return when a supervisor began to look after that, and did not die at once."""
        deaths = [*(life.started_at for life in self._lives[1:]), inf]
        for life, died_at in zip(self._lives, deaths, strict=True):
            looks_from = life.looks_from or -inf
            if late_at <= looks_from < died_at - SLACK:
                return looks_from
        return late_at


def _active(jobs: dict[int, State]) -> set[int]:
    return {job for job, state in jobs.items() if state in {State.RUNNING, State.STOPPING}}


def is_about_schedules(request: Request) -> bool:
    return type(request).__module__ == schedules.__name__
