"""Durations, sizes and numbers as people write them in the configuration and on the command line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from enum import EnumType
from functools import partial
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, UnsetType

from bgd.errors import shorten

if TYPE_CHECKING:
    from datetime import datetime

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: dict[str, int] = {"": 1, "b": 1} | {
    prefix + end: base**power
    for power, prefix in enumerate("kmgt", 1)
    for end, base in (
        ("", 2**10),
        ("ib", 2**10),
        ("b", 10**3),
    )  # without B as systemd, docker and ulimit count
}

_SPELLED_OUT = {"minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}  # in seconds
_DAYS = {"today": 0, "yesterday": 1}  # ago

# At most 60 digits: a number of more would become infinity instead of being refused as too large
_NUMBER = r"[0-9]{1,60}(?:\.[0-9]{1,15})?"
_PART = rf"({_NUMBER})(ms|[dhms])"
_WHOLE_DURATION = rf"(?:{_PART})+"
_WHOLE_SIZE = rf"({_NUMBER}) ?([A-Za-z]*)"


def counted(count: object, noun: str) -> str:
    """Return a number of things in words: "1 job", "2 jobs", "unlimited slots"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def parse_duration(text: str) -> float:
    """Return the seconds in "500ms", "5s", "10m", "2h", "1d" or "1h30m"; a bare number is seconds.

    Raises:
        ValueError: the text is not a duration; the message says how to write one.
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not re.fullmatch(_WHOLE_DURATION, text):
        raise ValueError(
            f"{text!r} is not a duration: write 500ms, 5s, 10m, 2h, 1d or 1h30m; a bare number is seconds"
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, text))


def parse_past_time(text: str, now: float) -> float:
    """Return the epoch time of "2h" or "1 day" ago, of "2026-10-01 14:30", "today" or "yesterday".

    A date is local time unless it has a zone. "today" and "yesterday" begin at midnight, local time.

    Raises:
        ValueError: the text is neither; the message says how to write them.
    """
    from datetime import datetime, timedelta  # noqa: PLC0415 - few commands read times

    if text in _DAYS:
        midnight = datetime.fromtimestamp(now).replace(  # noqa: DTZ006 - local time
            hour=0, minute=0, second=0, microsecond=0
        )
        return (midnight - timedelta(days=_DAYS[text])).timestamp()
    if age := re.fullmatch(r"(\d{1,6}) (minute|hour|day|week)s?(?: ago)?", text):
        return now - int(age[1]) * _SPELLED_OUT[age[2]]
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
        instant = at.timestamp()
    except (ValueError, OverflowError):
        message = f"{text!r} is neither an age such as 2h nor a date such as 2026-10-01 14:30"
        raise ValueError(message) from None
    if problem := _problem_with_zone_of(at):
        raise ValueError(f"{text!r} {problem}")
    return instant


def parse_future_time(text: str, now: float) -> float:
    """Return the epoch time of "14:30", "tomorrow 9:00" or "2026-10-01 14:30"; local time without a zone.

    Raises:
        ValueError: the text is none of these, or is not in the future; the message says how to write them.
    """
    from datetime import datetime  # noqa: PLC0415 - as above

    try:
        at = _time_of_day(text, now) or datetime.fromisoformat(text)
        instant = at.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time: write 14:30, tomorrow 9:00, 2026-10-01 14:30 or 2026-10-01T14:30Z"
            "; --delay 5m counts from now"
        ) from None
    if problem := _problem_with_zone_of(at):
        raise ValueError(f"{text!r} {problem}")
    if instant <= now:
        raise ValueError(f"{text!r} is in the past: give a time in the future")
    return instant


def _time_of_day(text: str, now: float) -> datetime | None:
    """Return the next local occurrence of a time of day; None if the text is not a time of day.

    Raises:
        ValueError: no such time of day exists, for example 25:00.
    """
    from datetime import datetime, timedelta  # noqa: PLC0415 - as above

    if (match := re.fullmatch(_TIME_OF_DAY, text)) is None:
        return None
    local = datetime.fromtimestamp(now)  # noqa: DTZ006 - naive: adding a day keeps the time of day in any zone
    at = local.replace(hour=int(match[2]), minute=int(match[3]), second=int(match[4] or 0), microsecond=0)
    return at + timedelta(days=1) if match[1] or at <= local else at


_TIME_OF_DAY = r"(tomorrow )?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?"


def _problem_with_zone_of(at: datetime) -> str | None:
    """Return why local time is unreliable; None if it is fine. The C library reads an unknown TZ as UTC."""
    import os  # noqa: PLC0415 - likewise

    zone = os.environ.get("TZ", "").removeprefix(":")
    if at.tzinfo is not None or not zone or zone in _UTC or re.match(_RULE, zone):
        return None
    if os.path.isfile(os.path.join(os.environ.get("TZDIR", "/usr/share/zoneinfo"), zone)):  # noqa: PTH113, PTH118
        return None
    return f"is a local time, but TZ={zone!r} is not a known time zone: correct TZ, or add Z or +01:00"


_UTC = frozenset({"UTC", "GMT", "Etc/UTC", "Etc/GMT"})  # valid even where no time zones are installed
_RULE = r"([A-Za-z]{3,}|<[A-Za-z0-9+-]+>)[+-]?[0-9]"  # the format of tzset(3), for example CET-1CEST


def format_duration(seconds: float) -> str:
    """Return a duration to the millisecond, as `parse_duration` reads it: "1h30m", "2.5s", "20ms"."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds}ms" if milliseconds else "0s"
    text = ""
    for unit in ("d", "h", "m"):
        count, milliseconds = divmod(milliseconds, round(_SECONDS[unit] * 1000))
        text += f"{count}{unit}" if count else ""
    return text + (f"{milliseconds / 1000:g}s" if milliseconds else "")


def parse_size(text: str) -> int:
    """Return the bytes in "100MB", "1.5GB" (powers of ten), "64KiB", "64K" (of two); a bare number is bytes.

    Raises:
        ValueError: the text is not a size; the message says how to write one.
    """
    match = re.fullmatch(_WHOLE_SIZE, text)
    unit = _BYTES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"{text!r} is not a size: write 500kB, 100MB, 5GB, 64MiB or 64M; a bare number is bytes"
        )
    return round(float(match[1]) * unit)


def format_size(count: int) -> str:
    """Return a size to three digits, in a form that `parse_size` reads: "999B", "1.5kB", "20MB"."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:  # noqa: PLR2004 - rounded, it would have four digits
            break
        size, unit = size / 1000, larger
    return f"{size:.3g}{unit}" if size < 999.5 else f"{size:.0f}{unit}"  # noqa: PLR2004 - likewise


# --- kinds of values


def _plain_number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}" if bound < 1 else f"{bound:.0f}"


class Notation(Struct, frozen=True):
    """How people write the values of a kind, in whose Annotated type it stands.

    `noun`: what such a value is. `examples`: texts that `read` takes; it raises ValueError for others.
    `show`: writes a bound. `items`: the kind of the items of a list, which are written so too.
    """

    noun: str
    examples: str
    read: Callable[[str], Any]
    show: Callable[[Any], str] = _plain_number
    items: Any = None


DURATION = Notation("a duration", "500ms, 10s or 1h30m", parse_duration, format_duration)
SIZE = Notation("a size", "500kB, 100MB or 64MiB", parse_size, format_size)
INSTANT = Notation(
    "a time in epoch seconds", "'tomorrow 9:00'", lambda text: parse_future_time(text, time.time())
)


class WrongValue(ValueError):
    """A value that its kind does not have; `requirement` says which ones it has."""

    def __init__(self, value: object, kind: Any) -> None:
        self.requirement = f"must be {requirement(kind)}"
        super().__init__(f"{shown(value)} {self.requirement}")


def read(value: object, kind: Any, *, is_text: bool = False) -> Any:
    """Return a value of a kind, which may be a text in its notation; if `is_text`, numbers are text too.

    Raises:
        ValueError: it is none; the message is one for the configuration, the command line, clients and pages.
    """
    try:
        return msgspec.convert(without_notation(value, kind), kind, strict=not is_text)
    except (msgspec.ValidationError, UnicodeEncodeError):  # or bytes that are not UTF-8
        raise WrongValue(value, kind) from None


def without_notation(value: object, kind: Any) -> Any:
    """Return what a text stands for in the notation of a kind, and any other value as it is.

    Raises:
        ValueError: the text stands for nothing; the message says how to write one.
    """
    notation = notation_of(kind)
    if notation is not None and notation.items is not None and isinstance(value, list | tuple):
        return [without_notation(item, notation.items) for item in value]
    return notation.read(value) if notation is not None and isinstance(value, str) else value


def notation_of(kind: Any) -> Notation | None:
    """Return how values of a kind are written as text; None if they are texts or numbers as such."""
    return _parts(kind)[2]


def reader_of(kind: Any) -> Callable[[str], Any]:
    """Return a function that reads a text as a value of a kind, or raises ValueError."""
    return partial(read, kind=kind, is_text=True)


def requirement(kind: Any) -> str:  # noqa: PLR0911 - a line for each type
    """Return in words which values a kind has, to follow "must be"."""
    base, bounds, notation = _parts(kind)
    most = getattr(bounds, "max_length", None)
    origin, inner = get_origin(base) or base, get_args(base)
    if (words := getattr(bounds, "description", None)) is not None:
        return str(words)
    if notation is not None:
        return f"{notation.noun}{_range(bounds, notation.show)}, such as {notation.examples}"
    if isinstance(origin, EnumType):
        return f"one of {', '.join(map(str, origin))}"
    if origin in {int, float}:
        return f"a {'whole ' * (origin is int)}number{_range(bounds, _plain_number)}"
    if origin in {list, tuple}:
        return f"a list{f' of at most {most}' if most else ''}, each {requirement(inner[0])}"
    if origin in {Union, UnionType}:
        return " or ".join(requirement(each) for each in inner if each not in {NoneType, UnsetType})
    if most is not None:
        return (
            f"at most {most} bytes"
            if origin is bytes
            else f"text of {bounds.min_length or 0} to {most} characters"
        )
    return "true or false" if origin is bool else "text"


def problem_with_field(error: msgspec.ValidationError, values: Mapping[str, Any], kind: type[Struct]) -> str:
    """Return which of the values cannot be a field of a Struct, and why, after msgspec has refused them."""
    place = re.search(r" - at `\$\.([^.\[`]+)(?:\[([0-9]+)\])?", str(error))
    if place is None:  # a field is missing or unknown
        return str(error)
    names = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    name, index = place[1], place[2]
    field, value = get_type_hints(kind, include_extras=True)[names[name]], values[name]
    if isinstance(value, dict):  # its values may be secret
        wrong = [key for key in value if not (isinstance(key, str) and isinstance(value[key], str))]
        what = f"{shown(wrong[0])}: {type(value[wrong[0]]).__name__}" if wrong else len(value)
        return f"{name}: must be {requirement(field)}, not {what}"
    if index is not None and isinstance(value, list | tuple):
        return f"{name}[{index}]: {WrongValue(value[int(index)], _item_kind(field))}"
    return f"{name}: {WrongValue(value, field)}"


def shown(value: object) -> str:
    """Return how an error repeats a value that is wrong."""
    text = shorten(repr(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


_LONGEST_SHOWN = 100  # characters


def _parts(kind: Any) -> tuple[Any, Any, Notation | None]:
    """Return the type without its annotations, its bounds and its notation; None for none."""
    base, *others = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    by_type = {type(each): each for each in others}
    return base, by_type.get(msgspec.Meta), by_type.get(Notation)


def _item_kind(kind: Any) -> Any:
    """Return the kind of the items of a list, also where the list is part of a union."""
    base, *_ = _parts(kind)
    if get_origin(base) in {list, tuple}:
        return get_args(base)[0]
    found = (_item_kind(each) for each in get_args(base) if each is not kind)
    return next((each for each in found if each is not None), None)


def _range(bounds: Any, show: Callable[[Any], str]) -> str:
    match bounds:
        case msgspec.Meta(ge=int() | float() as least, le=int() | float() as most):
            return f" from {show(least)} to {show(most)}"
        case msgspec.Meta(gt=int() | float() as least, le=int() | float() as most):
            return f" above {show(least)} and at most {show(most)}"
        case _:
            return ""
