"""What runs when is compared with Debian's cron itself.

`make cron-oracle` compares 1,000 lines; by themselves, the tests compare the first 20.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from bgd.core.cron import ExpressionError, parse_cron
from bgd.core.occurrences import catch_up, due_between
from bgd.core.when import Kind, When, parse_when
from tests.cron.debian import Debian, Steps, reason_to_skip
from tests.cron.lines import line

LINES = int(os.environ.get("CRON_LINES", "20"))
AT_ONCE = 10  # lines of a test
MINUTE, HOUR, DAY = 60, 3600, 86_400
PLENTY = 10_000

NIGHTS = {
    "Europe/Berlin": ("2026-03-29", "2026-10-25", "2026-06-17"),
    "America/New_York": ("2026-03-08", "2026-11-01", "2026-06-17"),
    "Australia/Lord_Howe": ("2026-10-04", "2026-04-05", "2026-06-17"),  # by 30 minutes
    "America/Sao_Paulo": ("2018-11-04", "2019-02-17", "2018-06-20"),  # at midnight
    "Asia/Kolkata": ("2026-03-29", "2026-10-25", "2026-06-17"),  # never; nights of others
}
ODD_NIGHTS = {
    "Antarctica/Troll": ("2026-03-29", "2026-10-25"),  # by two hours
    "Europe/Dublin": ("2026-03-29", "2026-10-25"),  # whose winter time is the exception
    "Pacific/Apia": ("2011-12-30",),  # a day that does not exist
}


@pytest.fixture(scope="module")
def debian(tmp_path_factory) -> Debian:
    if reason := reason_to_skip():
        pytest.skip(reason)
    return Debian(tmp_path_factory.mktemp("cron"))


def window(zone: ZoneInfo, day: str) -> tuple[int, int]:
    """Return noon of the day before and of the day after."""
    midnight = int(datetime.fromisoformat(day).replace(tzinfo=zone).timestamp())
    return midnight - 12 * HOUR, midnight + 36 * HOUR


def cron(text: str) -> When:
    return parse_when(text, Kind.CRON, key="")


@pytest.mark.parametrize("first", range(0, LINES, AT_ONCE))
@pytest.mark.parametrize("name", NIGHTS)
def test_lines_run_in_the_same_minutes_in_ordinary_and_other_nights(debian, name, first):
    zone = ZoneInfo(name)
    cases = [(line(number), day) for number in range(first, first + AT_ONCE) for day in NIGHTS[name]]

    assert differences(debian, zone, cases) == []


@pytest.mark.parametrize("name", ODD_NIGHTS)
def test_odd_changes_of_clocks_are_treated_the_same(debian, name):
    texts = [
        "30 2 * * *",
        "*/20 1-3 * * *",
        "0,15 0-4 * * *",
        "@hourly",
        "@daily",
        "0 12 * * *",
        "59 23 30 * 5",
    ]

    assert (
        differences(debian, ZoneInfo(name), [(text, day) for text in texts for day in ODD_NIGHTS[name]]) == []
    )


def differences(debian: Debian, zone: ZoneInfo, cases: list[tuple[str, str]]) -> list[str]:
    def difference(case: tuple[str, str]) -> Iterator[str]:
        text, day = case
        start, end = window(zone, day)
        answer = debian.run(f"{text} command\n", zone, start, end)
        ours = [
            datetime.fromtimestamp(at // MINUTE * MINUTE, zone)
            for at in due_between(cron(text), zone, start, end - 1, PLENTY)
        ]
        theirs = [real_minute(run.minute, run.at, zone) for run in answer.runs]
        if answer.complaints or Counter(map(str, ours)) != Counter(map(str, theirs)):
            yield f"{text!r} on {day}: {answer.complaints or (ours, theirs)}"

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [found for each in threads.map(lambda case: list(difference(case)), cases) for found in each]


def real_minute(minute: datetime, at: int, zone: ZoneInfo) -> datetime:
    """Return the minute of the wall clock that cron worked on, or for one that the clocks skip the next."""
    now = datetime.fromtimestamp(at, zone)
    if now.replace(tzinfo=None, second=0, fold=0) == minute:
        return now.replace(second=0)
    found = minute.replace(tzinfo=zone)
    while datetime.fromtimestamp(found.timestamp(), zone).replace(tzinfo=None) != minute:
        minute += timedelta(minutes=1)
        found = minute.replace(tzinfo=zone)
    return found


# --- expressions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("60 3 * * *", "0-60 3 * * *", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8", "0 24 * * *"),
        *("5/15 * * * *", "*/0 3 * * *", "1-5/0 3 * * *", "1,,2 3 * * *", ",1 3 * * *", "1, 3 * * *"),
        *("1- 3 * * *", "-5 3 * * *", "+5 3 * * *", "5a 3 * * *", "mon 3 * * *", "0 3 L * *", "0 3 ? * *"),
        *("0 3 * June *", "0 3 * * wednesday", "99999999999 3 * * *", "@Daily", "@every_minute", "0 3 * *"),
    ],
)
def test_what_cron_refuses_is_refused(debian, text):
    assert debian.run(f"{text} command\n", ZoneInfo("UTC"), 0, DAY).complaints
    with pytest.raises(ExpressionError):
        parse_cron(text, "")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("*5 3 * * *", "* 3 * * *"),
        ("**,5 3 * * *", "* 3 * * *"),
        ("*/2-3 3 * * *", "*/2 3 * * *"),
        ("5-10~20 3 * * *", "5-10 3 * * *"),
        ("1-2-3 3 * * *", "1-2 3 * * *"),
        ("1-5/2/2 3 * * *", "1-5/2 3 * * *"),
        ("0 3 * * 5#3", "0 3 * * 5"),
        ("22-2 3 * * *", None),
        ("0 3 * * sat-sun", None),
    ],
)
def test_mistakes_that_cron_reads_in_its_own_way_are_refused(debian, text, meaning):
    answer = debian.run(f"{text} command\n", ZoneInfo("UTC"), 0, DAY)
    meant = due_between(cron(meaning), ZoneInfo("UTC"), 0, DAY - 1, PLENTY) if meaning else []

    assert answer.complaints == []
    assert [run.at // MINUTE * MINUTE for run in answer.runs] == meant
    with pytest.raises(ExpressionError):
        parse_cron(text, "")


def test_a_random_minute_is_the_first_one_for_debians_cron(debian):
    answer = debian.run("10~20 3 * * * command\n", ZoneInfo("UTC"), 0, DAY)

    assert [run.minute.minute for run in answer.runs] == [10]


# --- the clock is set --------------------------------------------------------------------------------------

SIZES = [-600, -181, -180, -179, -60, -2, -1, 1, 4, 5, 6, 60, 178, 179, 180, 181, 600]  # minutes
STEPPED = [
    "* * * * *",
    "0-59 0-23 * * *",
    "*/7 * * * *",
    "13 */2 * * *",
    "@hourly",
    "1,31 0-23/2 * * *",
    "30 3 * * *",
]


@pytest.mark.parametrize("minutes", SIZES)
@pytest.mark.parametrize("seconds", [-20, 20])
def test_after_a_step_of_the_clock_the_same_minutes_run(debian, minutes, seconds):
    start, end = window(ZoneInfo("UTC"), "2026-06-17")
    steps = {start + 14 * HOUR + 30: minutes * MINUTE + seconds}

    assert step_differences(debian, ZoneInfo("UTC"), start, end, STEPPED, steps) == []


@pytest.mark.parametrize("number", range(max(LINES // 10, 1)))
def test_after_several_steps_in_any_night_the_same_minutes_run(debian, number):
    random = Random(f"steps {number}")
    name = random.choice(list(NIGHTS))
    start, end = window(ZoneInfo(name), random.choice(NIGHTS[name]))
    steps, at = {}, start
    for _ in range(4):
        at += random.randint(240, 420) * MINUTE
        at += 30 - at % MINUTE  # cron wakes up a second after the minute, so not there
        by = random.choice(SIZES) * MINUTE + random.choice([-20, 0, 20])
        steps[at] = by
        at += by
    texts = [line(random.randrange(1000)) for _ in range(10)] + STEPPED

    assert step_differences(debian, ZoneInfo(name), start, end, texts, steps) == []


def step_differences(
    debian: Debian, zone: ZoneInfo, start: int, end: int, texts: list[str], steps: Steps
) -> list[str]:
    found = []
    for text in texts:
        runs = debian.run(f"{text} command\n", zone, start, end, steps).runs
        theirs = Counter(f"{real_minute(run.minute, run.at, zone):%m-%d %H:%M}" for run in runs)
        ours = Counter(
            f"{datetime.fromtimestamp(at, zone):%m-%d %H:%M}"
            for at in with_steps(cron(text), zone, start, end, steps)
        )
        if ours != theirs:
            found.append(f"{text!r} with {steps}: only ours {ours - theirs}, only cron's {theirs - ours}")
    return found


def with_steps(when: When, zone: ZoneInfo, start: int, end: int, steps: Steps) -> list[float]:
    """Return what runs if a program follows `catch_up`."""
    due: list[float] = []
    after, seen = float(start), float(start)
    for at, by in steps.items():
        due += due_between(when, zone, after, at, PLENTY)
        step = catch_up(zone, max(seen, at), at, at + by)
        after, seen = step.after(when), step.seen
    return due + due_between(when, zone, after, end - 1, PLENTY)
