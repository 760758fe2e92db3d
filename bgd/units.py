"""Durations, sizes and numbers as people write them in the configuration and on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

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
    if problem := problem_with_zone_of(at):
        raise ValueError(f"{text!r} {problem}")
    return instant


def problem_with_zone_of(at: datetime) -> str | None:
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


def text_reader(kind: Any, rule: str, read: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """Return a function that reads a value of a type with limits; `rule` describes them in its ValueError."""

    def parse(text: str) -> Any:
        try:
            return msgspec.convert(read(text), kind, strict=False)  # numbers are text
        except (msgspec.ValidationError, UnicodeEncodeError):  # or bytes that are not UTF-8
            verb = "is" if rule.startswith("neither ") else "is not"
            raise ValueError(f"{text!r} {verb} {rule}") from None

    return parse


def whole_number_reader(kind: Any) -> Callable[[str], Any]:
    """Return a function that reads a whole number within the limits of its type."""
    [limits] = kind.__metadata__
    return text_reader(kind, f"a whole number from {limits.ge} to {limits.le}")
