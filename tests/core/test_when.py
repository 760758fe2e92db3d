from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.cron import ExpressionError
from bgd.core.describe import describe
from bgd.core.occurrences import count_between, due_between
from bgd.core.pattern import Pattern
from bgd.core.schedule_spec import MAX_EXCEPTIONS, MAX_WHEN
from bgd.core.spec import MAX_DURATION
from bgd.core.when import (
    Kind,
    is_excepted,
    parse_exceptions,
    parse_when,
)


def pattern_of(spec: str) -> Pattern:
    rule = parse_when(spec, Kind.CALENDAR, key="").rule
    assert isinstance(rule, Pattern)
    return rule


def refusal(text: str, kind: Kind) -> str:
    with pytest.raises(ExpressionError) as error:
        parse_when(text, kind, key="")
    return str(error.value)


def test_a_cron_expression_keeps_its_text():
    when = parse_when("0 3 * * *", Kind.CRON, key="")

    assert (when.is_wildcard, when.delay) == (False, 0)


def test_the_start_of_the_machine_is_not_a_time():
    when = parse_when(" @reboot", Kind.CRON, key="")

    assert when.rule is None
    assert not when.is_wildcard


@pytest.mark.parametrize(
    ("text", "seconds"), [("15m", 900), ("1h30m", 5400), ("90", 90), ("366d", MAX_DURATION)]
)
def test_an_interval_is_a_duration(text, seconds):
    when = parse_when(text, Kind.EVERY, key="")

    assert when.rule == seconds
    assert when.is_wildcard


@pytest.mark.parametrize("text", ["0", "0.5s", "1.5s", "367d", "9" * 60])
def test_an_interval_is_whole_seconds_within_limits(text):
    assert f"every {text!r} must be whole seconds, from 1s to 366d" in refusal(text, Kind.EVERY)


def test_an_interval_that_is_not_a_duration_is_refused():
    assert "every: 'often' is not a duration: write" in refusal("often", Kind.EVERY)


def test_a_calendar_spec_is_read_as_by_systemd():
    pattern = pattern_of("Mon..Fri 2026-*~01..03 9..11:0/20:30")

    assert pattern_of("daily").years is None
    assert pattern_of("*-*~28/9").days == (-28, -19, -10, -1)
    assert pattern_of("*-*~3/1").days == (-3, -2, -1)
    assert pattern == Pattern(
        hours=(9, 10, 11),
        minutes=(0, 20, 40),
        seconds=(30,),
        days=(-3, -2, -1),
        months=tuple(range(1, 13)),
        weekdays=(0, 1, 2, 3, 4),
        years=(2026,),
        is_wildcard=True,
    )


def test_a_range_ends_at_its_last_step():
    assert pattern_of("*:12..12/7").minutes == (12,)
    assert pattern_of("*:5..9/5").minutes == (5,)
    assert pattern_of("*:8..61/20").minutes == (8, 28, 48)
    assert pattern_of("*-*~1..4/2").days == (-3, -1)


@pytest.mark.parametrize(
    ("spec", "is_wildcard"),
    [
        ("*:00", True),
        ("hourly", True),
        ("Minutely", True),
        ("*-*-* 2:*:00", True),
        ("02:0/15", True),
        ("00/2:30", True),
        ("Mon\t*:30", True),
        ("daily", False),
        ("02:30", False),
        ("02:05/15", False),
        ("*-*-01", False),
        ("Mon", False),
    ],
)
def test_a_calendar_spec_that_repeats_is_a_wildcard(spec, is_wildcard):
    assert parse_when(spec, Kind.CALENDAR, key="").is_wildcard is is_wildcard


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", ["calendar '' is not a calendar spec (wrong number of fields)", "'Mon..Fri 09:00'"]),
        ("25:00", ["bad hour"]),
        ("*-*-* *:*:*:*", ["bad time"]),
        ("*:20/40", ["calendar: the step of '20/40' is too long for its field: write 20"]),
        ("*-*~10/10", ["the step of '10/10' is too long"]),
        ("*:9..8/2", ["bad minute"]),
        ("*:0/0", ["bad minute"]),
        ("*:0..9/0", ["bad minute"]),
        ("daily Europe/Paris", ["a time zone belongs into `timezone = 'Europe/Paris'`"]),
        ("12:00 UTC", ["`timezone = 'UTC'`"]),
        ("x" * (MAX_WHEN + 1), ["calendar has at most 500 characters, not 501"]),
    ],
)
def test_a_mistake_in_a_calendar_spec_is_named(spec, words):
    said = refusal(spec, Kind.CALENDAR)

    assert all(word in said for word in words), said


fragments = st.sampled_from(
    [*"0123456789*/-~,.: ", "..", "mon", "Fri", "@", "daily", "2026", "UTC", "\t", "\n"]
)
texts = st.text(max_size=40) | st.lists(fragments, max_size=30).map("".join)


@given(texts, st.sampled_from(Kind))
def test_any_text_is_either_read_or_refused_on_one_line(text, kind):
    try:
        when = parse_when(text, kind, key="")
    except ExpressionError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both ends are fine
    else:
        assert describe(when, "UTC")
        assert count_between(when, UTC, 0, 1e9) >= bool(due_between(when, UTC, 0, 1e9, 1))


@pytest.mark.parametrize("text", ["," * MAX_WHEN, "~" * MAX_WHEN, "1/" * 250, "9" * MAX_WHEN, "-" * MAX_WHEN])
def test_a_long_calendar_spec_is_refused_in_the_same_way(text):
    assert "is not a calendar spec" in refusal(text, Kind.CALENDAR)


def test_the_share_of_the_jitter_is_fixed_for_a_key_and_spreads_over_all_keys():
    delays = [parse_when("0 3 * * *", Kind.CRON, key=str(key), jitter=300).delay for key in range(1000)]

    assert delays == [parse_when("5m", Kind.EVERY, key=str(key), jitter=300).delay for key in range(1000)]
    assert 0 <= min(delays) < 10
    assert 290 < max(delays) < 300


def test_days_are_left_out_once_or_every_year():
    days = parse_exceptions(["2026-12-24", "12-25", "02-29"])

    assert days == {(2026, 12, 24), (None, 12, 25), (None, 2, 29)}


@pytest.mark.parametrize(
    ("day", "zone", "is_out"),
    [
        (datetime(2026, 12, 24, 12, tzinfo=UTC), "UTC", True),
        (datetime(2027, 12, 24, 12, tzinfo=UTC), "UTC", False),
        (datetime(2027, 12, 25, 12, tzinfo=UTC), "UTC", True),
        (datetime(2027, 12, 25, 23, 30, tzinfo=UTC), "Europe/Berlin", False),
        (datetime(2026, 12, 23, 23, 30, tzinfo=UTC), "Europe/Berlin", True),
    ],
)
def test_the_zone_says_which_day_an_instant_falls_on(day, zone, is_out):
    days = parse_exceptions(["2026-12-24", "12-25"])

    assert is_excepted(days, ZoneInfo(zone), day.timestamp()) is is_out


@pytest.mark.parametrize("text", ["2026-02-29", "13-01", "24.12.", "", "2026-12-24 ", "٢٠٢٦-12-24"])
def test_what_is_not_a_day_is_refused(text):
    with pytest.raises(ExpressionError, match="is not a day: write '2026-12-24', or '12-25' for every year"):
        parse_exceptions([text])


@pytest.mark.parametrize("kind", Kind)
def test_the_length_of_the_text_is_limited(kind):
    assert f"{kind} has at most 500 characters, not 501" in refusal(" " * (MAX_WHEN + 1), kind)


def test_the_number_of_days_is_limited():
    with pytest.raises(ExpressionError, match="lists 401 days, and at most 400 are allowed"):
        parse_exceptions(["12-24"] * (MAX_EXCEPTIONS + 1))
