"""Patterns: the days and times of the wall clock that a schedule names, without time zones.

A wall second counts from 1970-01-01 00:00:00 of a clock on the wall; only a zone makes it an instant. A day
is the number of days since that date.
"""

from __future__ import annotations

import calendar
from bisect import bisect_left
from collections.abc import Iterator
from datetime import date
from itertools import takewhile

from msgspec import Struct

DAY = 86_400
LAST_YEAR = 2199  # the last year of systemd's calendar and oncalendar
_EPOCH = date(1970, 1, 1).toordinal()
_END = date(LAST_YEAR + 1, 1, 1).toordinal() - _EPOCH
_THURSDAY = 3  # the weekday of 1970-01-01


class Pattern(Struct, frozen=True, kw_only=True, gc=False):
    """The common form of cron expressions and systemd calendar specs. Every part is sorted.

    * `days`: days of the month; -1 is the last day, -2 the one before.
    * `weekdays`: 0 is Monday, 6 is Sunday.
    * `years`: None means every year.
    * `either_day`: a day needs to match `days` or `weekdays`, not both.
    * `is_wildcard`: it repeats within the hour or the day. Where clocks change it keeps real intervals; a
      pattern of fixed times runs once for each.
    """

    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...] = (0,)
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    years: tuple[int, ...] | None = None
    either_day: bool = False
    is_wildcard: bool


def walls_between(pattern: Pattern, begin: int, end: int) -> Iterator[int]:
    """Yield the wall seconds of a pattern from `begin` to before `end`, in order."""
    for day in matching_days(pattern, begin // DAY):
        midnight = day * DAY
        if midnight >= end:
            return
        for time in _times_from(pattern, max(0, begin - midnight)):
            if midnight + time >= end:
                return
            yield midnight + time


def count_walls(pattern: Pattern, begin: int, end: int) -> int:
    """Count what `walls_between` yields, in time proportional to the number of months."""
    return _count_walls_before(pattern, begin // DAY, end) - _count_walls_before(pattern, begin // DAY, begin)


def _count_walls_before(pattern: Pattern, first_day: int, end: int) -> int:
    last_day, time = divmod(end, DAY)
    whole_days = _count_days(pattern, first_day, last_day)
    is_partial = next(matching_days(pattern, last_day), None) == last_day
    return whole_days * _count_times(pattern, DAY) + (_count_times(pattern, time) if is_partial else 0)


# --- days ----------------------------------------------------------------------------------------------


def matching_days(pattern: Pattern, first: int) -> Iterator[int]:
    """Yield the days of a pattern in order, from the day `first` to the end of LAST_YEAR."""
    start = date.fromordinal(first + _EPOCH)
    for year in range(start.year, LAST_YEAR + 1):
        if pattern.years is None or year in pattern.years:
            for month in pattern.months:
                if (year, month) >= (start.year, start.month):
                    yield from (day for day in _days_of_month(pattern, year, month) if day >= first)


def _days_of_month(pattern: Pattern, year: int, month: int) -> list[int]:
    length = calendar.monthrange(year, month)[1]
    before = date(year, month, 1).toordinal() - _EPOCH - 1
    dates = {day if day > 0 else length + 1 + day for day in pattern.days}
    if len(pattern.weekdays) == 7 and not pattern.either_day:  # noqa: PLR2004 - all of them; the usual case
        return [before + day for day in sorted(dates) if 0 < day <= length]
    found = []
    for day in range(1, length + 1):
        on_date, on_weekday = day in dates, (before + day + _THURSDAY) % 7 in pattern.weekdays
        if (on_date or on_weekday) if pattern.either_day else (on_date and on_weekday):
            found.append(before + day)
    return found


def _is_every_day(pattern: Pattern) -> bool:
    return (len(pattern.days), len(pattern.months), len(pattern.weekdays), pattern.years) == (31, 12, 7, None)


def _count_days(pattern: Pattern, first: int, end: int) -> int:
    if _is_every_day(pattern):
        return max(0, min(end, _END) - first)
    return sum(1 for _ in takewhile(lambda day: day < end, matching_days(pattern, first)))


# --- times of a day ------------------------------------------------------------------------------------


def _times_from(pattern: Pattern, first: int) -> Iterator[int]:
    """Yield the times of a day in seconds, in order, from `first` on."""
    for hour in pattern.hours[bisect_left(pattern.hours, first // 3600) :]:
        for minute in pattern.minutes:
            begin = hour * 3600 + minute * 60
            if begin + 59 >= first:
                yield from (begin + second for second in pattern.seconds if begin + second >= first)


def _count_times(pattern: Pattern, end: int) -> int:
    """Count the times of a day before `end`."""
    hour, minute, second = end // 3600, end // 60 % 60, end % 60
    hours, minutes, seconds = pattern.hours, pattern.minutes, pattern.seconds
    count = bisect_left(hours, hour) * len(minutes) * len(seconds)
    if hour in hours:
        count += bisect_left(minutes, minute) * len(seconds)
        if minute in minutes:
            count += bisect_left(seconds, second)
    return count
