from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.pattern import DAY, Pattern, count_walls, matching_days, walls_between

EPOCH = date(1970, 1, 1)
TODAY = (date(2026, 6, 17) - EPOCH).days
END = (date(2200, 1, 1) - EPOCH).days


def sorted_tuples(low: int, high: int, most: int = 99) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(low, high), min_size=1, max_size=most).map(
        lambda values: tuple(sorted(values))
    )


patterns = st.builds(
    Pattern,
    hours=sorted_tuples(0, 23),
    minutes=sorted_tuples(0, 59, most=5),
    seconds=sorted_tuples(0, 59, most=3),
    days=sorted_tuples(1, 31) | sorted_tuples(-28, -1) | st.just(tuple(range(1, 32))),
    months=sorted_tuples(1, 12),
    weekdays=sorted_tuples(0, 6) | st.just(tuple(range(7))),
    years=st.none() | sorted_tuples(2024, 2030),
    either_day=st.booleans(),
    is_wildcard=st.booleans(),
)
instants = st.integers(TODAY * DAY, (TODAY + 400) * DAY)


def pattern(**parts):
    values = {
        "hours": (3,),
        "minutes": (0,),
        "days": tuple(range(1, 32)),
        "months": tuple(range(1, 13)),
        "weekdays": tuple(range(7)),
        "is_wildcard": False,
        **parts,
    }
    return Pattern(**values)


def dates(which: Pattern, first: date, count: int) -> list[str]:
    days = matching_days(which, (first - EPOCH).days)
    return [(EPOCH + timedelta(next(days))).isoformat() for _ in range(count)]


def is_meant(which: Pattern, day: date) -> bool:
    """Tell by the words of the docstring whether a pattern names a day."""
    last = (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    on_date = day.day in which.days or day.day - last.day - 1 in which.days
    on_weekday = day.weekday() in which.weekdays
    is_day = (on_date or on_weekday) if which.either_day else (on_date and on_weekday)
    return is_day and day.month in which.months and (which.years is None or day.year in which.years)


@given(patterns, st.integers(TODAY - 400, TODAY + 400))
def test_the_days_of_a_pattern_match_its_dates_and_weekdays(which, day):
    is_found = next(matching_days(which, day), None) == day

    assert is_found is is_meant(which, EPOCH + timedelta(day))


@given(patterns, instants, st.integers(0, 2 * DAY))
def test_each_time_of_a_matching_day_is_found_once_and_counted(which, begin, length):
    times = [h * 3600 + m * 60 + s for h in which.hours for m in which.minutes for s in which.seconds]
    expected = [
        day * DAY + time
        for day in range(begin // DAY, begin // DAY + 4)
        for time in times
        if begin <= day * DAY + time < begin + length and is_meant(which, EPOCH + timedelta(day))
    ]

    assert list(walls_between(which, begin, begin + length)) == expected
    assert count_walls(which, begin, begin + length) == len(expected)


def test_days_from_the_end_of_a_month_follow_its_length():
    last_day = pattern(days=(-1,))

    assert dates(last_day, date(2027, 12, 1), 4) == ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31"]


def test_days_that_a_month_does_not_have_are_left_out():
    assert dates(pattern(days=(31,)), date(2026, 1, 1), 3) == ["2026-01-31", "2026-03-31", "2026-05-31"]
    assert dates(pattern(days=(29,), months=(2,)), date(2090, 1, 1), 3) == [
        "2092-02-29",
        "2096-02-29",
        "2104-02-29",
    ]


def test_a_date_that_does_not_exist_is_never_found():
    assert list(matching_days(pattern(days=(30,), months=(2,)), TODAY)) == []


@pytest.mark.parametrize(
    "which", [pattern(), pattern(weekdays=(0, 1, 2, 3, 4, 5, 6), months=tuple(range(1, 13)))]
)
def test_nothing_is_found_or_counted_after_the_last_year(which):
    assert list(matching_days(which, END - 1)) == [END - 1]
    assert list(walls_between(which, END * DAY, (END + 9) * DAY)) == []
    assert count_walls(which, (END - 2) * DAY, (END + 9) * DAY) == 2


def test_a_count_does_not_walk_through_all_times():
    every_second = pattern(hours=tuple(range(24)), minutes=tuple(range(60)), seconds=tuple(range(60)))

    assert count_walls(every_second, 0, END * DAY) == END * DAY
    assert count_walls(every_second, 5, END * DAY - 5) == END * DAY - 10
