"""Instants as people write them: how long ago, a date, or a time of day to come."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from bgd.units import parse_duration

_TIME_OF_DAY = r"(tomorrow )?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?"


class PastInstant(click.ParamType[float]):
    """A point in the past: how long ago, or a date."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read "2h", "2026-10-01" or "2026-10-01 14:30", local unless it says otherwise."""
        if isinstance(value, float):
            return value
        try:
            return time.time() - parse_duration(value)
        except ValueError:
            pass
        try:
            at = datetime.fromisoformat(value)
            instant = at.timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither how long ago, as 2h, nor a date, as 2026-10-01 14:30", param, ctx
            )
        if problem := _problem_with_zone_of(at):
            self.fail(f"{value!r} {problem}", param, ctx)
        return instant


class FutureInstant(click.ParamType[float]):
    """A point in the future: a date, or the next time that a clock shows this."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read "14:30", "tomorrow 9:00", "2026-10-01 14:30", local unless it says otherwise."""
        if isinstance(value, float):
            return value
        try:
            at = _time_of_day(value) or datetime.fromisoformat(value)
            instant = at.timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time: write 14:30, tomorrow 9:00, 2026-10-01 14:30 or 2026-10-01T14:30Z",
                param,
                ctx,
            )
        if problem := _problem_with_zone_of(at):
            self.fail(f"{value!r} {problem}", param, ctx)
        if instant <= time.time():
            self.fail(f"{value!r} is over: name a time to come", param, ctx)
        return instant


def _problem_with_zone_of(at: datetime) -> str | None:
    """Say what is wrong where a local time cannot be told: C libraries take an unknown TZ for UTC."""
    zone = os.environ.get("TZ", "").removeprefix(":")
    if at.tzinfo is not None or not zone or zone in _UTC or re.match(_RULE, zone):
        return None
    if Path(os.environ.get("TZDIR", "/usr/share/zoneinfo"), zone).is_file():
        return None
    return f"is a local time, and TZ is {zone!r}, which is no known time zone: correct TZ, or add Z or +01:00"


_UTC = frozenset({"UTC", "GMT", "Etc/UTC", "Etc/GMT"})  # true also where no time zones are installed
_RULE = r"([A-Za-z]{3,}|<[A-Za-z0-9+-]+>)[+-]?[0-9]"  # of tzset(3), as CET-1CEST


def _time_of_day(text: str) -> datetime | None:
    """Return the next local time at which clocks show this; None if the text is of another kind.

    Raises:
        ValueError: no clock shows this.
    """
    match = re.fullmatch(_TIME_OF_DAY, text)
    if match is None:
        return None
    now = datetime.now()  # noqa: DTZ005 - naive is local: the day after has the same time of day in any zone
    at = now.replace(hour=int(match[2]), minute=int(match[3]), second=int(match[4] or 0), microsecond=0)
    return at + timedelta(days=1) if match[1] or at <= now else at
