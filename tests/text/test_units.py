"""Durations and sizes as people write them are parsed and formatted."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.text.units import format_duration, format_size, parse_duration, parse_past_time, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("0.5", 0.5),
        ("7", 7),
    ],
)
def test_durations_are_parsed(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "5 s", "-5s", "1e3", "inf", "nan", "٣s", "9" * 61, "5s\n"])
def test_malformed_duration_is_refused(text):
    with pytest.raises(ValueError, match="is not a duration: write 500ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (2.5, "2.5s"),
        (59.999, "59.999s"),
        (5400, "1h30m"),
        (90061.5, "1d1h1m1.5s"),
    ],
)
def test_durations_are_formatted(seconds, text):
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_formatted_duration_is_parsed_back_to_the_millisecond(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=0.000_51)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("10B", 10),
        ("500kB", 500_000),
        ("100MB", 10**8),
        ("1.5 GB", 1_500_000_000),
        ("64KiB", 65_536),
        ("1mib", 2**20),
        ("100M", 100 * 2**20),
        ("1.5g", 3 * 2**29),
    ],
)
def test_sizes_are_parsed(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5 parsecs", "-1", "1e6", "5\n"])
def test_malformed_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size: write 500kB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1_500, "1.5kB"),
        (999_499, "999kB"),
        (999_999, "1MB"),
        (20_000_000, "20MB"),
        (5_000_000_000, "5GB"),
        (4_200_000_000_000_000, "4200TB"),
    ],
)
def test_formatted_sizes_are_parsed_back(count, text):
    assert format_size(count) == text
    assert parse_size(text) == pytest.approx(count, rel=0.005)


NOON = 12.0 * 3600


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("1 day", 86400),
        ("2 hours ago", 7200),
        ("3 weeks", 3 * 7 * 86400),
        ("today", NOON),
        ("yesterday", 86400 + NOON),
    ],
)
def test_times_may_be_spelled_out(text, before, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    noon = 20_000 * 86400 + NOON

    assert parse_past_time(text, noon) == noon - before
