from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.describe import _WEEKDAYS, describe
from bgd.core.when import Kind, parse_when
from tests.cron.lines import line


def words(text: str, kind: Kind = Kind.CRON) -> str:
    return describe(parse_when(text, kind, key=""), "Europe/Paris").removesuffix(", Europe/Paris")


def test_the_words_end_with_the_zone():
    assert (
        describe(parse_when("0 3 * * *", Kind.CRON, key=""), "Europe/Paris")
        == "every day at 03:00, Europe/Paris"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # times
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("0,20,40 * * * *", "every 20 minutes"),
        ("@hourly", "every hour"),
        ("5 * * * *", "every hour at minute 5"),
        ("5,25 * * * *", "every hour at minutes 5 and 25"),
        ("0 */2 * * *", "every 2 hours"),
        ("7 */2 * * *", "every 2 hours at minute 7"),
        ("0 9-17 * * *", "every hour from 09:00 to 17:00"),
        ("30 9-17 * * *", "every hour from 09:30 to 17:30"),
        ("*/15 9-17 * * *", "every 15 minutes from 09:00 to 17:59"),
        ("* 3 * * *", "every minute from 03:00 to 03:59"),
        ("* 3,5 * * *", "every minute in hours 3 and 5"),
        ("*/7 3 * * *", "every hour at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 from 03:00 to 03:59"),
        ("1-5,30 1,2,4 * * *", "every hour at minutes 1 to 5 and 30 in hours 1, 2 and 4"),
        ("0 3 * * *", "every day at 03:00"),
        ("0,30 3 * * *", "every day at 03:00 and 03:30"),
        ("15 6,12,18 * * *", "every day at 06:15, 12:15 and 18:15"),
        # days
        ("@weekly", "every Sunday at 00:00"),
        ("0 9 * * 1-5", "Monday to Friday at 09:00"),
        ("0 9 * * mon,wed", "on Monday and Wednesday at 09:00"),
        ("*/5 * * * mon,wed", "every 5 minutes, on Monday and Wednesday"),
        ("@monthly", "on day 1 of the month at 00:00"),
        ("0 0 1,15 * *", "on days 1 and 15 of the month at 00:00"),
        ("0 0 1-7 * *", "on days 1 to 7 of the month at 00:00"),
        ("@yearly", "on day 1 of January at 00:00"),
        ("0 0 * 6-8 *", "every day in June to August at 00:00"),
        ("0 0 * 1,7 2", "every Tuesday in January and July at 00:00"),
        ("* * * 12 *", "every minute, every day in December"),
        ("0 0 13 * 5", "on day 13 of the month, and every Friday at 00:00"),
        ("0 0 13 6 5", "on day 13 of June, and every Friday in June at 00:00"),
        ("0 0 */10 * 1", "every Monday if it is days 1, 11, 21 and 31 of the month at 00:00"),
        ("0 0 1-31 * 5", "every day at 00:00"),
        ("0 0 1-31 6 5", "every day in June at 00:00"),
        ("0 0 5 * 0-6", "every day at 00:00"),
        ("@reboot", "at each start of the machine"),
    ],
)
def test_cron_expressions_are_said_in_words(text, said):
    assert words(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("*:*:*", "every second"),
        ("12:*:*", "every second from 12:00 to 12:59"),
        ("*:*:30", "every minute, at second 30"),
        ("12:00:0/20", "every day at 12:00, 12:00:20 and 12:00:40"),
        ("12:00:*", "every day at 12:00, at seconds 0 to 59"),
        ("*-*~1 12:00", "on the last day of the month at 12:00"),
        ("*-02~1..3 12:00", "on the last 3 days of February at 12:00"),
        ("*-*~2 12:00", "on day 2 from the end of the month at 12:00"),
        ("*-*~2,4 12:00", "on days 2 and 4 from the end of the month at 12:00"),
        ("2026-12-24 12:00", "on day 24 of December in 2026 at 12:00"),
        ("2026..2028-*-* 12:00", "every day in 2026 to 2028 at 12:00"),
        ("Fri *-*-13 12:00", "every Friday if it is day 13 of the month at 12:00"),
    ],
)
def test_calendar_specs_are_said_in_words(text, said):
    assert words(text, Kind.CALENDAR) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1s", "every second"),
        ("15m", "every 15 minutes"),
        ("1h", "every hour"),
        ("90m", "every 90 minutes"),
        ("1d", "every day"),
        ("90s", "every 90 seconds"),
    ],
)
def test_intervals_are_said_in_words(text, said):
    assert describe(parse_when(text, Kind.EVERY, key=""), "Europe/Paris") == said


def test_the_share_of_the_jitter_is_said():
    when = replace(parse_when("0 3 * * *", Kind.CRON, key=""), delay=90)

    assert describe(when, "UTC") == "every day at 03:00, UTC, 1m30s later on this machine"


@given(st.integers(0, 100_000))
def test_any_expression_is_said_on_one_line(number):
    said = words(line(number))

    assert said.startswith(("every ", "on ", *(f"{day} to " for day in _WEEKDAYS)))
    assert "  " not in said
    assert "\n" not in said
