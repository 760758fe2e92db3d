"""When a schedule runs, in plain words: "every day at 03:00, Europe/Paris"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product

from bgd.core.pattern import Pattern
from bgd.core.when import When
from bgd.text.units import format_duration

_MANY = 6  # times of a day, or days: more are not listed one by one
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_UNITS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
_HOURS, _SIXTY = tuple(range(24)), tuple(range(60))
_ALL_DAYS = tuple(range(1, 32))


def describe(when: When, zone: str) -> str:
    """Return when a schedule runs, in words; `zone` is the name of its time zone."""
    if when.rule is None:
        words = "at each start of the machine"
    elif isinstance(when.rule, int):
        words = f"every {_interval(when.rule)}"
    else:
        words = f"{_pattern(when.rule)}, {zone}"
    return words + (f", {format_duration(when.delay)} later on this machine" if when.delay else "")


def _interval(seconds: int) -> str:
    unit = next(unit for unit, length in _UNITS.items() if seconds % length == 0)
    count = seconds // _UNITS[unit]
    return unit if count == 1 else f"{count} {unit}s"


def _pattern(pattern: Pattern) -> str:
    times, days = _times(pattern), _days(pattern)
    if times.startswith("every"):
        return f"{times}, {days}" if days else times
    return f"{days or 'every day'} {times}"


# --- times of a day ------------------------------------------------------------------------------------


def _times(pattern: Pattern) -> str:
    """Return "at ..." for single times, "every ..." for others."""
    hours, minutes, seconds = pattern.hours, pattern.minutes, pattern.seconds
    if len(hours) * len(minutes) * len(seconds) <= _MANY:
        return f"at {_listed([_clock(time) for time in product(hours, minutes, seconds)])}"
    if seconds == (0,):
        return _times_of_minutes(hours, minutes)
    if len(hours) * len(minutes) <= _MANY:
        times = _listed([_clock((*time, 0)) for time in product(hours, minutes)])
        return f"at {times}, at {_numbers('second', seconds)}"
    if seconds == _SIXTY and minutes == _SIXTY:
        return "every second" + _from_to(hours)
    return f"{_times_of_minutes(hours, minutes)}, at {_numbers('second', seconds)}"


def _times_of_minutes(hours: tuple[int, ...], minutes: tuple[int, ...]) -> str:
    if len(minutes) > 1 and (step := _step(minutes, len(_SIXTY))):
        return f"every {_interval(step * 60)}" + _from_to(hours)
    if step := _step(hours, len(_HOURS)):
        words = f"every {_interval(step * 3600)}"
        return words if minutes == (0,) else f"{words} at {_numbers('minute', minutes)}"
    if len(minutes) == 1 and _is_run(hours):
        return f"every hour from {_clock((hours[0], *minutes, 0))} to {_clock((hours[-1], *minutes, 0))}"
    return f"every hour at {_numbers('minute', minutes)}" + _from_to(hours)


def _from_to(hours: tuple[int, ...]) -> str:
    """Return the words for the hours in which something repeats; "" for all."""
    if hours == _HOURS:
        return ""
    if _is_run(hours):
        return f" from {hours[0]:02}:00 to {hours[-1]:02}:59"
    return f" in {_numbers('hour', hours)}"


def _step(values: tuple[int, ...], count: int) -> int:
    """Return the distance of values that divide an hour or a day evenly; 0: they do not."""
    step = values[1] if len(values) > 1 else count
    return step if count % step == 0 and values == tuple(range(0, count, step)) else 0


def _clock(time: Sequence[int]) -> str:
    """Return hour, minute and second, without a second of 0."""
    shown = time[:2] if time[-1] == 0 else time
    return ":".join(f"{part:02}" for part in shown)


# --- days ----------------------------------------------------------------------------------------------


def _days(pattern: Pattern) -> str:
    """Return the words for the days; "" for every day."""
    months = "" if len(pattern.months) == len(_MONTHS) else _words(pattern.months, _MONTHS, first=1)
    years = "" if pattern.years is None else _runs(pattern.years)
    dates = "" if pattern.days == _ALL_DAYS else f"{_dates(pattern.days)} of {months or 'the month'}"
    weekdays = "" if len(pattern.weekdays) == len(_WEEKDAYS) else _words(pattern.weekdays, _WEEKDAYS, first=0)
    if weekdays:
        is_range = " to " in weekdays  # "Monday to Friday"
        weekdays = f"every {weekdays}" if len(pattern.weekdays) == 1 else "on " * (not is_range) + weekdays
    if dates and weekdays:
        words = f"{weekdays} if it is {dates}"
        if pattern.either_day:
            words = f"on {dates}, and {weekdays}" + (f" in {months}" if months else "")
    elif pattern.either_day:
        words = ""  # all dates or all weekdays
    else:
        words = weekdays or (dates and f"on {dates}")
    ends = [months if not dates or not words else "", years]
    return " ".join([words or ("every day" if any(ends) else ""), *(f"in {each}" for each in ends if each)])


def _dates(days: tuple[int, ...]) -> str:
    if days[-1] > 0:
        return _numbers("day", days)
    if days == (-1,):
        return "the last day"
    if days == tuple(range(-len(days), 0)):
        return f"the last {len(days)} days"
    return f"{_numbers('day', tuple(-day for day in reversed(days)))} from the end"


# --- lists ---------------------------------------------------------------------------------------------


def _numbers(noun: str, values: tuple[int, ...]) -> str:
    return f"{noun} {values[0]}" if len(values) == 1 else f"{noun}s {_runs(values)}"


def _runs(values: tuple[int, ...]) -> str:
    """Return "1, 5 to 9 and 20"."""
    return _words(values, range(values[-1] + 1), first=0)


def _words(values: tuple[int, ...], names: Sequence[object], *, first: int) -> str:
    """Return the names of values, with "to" between the ends of three or more in a row."""
    words: list[str] = []
    for _, group in groupby(enumerate(values), key=lambda pair: pair[1] - pair[0]):
        run = [str(names[value - first]) for _, value in group]
        words += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else run  # noqa: PLR2004 - two are named
    return _listed(words)


def _is_run(values: tuple[int, ...]) -> bool:
    return values == tuple(range(values[0], values[-1] + 1))


def _listed(words: list[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
