from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.occurrences import END, catch_up, count_between, due_between, next_due
from bgd.core.pattern import Pattern, walls_between
from bgd.core.when import Kind, When, parse_when

PARIS = ZoneInfo("Europe/Paris")
ZONES = [
    "Europe/Paris",
    "America/New_York",
    "America/Sao_Paulo",  # changed at midnight, until 2019
    "Australia/Lord_Howe",  # by 30 minutes
    "Asia/Kolkata",  # never
    "Africa/Casablanca",  # back for a month, then forward
    "Antarctica/Troll",  # by two hours
    "Pacific/Apia",  # a whole day in 2011
]
MINUTE, HOUR, DAY = 60, 3600, 86_400


def cron(text: str, **options) -> When:
    return parse_when(text, Kind.CRON, key="machine/name", **options)


def calendar(text: str) -> When:
    return parse_when(text, Kind.CALENDAR, key="")


def every(text: str, **options) -> When:
    return parse_when(text, Kind.EVERY, key="machine/name", **options)


def at(text: str, zone: ZoneInfo = PARIS) -> float:
    """Return the instant of a wall clock; a * behind it: the second time that the clock shows it."""
    return datetime.fromisoformat(text.rstrip("*")).replace(tzinfo=zone, fold=text.endswith("*")).timestamp()


def on(day: str, when: When, zone: ZoneInfo = PARIS, limit: int = 99) -> list[str]:
    """Return hour and minute of all occurrences of a local day; a * marks a repeated time."""
    begin, end = at(f"{day} 00:00", zone), at(f"{day} 00:00", zone) + 26 * HOUR
    found = [datetime.fromtimestamp(each, zone) for each in due_between(when, zone, begin - 1, end, limit)]
    return [f"{each:%H:%M}{'*' * each.fold}" for each in found if f"{each:%Y-%m-%d}" == day]


# --- ordinary days -------------------------------------------------------------------------------------


def test_the_next_one_is_later_than_now():
    three = at("2026-06-17 03:00")

    assert next_due(cron("0 3 * * *"), PARIS, three - 1) == three
    assert next_due(cron("0 3 * * *"), PARIS, three) == three + DAY


def test_the_zone_says_what_the_time_is():
    assert next_due(cron("0 3 * * *"), ZoneInfo("UTC"), 0) == 3 * HOUR
    assert next_due(cron("0 3 * * *"), ZoneInfo("Asia/Kolkata"), 0) == DAY - 5.5 * HOUR + 3 * HOUR


def test_rare_days_are_found():
    assert next_due(cron("0 0 29 2 *"), PARIS, at("2097-01-01 00:00")) == at("2104-02-29 00:00")


def test_a_date_that_does_not_exist_is_never_due():
    assert next_due(cron("0 0 30 2 *"), PARIS, 0) is None
    assert count_between(cron("0 0 30 2 *"), PARIS, 0, END) == 0


@pytest.mark.parametrize("when", [cron("@hourly"), calendar("*:*:*"), every("1s"), cron("@reboot")])
def test_nothing_is_due_from_the_year_2200_on(when):
    for after in (END - 1, END, 2 * END, 30 * END):
        assert next_due(when, ZoneInfo("UTC"), after) is None
        assert count_between(when, ZoneInfo("UTC"), after, after + DAY) == 0


def test_a_start_of_the_machine_is_never_due():
    assert next_due(cron("@reboot"), PARIS, 0) is None
    assert count_between(cron("@reboot"), PARIS, 0, END) == 0


def test_an_interval_counts_from_the_epoch_so_that_a_restart_moves_nothing():
    assert due_between(every("45m"), PARIS, 100, 9000, 9) == [2700, 5400, 8100]
    assert count_between(every("45m"), PARIS, 2700, 9000) == 2


def test_seconds_of_a_calendar_spec_count():
    assert due_between(calendar("12:00:0/20"), PARIS, at("2026-06-17 12:00"), at("2026-06-17 13:00"), 9) == [
        at("2026-06-17 12:00:20"),
        at("2026-06-17 12:00:40"),
    ]


@pytest.mark.parametrize("when", [cron("0 3 * * *", jitter=600), every("1h", jitter=600)])
def test_jitter_delays_all_alike(when):
    assert when.delay > 0
    plain = replace(when, delay=0)
    due = due_between(when, PARIS, HOUR + when.delay, 10 * DAY, 10)

    assert [each - when.delay for each in due] == due_between(plain, PARIS, HOUR, 10 * DAY, 10)
    assert next_due(when, PARIS, due[3]) == due[4]
    assert count_between(when, PARIS, due[3], due[7]) == 4


# --- nights on which clocks change ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("30 2 * * *", ["03:00"]),
        ("30 1 * * *", ["01:30"]),
        ("0,30 2,3 * * *", ["03:00", "03:00", "03:00", "03:30"]),  # 2:00, 2:30 and 3:00, in this order
        ("*/30 1-3 * * *", ["01:00", "01:30", "03:00", "03:30"]),
        ("30 * 29 3 *", ["00:30", "01:30", *(f"{hour:02}:30" for hour in range(3, 24))]),
    ],
)
def test_in_spring_a_fixed_time_runs_after_the_gap_and_a_wildcard_goes_on(text, due):
    assert on("2026-03-29", cron(text)) == due


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("30 2 * * *", ["02:30"]),
        ("0 3 * * *", ["03:00"]),
        ("*/30 2 * * *", ["02:00", "02:30", "02:00*", "02:30*"]),
        ("59 1-3 * * *", ["01:59", "02:59", "03:59"]),
    ],
)
def test_in_autumn_a_fixed_time_runs_once_and_a_wildcard_goes_on(text, due):
    assert on("2026-10-25", cron(text)) == due


def test_a_calendar_spec_runs_in_spring_although_systemd_leaves_it_out():
    assert on("2026-03-29", calendar("02:30")) == ["03:00"]
    assert on("2026-10-25", calendar("02:30")) == ["02:30"]
    assert on("2026-10-25", calendar("*:0/30"))[2:8] == [
        "01:00",
        "01:30",
        "02:00",
        "02:30",
        "02:00*",
        "02:30*",
    ]


def test_a_shift_of_half_an_hour_skips_and_repeats_half_an_hour():
    zone = ZoneInfo("Australia/Lord_Howe")

    assert on("2026-10-04", cron("15 2 * * *"), zone) == ["02:30"]
    assert on("2026-10-04", cron("*/15 2 * * *"), zone) == ["02:30", "02:45"]
    assert on("2026-04-05", cron("45 1 * * *"), zone) == ["01:45"]
    assert on("2026-04-05", cron("*/15 1 * * *"), zone) == [
        "01:00",
        "01:15",
        "01:30",
        "01:45",
        "01:30*",
        "01:45*",
    ]


def test_clocks_that_change_at_midnight_skip_the_first_hour_of_a_day():
    zone = ZoneInfo("America/Sao_Paulo")

    assert on("2018-11-04", cron("@daily"), zone) == ["01:00"]
    assert on("2019-02-16", cron("30 23 * * *"), zone) == ["23:30"]
    assert on("2019-02-17", cron("0 0 * * *"), zone) == ["00:00"]


def test_a_day_that_a_zone_leaves_out_is_lost():
    zone = ZoneInfo("Pacific/Apia")
    noon = cron("0 12 * * *")
    days = [
        datetime.fromtimestamp(each, zone).day
        for each in due_between(noon, zone, at("2011-12-28 18:00", zone), END, 3)
    ]

    assert days == [29, 31, 1]


def test_a_day_that_a_zone_repeats_runs_again():
    noon = cron("0 12 * * *")
    due = due_between(noon, CrossingTheDateLine(), 8.5 * DAY, 12 * DAY, 9)

    assert due == [9 * DAY, 10 * DAY, 11 * DAY, 12 * DAY]


class CrossingTheDateLine(tzinfo):
    """Goes from UTC+12 to UTC-12 after ten days, so that its clocks show the same 24 hours again."""

    def fromutc(self, dt: datetime) -> datetime:
        is_over = dt.replace(tzinfo=UTC).timestamp() >= 10 * DAY
        return dt.replace(fold=is_over) + timedelta(hours=-12 if is_over else 12)

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(hours=-12 if dt and dt.fold else 12)

    def dst(self, dt: datetime | None) -> None:  # noqa: ARG002 - as in tzinfo
        return None

    def tzname(self, dt: datetime | None) -> None:  # noqa: ARG002 - as in tzinfo
        return None


def test_skipped_times_have_instants_of_their_own_within_a_second():
    begin = at("2026-03-29 03:00")
    times = due_between(calendar("2:0..59:0..59"), PARIS, begin - DAY / 4, begin + DAY / 4, 9999)

    assert len(times) == 3600
    assert all(one < other for one, other in pairwise(times))
    assert times[0] == begin
    assert times[-1] < begin + 1


# --- laws ----------------------------------------------------------------------------------------------

expressions = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "30 2 * * *",
        "0,30 0-3,23 * * *",
        "15 */5 * * *",
        "0-59 1-2 * * sun",
        "0 0 1,15 * 5",
        "@hourly",
    ]
)
whens = st.builds(cron, expressions) | st.builds(
    calendar, st.sampled_from(["2:0..9:0/7", "*:0/5:30", "Sun 2..3:30"])
)
changes = st.sampled_from(
    ["2026-03-29", "2026-10-25", "2026-04-05", "2026-10-04", "2018-11-04", "2019-02-17", "2026-06-17"]
)
moments = st.builds(
    lambda day, seconds: datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() + seconds,
    changes,
    st.integers(-DAY, DAY) | st.floats(-DAY, DAY),
)


@given(whens, st.sampled_from(ZONES).map(ZoneInfo), moments, st.floats(0, 3 * DAY))
def test_counting_next_and_listing_agree(when, zone, after, length):
    due = due_between(when, zone, after, after + length, 10_000)

    assert all(one < other for one, other in pairwise([after, *due]))
    assert count_between(when, zone, after, after + length) == len(due)
    if due:
        middle = due[len(due) // 2]
        assert next_due(when, zone, after) == due[0]
        rest = [each for each in due if each > middle]
        assert due_between(when, zone, middle, after + length, 10_000) == rest
        assert count_between(when, zone, middle, after + length) == len(rest)
        assert count_between(when, zone, after, middle) == len(due) - len(rest)


@given(expressions, st.sampled_from(ZONES[:-1]).map(ZoneInfo), moments)
def test_minutes_are_those_of_a_clock_that_is_looked_at_every_minute(expression, zone, after):
    """The rule of Debian's cron, in its plainest form: walk through the minutes of a clock."""
    when = cron(expression)
    assert isinstance(when.rule, Pattern)
    first = int(after) // MINUTE + 1
    minutes = range(first * MINUTE, first * MINUTE + DAY // 4, MINUTE)
    named = set(walls_between(when.rule, minutes[0] - DAY, minutes[-1] + DAY))
    seen = max(wall_clock(zone, minutes[0] - back * MINUTE) for back in range(1, 181))
    ran = []
    for now in minutes:
        wall = wall_clock(zone, now)
        missed = [wall] if when.is_wildcard else range(seen + MINUTE, wall + 1, MINUTE)
        ran += [now for each in missed if each in named]
        seen = max(seen, wall)

    due = due_between(when, zone, minutes[0] - 1, minutes[-1] + 1, 10_000)

    assert [int(each) for each in due] == ran


def wall_clock(zone: ZoneInfo, now: float) -> int:
    offset = datetime.fromtimestamp(now, zone).utcoffset()
    assert offset is not None
    return int(now + offset.total_seconds())


def test_ten_years_of_minutes_are_counted_across_all_changes():
    begin = at("2026-01-01 00:00")

    assert count_between(cron("* * * * *"), PARIS, begin, at("2036-01-01 00:00")) == 3652 * 24 * 60
    assert count_between(cron("30 2 * * *"), PARIS, begin, at("2036-01-01 00:00")) == 3652
    assert count_between(cron("30 2 * * *"), PARIS, begin, begin) == 0


# --- the clock is set ----------------------------------------------------------------------------------


def after_step(
    before: str, now: str, seen: str | None = None, zone: ZoneInfo = PARIS
) -> tuple[list[str], list[str]]:
    """Return the next three minutes of a wildcard and of fixed times for every minute, after a step."""
    step = catch_up(zone, at(seen or before, zone), at(before, zone), at(now, zone))
    found = []
    for when in (cron("* * * * *"), cron("0-59 0-23 * * *")):
        due = due_between(when, zone, step.after(when), END, 3)
        found.append([f"{datetime.fromtimestamp(each, zone):%H:%M}" for each in due])
    return found[0], found[1]


@pytest.mark.parametrize(
    ("before", "now", "wildcards", "fixed"),
    [
        # within a minute, and by less than cron notices
        ("10:00:20", "10:00:50", "10:01", "10:01"),
        ("10:00:50", "10:00:20", "10:01", "10:01"),
        ("10:00:10", "09:59:50", "10:01", "10:01"),
        # forward
        ("10:00:30", "10:01:30", "10:01", "10:01"),
        ("10:00:30", "10:04:30", "10:01", "10:01"),
        ("10:00:30", "10:05:30", "10:06", "10:01"),
        ("10:00:30", "12:59:30", "13:00", "10:01"),
        ("10:00:30", "13:00:30", "13:01", "13:01"),
        ("10:00:30", "23:00:30", "23:01", "23:01"),
        # back
        ("10:00:30", "09:59:30", "10:01", "10:01"),
        ("10:00:30", "09:58:30", "09:59", "10:01"),
        ("10:00:30", "07:00:30", "07:01", "10:01"),
        ("10:00:30", "06:59:30", "07:00", "07:00"),
    ],
)
def test_a_step_of_the_clock_is_treated_as_by_debians_cron(before, now, wildcards, fixed):
    after = after_step(f"2026-06-17 {before}", f"2026-06-17 {now}")

    assert (after[0][0], after[1][0]) == (wildcards, fixed)


def test_what_was_seen_stays_seen_while_the_clock_is_behind():
    back = catch_up(PARIS, at("2026-06-17 10:00:30"), at("2026-06-17 10:00:30"), at("2026-06-17 09:00:30"))

    assert back.seen == at("2026-06-17 10:00:30")
    again = catch_up(PARIS, back.seen, at("2026-06-17 09:10:30"), at("2026-06-17 09:30:30"))
    assert again.seen == back.seen
    assert again.fixed_after == back.seen
    beyond = catch_up(PARIS, back.seen, at("2026-06-17 09:10:30"), at("2026-06-17 10:02:30"))
    assert beyond.wildcards_after == beyond.fixed_after == back.seen
    assert beyond.seen == at("2026-06-17 10:02:30")
    small = catch_up(PARIS, back.seen, at("2026-06-17 09:10:30"), at("2026-06-17 09:10:35"))
    assert small.seen == small.fixed_after == back.seen
    assert small.wildcards_after == at("2026-06-17 09:10:30")


def test_what_a_long_step_leaves_out_can_be_counted():
    before, now = at("2026-06-17 10:00:30"), at("2036-06-17 10:00:30")
    step = catch_up(PARIS, before, before, now)

    assert count_between(cron("* * * * *"), PARIS, before, step.wildcards_after) == 3653 * 24 * 60


def test_a_step_across_a_gap_counts_the_minutes_of_the_wall_clock():
    slept_two_hours = after_step("2026-03-29 01:00:30", "2026-03-29 04:00:30")
    slept_three_hours = after_step("2026-03-29 01:00:30", "2026-03-29 05:00:30")

    assert slept_two_hours == (["04:01", "04:02", "04:03"], ["04:01", "04:02", "04:03"])
    assert slept_three_hours == (["05:01", "05:02", "05:03"], ["05:01", "05:02", "05:03"])
    assert after_step("2026-03-29 01:00:30", "2026-03-29 03:59:30")[1] == ["01:01", "01:02", "01:03"]


def test_a_step_within_a_repeated_hour_starts_no_fixed_time_and_only_the_minute_of_a_wildcard():
    assert after_step("2026-10-25 02:30:30*", "2026-10-25 02:33:30*") == (
        ["02:34", "02:35", "02:36"],
        ["03:00", "03:01", "03:02"],
    )


@pytest.mark.parametrize("zone", [ZoneInfo("UTC"), UTC, ZoneInfo("Africa/Monrovia")])  # 44 m 30 s until 1972
def test_offsets_may_be_missing_or_odd(zone):
    due = due_between(cron("0 0 * * *"), zone, 0, 800 * DAY, 999)

    assert {datetime.fromtimestamp(each, zone).strftime("%H:%M") for each in due} <= {"00:00", "00:44"}
    assert 799 <= len(due) <= 801
