from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.cron import NAMED, ExpressionError, parse_cron, share

MONDAY, SATURDAY, SUNDAY = 0, 5, 6


def refusal(text: str) -> str:
    with pytest.raises(ExpressionError) as error:
        parse_cron(text, "key")
    return str(error.value)


@pytest.mark.parametrize(
    ("minute", "values"),
    [
        ("*", tuple(range(60))),
        ("*/20", (0, 20, 40)),
        ("*/100", (0,)),
        ("*/99999999999999999999", (0,)),
        ("7", (7,)),
        ("007", (7,)),
        ("1-3", (1, 2, 3)),
        ("10-20/5", (10, 15, 20)),
        ("5,1-2,*/30", (0, 1, 2, 5, 30)),
        ("5~5", (5,)),
        ("59~", (59,)),
        ("~0", (0,)),
    ],
)
def test_a_field_is_a_list_of_ranges_with_steps(minute, values):
    assert parse_cron(f"{minute} 0 1 1 0", "key").minutes == values


@pytest.mark.parametrize(
    ("weekday", "values"),
    [
        ("0", (SUNDAY,)),
        ("7", (SUNDAY,)),
        ("sun", (SUNDAY,)),
        ("MON", (MONDAY,)),
        ("5-7", (4, SATURDAY, SUNDAY)),
        ("*/6", (SATURDAY, SUNDAY)),
        ("mon-wed,Sat", (MONDAY, 1, 2, SATURDAY)),
    ],
)
def test_weekdays_have_numbers_and_names(weekday, values):
    assert parse_cron(f"0 0 * * {weekday}", "key").weekdays == values


def test_months_have_names():
    assert parse_cron("0 0 1 jan-Mar,DEC *", "key").months == (1, 2, 3, 12)


@pytest.mark.parametrize("text", ["0 3 * * *", "0\t3 \t* * *", "  0 3 * * * "])
def test_blanks_separate_fields(text):
    assert parse_cron(text, "key") == parse_cron("0 3 * * *", "key")


@pytest.mark.parametrize(
    ("days", "either"),
    [("1 * 1", True), ("*/2 * 1", False), ("1 * *", False), ("* * *", False), ("1 * */2", False)],
)
def test_a_day_may_match_either_way_unless_one_of_the_fields_starts_with_a_star(days, either):
    assert parse_cron(f"0 0 {days}", "key").either_day is either


@pytest.mark.parametrize(
    ("text", "is_wildcard"),
    [
        ("* 3 * * *", True),
        ("*/5,1 3 * * *", True),
        ("0 */2 * * *", True),
        ("0 3 * * *", False),
        ("1,*/5 3 * * *", False),
        ("0-59 0-23 * * *", False),
        ("~ 3 * * *", False),
        ("@hourly", True),
        ("@daily", False),
    ],
)
def test_what_starts_with_a_star_in_minute_or_hour_is_a_wildcard(text, is_wildcard):
    assert parse_cron(text, "key").is_wildcard is is_wildcard


@pytest.mark.parametrize("name", NAMED)
def test_names_stand_for_expressions(name):
    assert parse_cron(f" {name} ", "key") == parse_cron(NAMED[name], "key")


@given(st.text(), st.text())
def test_a_random_value_is_in_its_range_and_stays_for_the_same_key(key, other):
    value, same = parse_cron("10~20 0 * * *", key), parse_cron("10~20 0 * * *", key)

    assert value == same
    assert 10 <= value.minutes[0] <= 20
    assert 0 <= share(other) < 1


def test_random_values_spread_evenly_over_keys_fields_and_items():
    minutes = [parse_cron("0~9 0 * * *", f"machine\0{number}").minutes[0] for number in range(2000)]

    assert all(150 < minutes.count(minute) < 250 for minute in range(10))
    assert len({parse_cron("0~59,0~59 ~ * * *", str(number)) for number in range(100)}) == 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 3 * * *", ["six fields", "no seconds", "`calendar`"]),
        ("Mon..Fri 09:00", ["calendar spec", "--calendar"]),
        ("0 3 * *", ["needs five fields, not 4", "'30 3 * * mon'"]),
        ("", ["five fields, not 0"]),
        ("60 3 * * *", ["minute '60' is out of range", "0 to 59"]),
        ("0 24 * * *", ["hour '24' is out of range", "0 to 23"]),
        ("0 0 0 * *", ["day of month '0' is out of range", "1 to 31"]),
        ("0 0 * 13 *", ["month '13'", "1 to 12 or a name such as feb"]),
        ("0 0 * * 8", ["day of week '8'", "0 to 7 or a name such as mon"]),
        ("0 0 * * monday", ["day of week 'monday' is out of range"]),
        ("mon 0 * * *", ["minute 'mon'"]),
        ("0 0 * * mon-8", ["day of week '8' in 'mon-8' is out of range"]),
        ("99999999999999999999 0 * * *", ["minute '99999999999999999999' is out of range"]),
        ("5/15 * * * *", ["minute '5/15' has a step after one number", "write 5-59/15"]),
        ("*/0 * * * *", ["minute '*/0' has a step of 0"]),
        ("1-5/00 * * * *", ["minute '1-5/00' has a step of 0"]),
        ("0 22-2 * * *", ["hour '22-2' ends before it begins", "write 22-23,0-2"]),
        ("0 5~2 * * *", ["hour '5~2' ends before it begins"]),
        ("*5 * * * *", ["minute '*5' goes on after '*', which cron ignores: write *"]),
        ("5-10~20 * * * *", ["minute '5-10~20' goes on after '5-10'"]),
        ("1,,2 * * * *", ["minute ''"]),
        ("0 0 L * *", ["day of month 'L' is out of range"]),
        ("0 0 ? * *", ["day of month '?'", "write *, */2, 1, 1-5, 1-5/2 or 1~5, with 1 to 31"]),
        ("0 0 * * 5#3", ["day of week '5#3'"]),
        ("0 0 1\n* *", ["five fields, not 4"]),
        ("0 0 1\n * *", ["day of month '1\\n'"]),
        ("0\xa00 * * * *", ["minute '0\\xa00'"]),
        ("٣ 0 * * *", ["minute '٣'"]),
        ("@every 5m", ["cron does not know '@every 5m': write 'every 5m'"]),
        ("@Daily", ["'@Daily' is not a name that cron knows", "@daily", "@reboot"]),
        ("@daily x", ["'@daily x'"]),
    ],
)
def test_a_mistake_is_named_with_its_field_and_what_to_write(text, words):
    said = refusal(text)

    assert all(word in said for word in words), said
    assert "\n" not in said
