"""Schedules: decides for each occurrence whether it runs, is skipped, or was missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, tzinfo
from math import inf
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgd.core.cron import ExpressionError
from bgd.core.job import JobId
from bgd.core.occurrences import catch_up, count_between, due_between, next_due
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.core.spec import NOT_SCHEDULED, JobSpec, problem_with
from bgd.core.when import Day, Kind, When, is_excepted, parse_exceptions, parse_when

MAX_RUNS = 240  # jobs that a schedule may queue at once: a jump that cron makes up has 179 minutes
MAX_DEFINITION = 1_000_000  # bytes, stored: with its times it fits into one reply to a client
ON_TIME = 60.0  # seconds: an occurrence belongs to its minute, as in cron


def problem_with_schedule(spec: ScheduleSpec) -> str | None:
    """Return in one sentence what is wrong with a schedule of the right types; None: nothing."""
    unset = JobSpec()
    for name in sorted(NOT_SCHEDULED):
        if getattr(spec.job, name) != getattr(unset, name):
            return f"a schedule takes no {name}: the schedule decides when its jobs start"
    try:
        timetable_of(spec, UTC, "")
    except ExpressionError as error:
        return str(error)
    if problem := problem_with(spec.job):
        return problem
    if (size := len(msgspec.msgpack.encode(spec))) > MAX_DEFINITION:
        return f"the schedule takes {size} bytes: at most {MAX_DEFINITION}; long arguments belong in a file"
    return None


class Occurrence(Struct, frozen=True):
    """The result of an occurrence, or of `count` in a row from `due_at` on; `reason`: why it did not run.

    The daemon adds the name of its schedule, the job that was queued, and whether that was `late`: it had not
    finished in time.
    """

    due_at: float
    result: Result
    reason: str | None = None
    count: int = 1
    schedule: str = ""
    job: JobId | None = None
    late: bool = False


class Moment(Struct, frozen=True):
    """A reading of the wall clock.

    `gap_at`: its value before it was set, or the last reading before the machine or bgd stopped; None: no
    gap. `was_down`: bgd did not run in the gap.
    """

    at: float
    gap_at: float | None = None
    was_down: bool = False


class Timetable(Struct, frozen=True, kw_only=True, gc=False):
    """When a schedule is due, in a time zone, and its excluded days."""

    when: When
    zone: tzinfo
    excluded: frozenset[Day] = frozenset()


def timetable_of(spec: ScheduleSpec, zone: tzinfo, key: str) -> Timetable:
    """Return when a schedule is due; `key` names the machine and the schedule.

    Raises:
        ExpressionError: the spec does not say when; the message is one line.
    """
    given = [(kind, text) for kind in Kind if (text := getattr(spec, kind)) is not None]
    if len(given) != 1:
        raise ExpressionError("a schedule has one of cron, calendar and every")
    [(kind, text)] = given
    when = parse_when(text, kind, key=key, jitter=spec.jitter)
    return Timetable(when=when, zone=zone, excluded=parse_exceptions(spec.excluded))


def next_at(timetable: Timetable, after: float) -> float | None:
    """Return when a schedule is due next after an instant, excluded days included; None: never."""
    return next_due(timetable.when, timetable.zone, after)


def upcoming_times(timetable: Timetable, after: float, most: int) -> list[float]:
    """Return the next times of a schedule, at most `most`."""
    return due_between(timetable.when, timetable.zone, after, inf, most)


def pass_time(
    spec: ScheduleSpec, timetable: Timetable, seen: float, moment: Moment
) -> tuple[list[Occurrence], float]:
    """Return the results of the occurrences after `seen`, in order, and the next `seen`.

    Those that run must still pass `starts`.
    """
    if moment.gap_at is None:
        return list(_merged(_run(timetable, seen, moment.at))), max(seen, moment.at)
    before = max(seen, moment.gap_at)
    found = _run(timetable, seen, min(moment.gap_at, moment.at))
    late = _last_late(spec, timetable, before, moment)
    if moment.at > moment.gap_at:
        found += _missed(spec, timetable, before, late, moment)
    found += _run(timetable, late, moment.at)
    return list(_merged(found)), max(late, moment.at)


def _run(timetable: Timetable, after: float, until: float) -> list[Occurrence]:
    """Return the occurrences of a span. All run, except on excluded days and beyond a limit."""
    due = due_between(timetable.when, timetable.zone, after, until, MAX_RUNS)
    found = [_on_its_day(timetable, each) for each in due]
    if len(due) == MAX_RUNS and (more := count(timetable, due[-1], until)):
        found.append(Occurrence(due[-1], Result.MISSED, TOO_MANY, more))
    return found


def count(timetable: Timetable, after: float, until: float) -> int:
    """Return how many occurrences there are after one instant and until another."""
    return count_between(timetable.when, timetable.zone, after, until)


def _last_late(spec: ScheduleSpec, timetable: Timetable, before: float, moment: Moment) -> float:
    """Return the instant until which occurrences do not run because of a gap.

    After a step back they also do not run again until then.
    """
    is_made_up = spec.missed is not Missed.SKIP and not moment.was_down
    if is_made_up or moment.at < before:
        return catch_up(timetable.zone, before, moment.gap_at or before, moment.at).after(timetable.when)
    return max(before, moment.at - ON_TIME)


def _missed(
    spec: ScheduleSpec, timetable: Timetable, after: float, late: float, moment: Moment
) -> list[Occurrence]:
    """Return the results of the occurrences that do not run because of a gap."""
    latest = _latest(timetable, max(after, moment.at - spec.missed_within), min(late, moment.at), spec)
    missed = count(timetable, after, late) - (latest is not None)
    found: list[Occurrence] = []
    if missed:
        reason = BGD_WAS_DOWN if moment.was_down else CLOCK_JUMPED
        found.append(Occurrence(next_at(timetable, after) or after, Result.MISSED, reason, missed))
    if latest is not None:
        found.append(_on_its_day(timetable, latest))
    return found


def _latest(timetable: Timetable, after: float, until: float, spec: ScheduleSpec) -> float | None:
    """Return the latest occurrence of a span if it runs after all; None: there is none, or it does not."""
    if spec.missed is not Missed.LATEST:
        return None
    back = ON_TIME
    while after < until:
        begin = max(after, until - back)
        if number := count(timetable, begin, until):
            return due_between(timetable.when, timetable.zone, begin, until, number)[-1]
        if begin == after:
            break
        back *= 8
    return None


def _on_its_day(timetable: Timetable, due_at: float) -> Occurrence:
    if is_excepted(timetable.excluded, timetable.zone, due_at):
        return Occurrence(due_at, Result.SKIPPED, EXCLUDED)
    return Occurrence(due_at, Result.RAN)


def _merged(found: Sequence[Occurrence]) -> Iterator[Occurrence]:
    """Yield occurrences, merging those in a row that did not run for the same reason."""
    last: Occurrence | None = None
    for each in found:
        if last is not None and each.result is last.result is not Result.RAN and each.reason == last.reason:
            last = replace(last, count=last.count + each.count)
            continue
        if last is not None:
            yield last
        last = each
    if last is not None:
        yield last


def starts(overlap: Overlap, unfinished: Sequence[JobId]) -> tuple[JobId, ...] | str:
    """Return which of the unfinished jobs of its schedule an occurrence waits for; or why it does not run.

    With REPLACE, the caller cancels those jobs.
    """
    if not unfinished:
        return ()
    match overlap:
        case Overlap.ALLOW:
            return ()
        case Overlap.SKIP:
            return f"job {unfinished[-1]} has not finished"
        case Overlap.QUEUE if len(unfinished) > 1:
            return f"job {unfinished[-1]} waits already"
        case Overlap.QUEUE | Overlap.REPLACE:
            return tuple(unfinished)
        case _:
            assert_never(overlap)


BGD_WAS_DOWN = "bgd was not running"
CLOCK_JUMPED = "the clock jumped"
TOO_MANY = "too many at once"
NEVER_BEGAN = "it had not begun when the next time came"
PAUSED = "paused"
EXCLUDED = "this day is excluded"
