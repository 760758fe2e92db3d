"""What becomes of the occurrences of a schedule when time passes, jumps, or bgd was down."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from bgd.core.cron import ExpressionError
from bgd.core.job import JobId
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.core.schedules import (
    BGD_WAS_DOWN,
    CLOCK_JUMPED,
    EXCLUDED,
    MAX_DEFINITION,
    MAX_RUNS,
    TOO_MANY,
    Moment,
    Occurrence,
    next_at,
    pass_time,
    problem_with_schedule,
    starts,
    timetable_of,
    upcoming_times,
)
from bgd.core.spec import JobSpec

JOB = JobSpec(argv=("true",))
MINUTELY = ScheduleSpec(job=JOB, cron="* * * * *")
NIGHTLY = ScheduleSpec(job=JOB, cron="0 3 * * *")
AT_THREE_PAST = ScheduleSpec(job=JOB, cron="3,5,7 12 * * *")  # fixed times
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


def passed(spec: ScheduleSpec, seen: float, moment: Moment) -> list[Occurrence]:
    return pass_time(spec, timetable_of(spec, UTC, "key"), seen, moment)[0]


def ran(*due: float) -> list[Occurrence]:
    return [Occurrence(at, Result.RAN) for at in due]


# --- time passes as usual


def test_what_has_come_due_since_the_last_look_runs():
    assert passed(MINUTELY, NOON, Moment(NOON + 2.5 * MINUTE)) == ran(NOON + MINUTE, NOON + 2 * MINUTE)


def test_what_was_seen_to_does_not_run_again():
    assert passed(MINUTELY, NOON + MINUTE, Moment(NOON + MINUTE)) == []


def test_an_excluded_day_is_skipped():
    spec = replace(NIGHTLY, excluded=("11-28",))

    found = passed(spec, NOON, Moment(NOON + 2 * DAY))

    assert found == [
        Occurrence(NOON + 15 * HOUR, Result.SKIPPED, EXCLUDED),
        *ran(NOON + 39 * HOUR),
    ]


def test_excluded_days_in_a_row_are_one_row():
    spec = replace(NIGHTLY, excluded=("11-28", "11-29"))

    found = passed(spec, NOON, Moment(NOON + 3 * DAY))

    assert found == [
        Occurrence(NOON + 15 * HOUR, Result.SKIPPED, EXCLUDED, 2),
        *ran(NOON + 63 * HOUR),
    ]


def test_more_than_can_be_queued_at_once_are_missed():
    found = passed(replace(MINUTELY, cron=None, every="1s"), NOON, Moment(NOON + MAX_RUNS + 5))

    assert found[:-1] == ran(*(NOON + number for number in range(1, MAX_RUNS + 1)))
    assert found[-1] == Occurrence(NOON + MAX_RUNS, Result.MISSED, TOO_MANY, 5)


def test_exactly_as_many_as_can_be_queued_run():
    found = passed(replace(MINUTELY, cron=None, every="1s"), NOON, Moment(NOON + MAX_RUNS))

    assert len(found) == MAX_RUNS
    assert {each.result for each in found} == {Result.RAN}


# --- nobody could look


@pytest.mark.parametrize("minutes", [1, 4])
def test_a_short_jump_of_the_clock_is_made_up(minutes):
    found = passed(MINUTELY, NOON, Moment(NOON + minutes * MINUTE, NOON))

    assert found == ran(*(NOON + number * MINUTE for number in range(1, minutes + 1)))


@pytest.mark.parametrize("minutes", [5, 179])
def test_a_longer_jump_is_made_up_only_for_fixed_times(minutes):
    moment = Moment(NOON + minutes * MINUTE, NOON)

    assert passed(MINUTELY, NOON, moment) == [Occurrence(NOON + MINUTE, Result.MISSED, CLOCK_JUMPED, minutes)]
    fixed = passed(AT_THREE_PAST, NOON, moment)
    assert fixed == [each for each in ran(NOON + 180, NOON + 300, NOON + 420) if each.due_at <= moment.at]


def test_a_jump_of_hours_is_made_up_for_nothing():
    found = passed(AT_THREE_PAST, NOON, Moment(NOON + 3 * HOUR, NOON))

    assert found == [Occurrence(NOON + 180, Result.MISSED, CLOCK_JUMPED, 3)]


def test_ten_years_ahead_are_one_row():
    [missed] = passed(NIGHTLY, NOON, Moment(NOON + 3653 * DAY, NOON))

    assert missed == Occurrence(NOON + 15 * HOUR, Result.MISSED, CLOCK_JUMPED, 3653)


def test_what_was_due_before_the_gap_runs():
    found = passed(MINUTELY, NOON, Moment(NOON + 10 * HOUR, NOON + MINUTE))

    assert [each.result for each in found] == [Result.RAN, Result.MISSED]
    assert found[0].due_at == NOON + MINUTE


def test_what_was_due_while_bgd_was_down_is_missed_except_in_this_minute():
    found = passed(MINUTELY, NOON, Moment(NOON + 4 * MINUTE + 30, NOON, was_down=True))

    assert found == [
        Occurrence(NOON + MINUTE, Result.MISSED, BGD_WAS_DOWN, 3),
        *ran(NOON + 4 * MINUTE),
    ]


def test_skip_makes_up_not_even_a_short_jump():
    found = passed(replace(MINUTELY, missed=Missed.SKIP), NOON, Moment(NOON + 3 * MINUTE, NOON))

    assert found == [Occurrence(NOON + MINUTE, Result.MISSED, CLOCK_JUMPED, 2), *ran(NOON + 3 * MINUTE)]


def test_latest_runs_the_last_one_that_was_missed():
    spec = replace(NIGHTLY, missed=Missed.LATEST)

    found = passed(spec, NOON, Moment(NOON + 3 * DAY, NOON, was_down=True))

    assert found == [
        Occurrence(NOON + 15 * HOUR, Result.MISSED, BGD_WAS_DOWN, 2),
        *ran(NOON + 2 * DAY + 15 * HOUR),
    ]


def test_latest_runs_nothing_that_is_too_old():
    spec = replace(NIGHTLY, missed=Missed.LATEST, missed_within=HOUR)

    found = passed(spec, NOON, Moment(NOON + DAY, NOON, was_down=True))

    assert found == [Occurrence(NOON + 15 * HOUR, Result.MISSED, BGD_WAS_DOWN)]


def test_latest_runs_a_single_missed_one_without_a_row_for_none():
    spec = replace(NIGHTLY, missed=Missed.LATEST)

    assert passed(spec, NOON, Moment(NOON + DAY, NOON, was_down=True)) == ran(NOON + 15 * HOUR)


def test_latest_does_not_run_on_an_excluded_day():
    spec = replace(NIGHTLY, missed=Missed.LATEST, excluded=("11-28",))

    found = passed(spec, NOON, Moment(NOON + DAY, NOON, was_down=True))

    assert found == [Occurrence(NOON + 15 * HOUR, Result.SKIPPED, EXCLUDED)]


def test_latest_finds_nothing_where_nothing_was_missed():
    spec = replace(NIGHTLY, missed=Missed.LATEST)

    assert passed(spec, NOON, Moment(NOON + 2 * HOUR, NOON, was_down=True)) == []
    assert passed(spec, NOON, Moment(NOON + 30, NOON, was_down=True)) == []


# --- the clock is set back


def seen_after(spec: ScheduleSpec, moment: Moment) -> float:
    found, seen = pass_time(spec, timetable_of(spec, UTC, "key"), NOON, moment)
    assert found == []
    return seen


def test_after_a_small_step_back_fixed_times_do_not_run_again_and_wildcards_do():
    moment = Moment(NOON - HOUR, NOON)

    assert seen_after(NIGHTLY, moment) == NOON
    assert NOON - HOUR <= seen_after(MINUTELY, moment) < NOON - HOUR + MINUTE


def test_after_hours_back_everything_runs_again():
    assert seen_after(NIGHTLY, Moment(NOON - 4 * HOUR, NOON)) < NOON - 4 * HOUR + MINUTE


def test_a_clock_set_back_while_bgd_was_down_is_like_one_set_back_before():
    moment = Moment(NOON - HOUR, NOON, was_down=True)

    assert seen_after(NIGHTLY, moment) == NOON
    assert seen_after(MINUTELY, moment) < NOON - HOUR + MINUTE


# --- overlap


@pytest.mark.parametrize("overlap", list(Overlap))
def test_without_an_unfinished_job_every_occurrence_starts(overlap):
    assert starts(overlap, []) == ()


@pytest.mark.parametrize(
    ("overlap", "unfinished", "expected"),
    [
        (Overlap.ALLOW, [7], ()),
        (Overlap.SKIP, [7], "job 7 has not finished"),
        (Overlap.QUEUE, [7], (7,)),
        (Overlap.QUEUE, [7, 8], "job 8 waits already"),
        (Overlap.REPLACE, [7, 8], (7, 8)),
    ],
)
def test_overlap_decides_beside_unfinished_jobs(overlap, unfinished, expected):
    assert starts(overlap, list(map(JobId, unfinished))) == expected


# --- definitions


def test_the_next_occurrence_is_after_the_instant():
    assert next_at(timetable_of(NIGHTLY, UTC, "key"), NOON) == NOON + 15 * HOUR
    assert next_at(timetable_of(replace(NIGHTLY, cron="@reboot"), UTC, "key"), NOON) is None


def test_upcoming_times_are_as_many_as_asked_for_or_as_there_are():
    nightly = timetable_of(NIGHTLY, UTC, "key")
    assert upcoming_times(nightly, NOON, 2) == [NOON + 15 * HOUR, NOON + 39 * HOUR]
    assert upcoming_times(nightly, NOON, 0) == []
    last = timetable_of(replace(NIGHTLY, calendar="2027-01-01 00:00", cron=None), UTC, "key")
    assert len(upcoming_times(last, NOON, 5)) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ScheduleSpec(job=JOB), "one of cron, calendar and every"),
        (ScheduleSpec(job=JOB, cron="@daily", every="1h"), "one of cron, calendar and every"),
        (ScheduleSpec(job=JOB, cron="61 * * * *"), "minute"),
        (ScheduleSpec(job=JOB, cron="@daily", excluded=("monday",)), "monday"),
        (ScheduleSpec(job=replace(JOB, key="k"), cron="@daily"), "takes no key"),
        (ScheduleSpec(job=replace(JOB, delay=5.0), cron="@daily"), "takes no delay"),
        (ScheduleSpec(job=JobSpec(), cron="@daily"), "argv"),
    ],
)
def test_a_definition_that_is_not_valid_is_told_in_one_sentence(spec, words):
    problem = problem_with_schedule(spec)

    assert problem is not None
    assert words in problem
    assert "\n" not in problem


def test_a_valid_definition_has_no_problem():
    assert problem_with_schedule(NIGHTLY) is None


def test_a_schedule_that_no_reply_could_hold_is_refused():
    job = replace(JOB, argv=("true", *["x" * 100_000] * 9), env={"A": "y" * 99_000})

    assert problem_with_schedule(replace(NIGHTLY, job=job)) is None
    problem = problem_with_schedule(replace(NIGHTLY, job=replace(job, env={"A": "y" * 101_000})))
    assert problem is not None
    assert f"at most {MAX_DEFINITION}; " in problem


def test_a_timetable_needs_one_kind_of_time():
    with pytest.raises(ExpressionError):
        timetable_of(ScheduleSpec(job=JOB), UTC, "key")
