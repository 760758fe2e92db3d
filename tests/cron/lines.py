"""Crontab lines of every form that crontab(5) allows, made at random but the same for the same number."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from bgd.core.cron import NAMED

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def line(number: int) -> str:
    """Return the expression of a line. Most lines run at night, when clocks change."""
    random = Random(f"crontab line {number}")
    if random.random() < 0.04:
        return random.choice(list(NAMED))
    blank = random.choice([" ", " ", " ", "\t", "  "])
    return blank.join(
        [
            _field(random, 0, 59, star=0.25),
            _hour(random),
            _field(random, 1, 31, star=0.7),
            _field(random, 1, 12, MONTHS, star=0.85),
            _field(random, 0, 7, WEEKDAYS, star=0.7),
        ]
    )


def _hour(random: Random) -> str:
    if random.random() < 0.4:
        return random.choice(
            ["0", "1", "2", "3", "23", "1-3", "0-4", "2,3", "0,23", "1,2", "02", "0-23", "1-3/2"]
        )
    return _field(random, 0, 23, star=0.45)


def _field(random: Random, low: int, high: int, names: list[str] | None = None, *, star: float) -> str:
    if random.random() < star:
        return "*"
    return ",".join(_item(random, low, high, names or []) for _ in range(random.choice([1, 1, 1, 2, 3, 5])))


def _item(random: Random, low: int, high: int, names: list[str]) -> str:
    first = random.randint(low, high)
    last = random.randint(first, high)
    step = random.choice([1, 1, 2, 3, 5, 7, 15, high, high + 20])
    write = _writer(random, low, names)
    return random.choice(
        [
            f"*/{step}",
            write(first),
            write(first),
            f"{write(first)}-{write(last)}",
            f"{write(first)}-{write(last)}/{step}",
            f"{low}-{high}",
        ]
    )


def _writer(random: Random, low: int, names: list[str]) -> Callable[[int], str]:
    """Return how the numbers of an item are written: plain, with a zero, or as names in any case."""
    style = random.choice(["plain", "plain", "zero", "name", "NAME", "Name"])

    def write(number: int) -> str:
        if style == "zero":
            return f"{number:02}"
        if style == "plain" or not low <= number < low + len(names):
            return str(number)
        name = names[number - low]
        return {"name": name, "NAME": name.upper(), "Name": name.title()}[style]

    return write
