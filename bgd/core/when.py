"""Parses when a schedule runs. bgd.core.occurrences computes the instants."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import date, datetime, tzinfo
from enum import StrEnum
from functools import partial
from typing import assert_never

from msgspec import Struct

from bgd.core.cron import REBOOT, ExpressionError, parse_cron, share
from bgd.core.pattern import LAST_YEAR, Pattern
from bgd.core.schedule_spec import MAX_EXCEPTIONS, MAX_WHEN
from bgd.core.spec import MAX_DURATION
from bgd.text.units import format_duration, parse_duration

_FIRST_YEAR = 1970  # of oncalendar and of the clock
_LEAP_YEAR = 2000  # has every date that any year has


class Kind(StrEnum):
    """The kind of a schedule's time: the key of the configuration that holds the text."""

    CRON = "cron"
    CALENDAR = "calendar"
    EVERY = "every"


Rule = Pattern | int | None
"""When a schedule runs, before its delay is added.

A Pattern: at these times of the wall clock. An int: every so often, in seconds, counted from 1970-01-01 00:00
UTC, so that a restart shifts nothing. None: at each boot of the machine (`@reboot`), at no instant."""


class When(Struct, frozen=True, kw_only=True, gc=False):
    """When a schedule runs.

    `delay` is added to each instant: this machine's and schedule's share of the jitter, in whole seconds.
    """

    rule: Rule
    delay: int = 0

    @property
    def is_wildcard(self) -> bool:
        """Whether it repeats at real intervals, rather than running at fixed times."""
        return self.rule.is_wildcard if isinstance(self.rule, Pattern) else self.rule is not None


def parse_when(text: str, kind: Kind, *, key: str, jitter: float = 0.0) -> When:
    """Parse when a schedule runs.

    `key` names the machine and the schedule. It chooses the values of `A~B` in a cron expression and the
    share of the jitter (in seconds), so both stay the same over restarts and differ between machines.

    Raises:
        ExpressionError: the text does not say when; the message is one line that says what to write.
    """
    if len(text) > MAX_WHEN:
        raise ExpressionError(f"{kind} has at most {MAX_WHEN} characters, not {len(text)}")
    rule: Rule
    match kind:
        case Kind.CRON:
            rule = None if text.strip(" \t") == REBOOT else parse_cron(text, key)
        case Kind.CALENDAR:
            rule = _calendar(text)
        case Kind.EVERY:
            rule = _every(text)
        case _:
            assert_never(kind)
    return When(rule=rule, delay=int(jitter * share(f"{key}\0jitter")))


def _every(text: str) -> int:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ExpressionError(f"every: {error}") from error
    if not 1 <= seconds <= MAX_DURATION or seconds % 1:
        raise ExpressionError(
            f"every {text!r} must be whole seconds, from 1s to {format_duration(MAX_DURATION)}: write 15m"
        )
    return int(seconds)


# --- systemd's calendar specs ------------------------------------------------------------------------------


def _calendar(text: str) -> Pattern:
    """Read a systemd calendar spec, for example "Mon..Fri 09:00".

    oncalendar reads the text. Its own iterator is not used: like systemd, it skips a time that the clocks
    skip in spring. bgd.core.occurrences runs such a time, like Debian's cron.

    A spec is a wildcard like a cron expression if its hour or minute begins with `*`, or with `0/`, which is
    what cron's `*/` is in a spec.
    """
    from oncalendar import BaseIterator, OnCalendarError  # noqa: PLC0415 - only some schedules need it

    try:
        wall = datetime(_LEAP_YEAR, 1, 1)  # noqa: DTZ001 - a wall clock
        spec = BaseIterator(" ".join(map(_ranges_as_in_systemd, text.split())), wall)
    except OnCalendarError as error:
        raise ExpressionError(
            f"calendar {text!r} is not a calendar spec ({str(error).lower()}): write it as for systemd, "
            f"for example 'Mon..Fri 09:00' or '*-*-01 03:00:00'{_about_zone(text)}"
        ) from error
    return Pattern(
        hours=tuple(sorted(spec.hours)),
        minutes=tuple(sorted(spec.minutes)),
        seconds=tuple(sorted(spec.seconds)),
        days=tuple(sorted(spec.days - {0})),  # oncalendar's step from the end of a month is one too far
        months=tuple(sorted(spec.months)),
        weekdays=tuple(sorted(spec.weekdays)),
        years=None if len(spec.years) == LAST_YEAR - _FIRST_YEAR + 1 else tuple(sorted(spec.years)),
        is_wildcard=_repeats(text),
    )


def _ranges_as_in_systemd(word: str) -> str:
    """Return a word of a spec whose ranges oncalendar reads as systemd does.

    systemd ends `A..B/N` at the last step, so that `A..A/N` is A, and refuses `A/N` if the first step leaves
    the field (normalize_chain and chain_valid in calendarspec.c of 257). oncalendar reads `A..A/N` as `A/N`.

    Raises:
        ExpressionError: systemd refuses a range.
    """
    fields = re.split("([-~:])", word)  # every second one is a separator
    highest = _LAST_TIMES if ":" in word else _LAST_DATES[-(len(fields) // 2 + 1) :]
    for index, high in zip(range(0, len(fields), 2), highest, strict=False):
        from_end = index > 0 and fields[index - 1] == "~"
        fields[index] = re.sub(
            r"(\d+)(?:\.\.(\d+))?/(\d+)", partial(_range_as_in_systemd, high, from_end), fields[index]
        )
    return "".join(fields)


def _range_as_in_systemd(high: int, from_end: bool, match: re.Match[str]) -> str:  # noqa: FBT001 - by partial
    first, step = int(match[1]), int(match[3])
    if match[2] is None:
        if step and (first <= step if from_end else first + step > high):
            raise ExpressionError(
                f"calendar: the step of {match[0]!r} is too long for its field: write {match[1]}"
            )
        return match[0]
    last = int(match[2])
    if not step or last < first:
        return match[0]  # oncalendar refuses it
    last -= (last - first) % step
    return match[1] if first == last else f"{first}..{last}/{step}"


def _about_zone(text: str) -> str:
    *_, last = text.split() or [""]
    has_zone = re.fullmatch(r"[A-Za-z]+/[A-Za-z_/+-]+|UTC", last)
    return f"; a time zone belongs into `timezone = {last!r}`" if has_zone else ""


def _repeats(text: str) -> bool:
    if text.lower() in {"minutely", "hourly"}:
        return True
    hour, colon, minute = text.rsplit(maxsplit=1)[-1].partition(":")
    return bool(colon) and (hour.startswith(_REPEATED) or minute.startswith(_REPEATED))


_REPEATED = ("*", "0/", "00/")
_LAST_DATES = (LAST_YEAR, 12, 31)
_LAST_TIMES = (23, 59, 59)


# --- days left out -----------------------------------------------------------------------------------------


Day = tuple[int | None, int, int]
"""Year, month and day of a day on which a schedule does not run; without a year it is one of every year."""


def parse_exceptions(texts: Collection[str]) -> frozenset[Day]:
    """Read days such as "2026-12-24", or "12-25" for every year.

    Raises:
        ExpressionError: one of them is not a day, or there are too many.
    """
    if len(texts) > MAX_EXCEPTIONS:
        raise ExpressionError(f"except lists {len(texts)} days, and at most {MAX_EXCEPTIONS} are allowed")
    return frozenset(map(_day, texts))


def _day(text: str) -> Day:
    match = re.fullmatch(r"(?:([0-9]{4})-)?([0-9]{2})-([0-9]{2})", text)
    year, month, day = map(int, match.groups("0")) if match else (0, 0, 0)
    try:
        date(year or _LEAP_YEAR, month, day)
    except ValueError as error:
        raise ExpressionError(
            f"except {text!r} is not a day: write '2026-12-24', or '12-25' for every year"
        ) from error
    return year or None, month, day


def is_excepted(days: Iterable[Day], zone: tzinfo, at: float) -> bool:
    """Return whether an instant falls on one of the days in this zone."""
    wall = datetime.fromtimestamp(at, zone)
    return not {(wall.year, wall.month, wall.day), (None, wall.month, wall.day)}.isdisjoint(days)
