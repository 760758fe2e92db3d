"""Cron expressions, as Debian's cron reads them.

What Debian's cron does, measured on the program itself (3.0pl1-197):

* Five fields: minute, hour, day of month, month, day of week. Names of months and days have three letters, in
  any case. Sunday is 0 or 7.
* A field is a list of `*`, `*/STEP`, `A`, `A-B`, `A-B/STEP`. A step after a single number is an error.
* If the day of month or the day of week *starts with* `*`, both have to match, otherwise either is enough. So
  `*/2` counts as a star: `0 0 */2 * 1` runs on Mondays with an odd date.
* An expression whose minute or hour starts with `*` is a wildcard; bgd.core.occurrences says what follows.

It accepts some mistakes silently. They are refused here, because they do not run as written: text after a
valid item is ignored (`*5` is `*`, `0~59` is `0`), and `22-2` never runs.

Beyond Debian: `A~B` is one value from A to B, as in cronie. cronie chooses again at each start; here the
caller's key fixes it for the machine and the schedule.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from msgspec import Struct

from bgd.core.pattern import Pattern

NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
REBOOT = "@reboot"
"""Once after each boot. It names no time, so it is not an expression of this module."""


class ExpressionError(ValueError):
    """The text does not say when; the message is one line that names the part and the remedy."""


class _Field(Struct, frozen=True):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The words for the numbers and names that the field takes."""
        names = f" or a name such as {self.names[1]}" if self.names else ""
        return f"{self.low} to {self.high}{names}"


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _WEEKDAYS),
)
_ITEM = re.compile(
    r"(?P<star>\*)(?:/(?P<every>[0-9]+))?"
    r"|(?P<least>[0-9A-Za-z]*)~(?P<most>[0-9A-Za-z]*)"
    r"|(?P<first>[0-9A-Za-z]+)(?:-(?P<last>[0-9A-Za-z]+))?(?:/(?P<step>[0-9]+))?",
    re.ASCII,
)


def parse_cron(text: str, key: str) -> Pattern:
    """Read a cron expression, or an @name except @reboot.

    `key` chooses the values of `A~B`: the same key, the same values.

    Raises:
        ExpressionError: the text is not an expression.
    """
    words = _words_of(text)
    minutes, hours, days, months, weekdays = (
        _values(field, word, f"{key}\0{field.name}" if "~" in word else "")
        for field, word in zip(_FIELDS, words, strict=True)
    )
    return Pattern(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=tuple(sorted({(day - 1) % 7 for day in weekdays})),  # 0 and 7 are Sunday
        either_day=not words[2].startswith("*") and not words[4].startswith("*"),
        is_wildcard=words[0].startswith("*") or words[1].startswith("*"),
    )


def share(key: str) -> float:
    """Return a number from 0 to below 1 that depends only on the key and varies randomly between keys."""
    return int.from_bytes(sha256(key.encode()).digest()[:6]) / 2**48


def _words_of(text: str) -> list[str]:
    words = re.findall(r"[^ \t]+", text)
    if words and words[0].startswith("@"):
        name = " ".join(words)
        if words[0] == "@every":
            raise ExpressionError(f"cron does not know {text!r}: write {name[1:]!r}")
        if name not in NAMED:
            known = ", ".join([*NAMED, REBOOT])
            raise ExpressionError(f"{text!r} is not a name that cron knows: known are {known}")
        return NAMED[name].split()
    if len(words) == len(_FIELDS) + 1:
        raise ExpressionError(
            f"{text!r} has six fields: Debian's cron has no seconds and no years; "
            "write minute, hour, day of month, month and day of week, or use `calendar` for seconds"
        )
    if len(words) < len(_FIELDS) and ":" in text:
        raise ExpressionError(
            f"{text!r} is a calendar spec as systemd has them: use `calendar` (bgctl: --calendar)"
        )
    if len(words) != len(_FIELDS):
        raise ExpressionError(
            f"{text!r} needs five fields, not {len(words)}: write minute, hour, day of month, month and "
            "day of week, for example '30 3 * * mon'"
        )
    return words


@lru_cache(maxsize=2_000)  # thousands of schedules share a few hundred words
def _values(field: _Field, word: str, key: str) -> tuple[int, ...]:
    values: set[int] = set()
    for index, item in enumerate(word.split(",")):
        values.update(_range(field, item, f"{key}\0{index}"))
    return tuple(sorted(values))


def _range(field: _Field, item: str, key: str) -> range:
    """Return the values of one item of a list."""
    match = _ITEM.fullmatch(item)
    if match is None:
        valid = _ITEM.match(item)
        if valid and valid[0]:
            raise ExpressionError(
                f"{field.name} {item!r} goes on after {valid[0]!r}, which cron ignores: write {valid[0]}"
            )
        raise ExpressionError(
            f"{field.name} {item!r} is not what Debian's cron reads: write *, */2, 1, 1-5, 1-5/2 or 1~5, "
            f"with {field.allowed}"
        )
    if match["star"]:
        return range(field.low, field.high + 1, _step(field, item, match["every"]))
    if match["first"] is None:
        low = _number(field, item, match["least"]) if match["least"] else field.low
        high = _number(field, item, match["most"]) if match["most"] else field.high
        _refuse_backwards(field, item, low, high)
        value = low + int(share(key) * (high - low + 1))
        return range(value, value + 1)
    first = _number(field, item, match["first"])
    if match["last"] is None:
        if match["step"]:
            raise ExpressionError(
                f"{field.name} {item!r} has a step after one number, which Debian's cron refuses: "
                f"write {match['first']}-{field.high}/{match['step']}"
            )
        return range(first, first + 1)
    last = _number(field, item, match["last"])
    _refuse_backwards(field, item, first, last)
    return range(first, last + 1, _step(field, item, match["step"]))


def _number(field: _Field, item: str, text: str) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + field.low
    number = int(text) if text.isdigit() else -1
    if not field.low <= number <= field.high:
        where = "" if text == item else f" in {item!r}"
        raise ExpressionError(f"{field.name} {text!r}{where} is out of range: write {field.allowed}")
    return number


def _step(field: _Field, item: str, text: str | None) -> int:
    if text is None:
        return 1
    if (step := int(text)) == 0:
        raise ExpressionError(f"{field.name} {item!r} has a step of 0: write 1 or more after the /")
    return step  # beyond the range it takes its first value


def _refuse_backwards(field: _Field, item: str, first: int, last: int) -> None:
    if first > last:
        raise ExpressionError(
            f"{field.name} {item!r} ends before it begins, so Debian's cron would never run it: "
            f"write {first}-{field.high},{field.low}-{last}"
        )
