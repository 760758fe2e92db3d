"""Calendar specs mean what systemd says they mean, except in the hour that clocks skip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from random import Random
from zoneinfo import ZoneInfo

import pytest

from bgd.core.cron import ExpressionError
from bgd.core.occurrences import due_between
from bgd.core.when import Kind, parse_when

BASE = "2026-03-28 00:00:00"
END = datetime(2199, 1, 1, tzinfo=UTC).timestamp()
COUNT = 8
SPECS = [
    *("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly", "annually"),
    *("Mon", "Sat,Sun 12:00", "Mon..Fri 09:00", "Fri *-*-13", "Mon *-05~07/1", "*-*~1 12:00", "*-02~1..3"),
    *("*:0/7", "*:*:0/20", "2..5:00,30", "0/6:30", "2/5:15", "*-01,07-01..05 00:00", "2026-12-24", "27-*-29"),
    *(
        "*:0..0/5",
        "*:12..12/7",
        "23:8..61/20",
        "*-*~10/9",
        "*-*~28/27",
        "*-*~1..3/3",
        "*-*~1..4/2",
        "2026/170-1-1",
    ),
    *("*:14/20,30..31/40", "*:*:5..9/5", "1..11/2-1"),
    *("*-02-29 03:00", "*-02-30", "*-*-1..31/10 1:2:3", "Wed 2026..2028-06-17"),
]
REFUSED = [
    "",
    "25:00",
    "1:60",
    "13-01",
    "*-*-32",
    "Foo",
    "1:2:3:4",
    "5..1:00",
    "*/2:00",
    "1:00 2:00",
    "0/0:00",
    "*:20/40",
    "0/24:00",
    "*:*:0/60",
    "*-1/12-1",
    "*-*-1/31",
    "*-*~1/1",
    "*-*~10/10",
    "2026/174-1-1",
    "*:0..10/0",
    "*:9..8/2",
]


@pytest.fixture(scope="module", autouse=True)
def analyze() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NOT COMPARED WITH SYSTEMD: systemd-analyze is not installed")


def elapses(spec: str, zone: str) -> list[float] | None:
    """Return the first instants that systemd computes after BASE in a zone; None: it refuses the spec."""
    done = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={COUNT}", f"--base-time={BASE}", "--", spec],
        env=os.environ | {"TZ": zone, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "Next elapse" not in done.stdout and "never" not in done.stdout:
        return None
    found = re.findall(r"(?:Next elapse|Iteration #\d+): (?!never).*\n(?:.*\(in UTC\): .*\n)?", done.stdout)
    return [_instant(text) for text in found]


def _instant(text: str) -> float:
    """Return the instant of a line such as `Next elapse: Tue 2026-04-28 00:30:00 UTC`."""
    match = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", text)
    assert match is not None, text
    return datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp()


def ours(spec: str, zone: str) -> list[float]:
    base = datetime.fromisoformat(BASE).replace(tzinfo=ZoneInfo(zone)).timestamp()
    return due_between(parse_when(spec, Kind.CALENDAR, key=""), ZoneInfo(zone), base, END, COUNT)


@pytest.mark.parametrize("spec", SPECS)
def test_specs_elapse_as_systemd_says(spec):
    assert ours(spec, "UTC") == elapses(spec, "UTC")


@pytest.mark.parametrize("number", range(120))
def test_random_specs_elapse_or_are_refused_as_in_systemd(number):
    random = Random(f"calendar {number}")
    spec = f"{weekday(random)}{date(random)} {part(random, 23)}:{part(random, 59)}:{part(random, 59)}"

    theirs = elapses(spec, "UTC")

    if theirs is None:
        with pytest.raises(ExpressionError):
            parse_when(spec, Kind.CALENDAR, key="")
    else:
        assert ours(spec, "UTC") == theirs, spec


def weekday(random: Random) -> str:
    return random.choice(["", "", "Mon ", "Tue..Thu ", "Sat,Sun ", "Friday, ", "sun "])


def date(random: Random) -> str:
    year = random.choice(["*", "*", "2026", "2027..2030", "2026/2"])
    return f"{year}-{part(random, 12, 1)}-{part(random, 28, 1)}"


def part(random: Random, high: int, low: int = 0) -> str:
    first, step = random.randint(low, high), random.randint(1, 9)
    last = random.randint(first, high)
    forms = [
        "*",
        "*",
        f"{first}",
        f"{first:02},{last}",
        # systemd refuses A..A in seconds only, which looks like a mistake of its own
        f"{first}..{max(last, min(first + 1, high))}",
        f"{low}/{step}",
        f"{random.randint(low, high // 2)}/{random.randint(1, high + 1)}",
        f"{first}..{first}/{step}",
        f"{first}..{last}/{step}",
    ]
    return random.choice(forms)


@pytest.mark.parametrize("spec", REFUSED)
def test_what_systemd_refuses_is_refused(spec):
    assert elapses(spec, "UTC") is None
    with pytest.raises(ExpressionError):
        parse_when(spec, Kind.CALENDAR, key="")


def test_a_skipped_time_runs_after_the_gap_although_systemd_leaves_it_out():
    theirs = elapses("02:30", "Europe/Berlin")
    after_the_gap = datetime(2026, 3, 29, 3, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert theirs is not None

    assert after_the_gap not in theirs
    assert [at for at in ours("02:30", "Europe/Berlin") if at != after_the_gap] == theirs[: COUNT - 1]
