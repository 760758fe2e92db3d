"""Times on the command line: which moment they mean."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import click
import pytest

from bgctl.options import PAST_TIME, parsed
from bgd.core.spec import Instant

FUTURE_TIME = parsed(Instant)


def meant(text: str) -> float:
    at = FUTURE_TIME.convert(text, None, None)
    assert isinstance(at, float)
    return at


def local(at: float) -> datetime:
    return datetime.fromtimestamp(at).astimezone()


@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris", "America/St_Johns"])
@pytest.mark.parametrize("minutes", [-1, 1])
def test_a_time_of_day_means_its_next_occurrence(monkeypatch, zone, minutes):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    clock = datetime.now().astimezone() + timedelta(minutes=minutes)

    at = meant(f"{clock:%H:%M:%S}")

    assert f"{local(at):%H:%M:%S}" == f"{clock:%H:%M:%S}"
    assert 0 < at - time.time() <= 90_000  # a day has 25 hours when summer time ends
    monkeypatch.undo()
    time.tzset()


def test_tomorrow_is_the_next_day():
    assert local(meant("tomorrow 9:00")).date() == (datetime.now().astimezone() + timedelta(days=1)).date()


def test_a_date_is_local_unless_it_has_a_zone():
    assert meant("2099-10-01T14:30Z") == datetime(2099, 10, 1, 14, 30, tzinfo=UTC).timestamp()
    assert meant("2099-10-01 14:30") == datetime(2099, 10, 1, 14, 30).astimezone().timestamp()


@pytest.mark.parametrize("text", ["", "soon", "25:00", "9:60", "9", "tomorrow", "2099-13-01", "9999999999"])
def test_other_text_is_refused_with_examples(text):
    with pytest.raises(click.BadParameter, match="is not a time: write 14:30, tomorrow 9:00"):
        meant(text)


def test_a_time_in_the_past_is_refused():
    with pytest.raises(click.BadParameter, match="is in the past"):
        meant("2020-01-01")


@pytest.mark.parametrize("kind", [FUTURE_TIME, PAST_TIME])
def test_a_local_time_is_refused_where_the_time_zone_is_unknown(monkeypatch, kind):
    monkeypatch.setenv("TZ", "Mars/Phobos")
    with pytest.raises(click.BadParameter, match="TZ='Mars/Phobos' is not a known time zone"):
        kind.convert("2999-10-01 14:30", None, None)
    assert kind.convert("2999-10-01 14:30Z", None, None) == 32_495_783_400.0
    for known in ("", "UTC", ":Europe/Paris", "CET-1CEST", "<+03>-3"):
        monkeypatch.setenv("TZ", known)
        kind.convert("2999-10-01 14:30", None, None)
