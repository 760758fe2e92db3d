"""Instants as people write them: how long ago, a date, or a time of day to come."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
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
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither how long ago, as 2h, nor a date, as 2026-10-01 14:30", param, ctx
            )


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
        if instant <= time.time():
            self.fail(f"{value!r} is over: name a time to come", param, ctx)
        return instant


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
