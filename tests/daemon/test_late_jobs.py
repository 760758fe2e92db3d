"""A job of a schedule that has not finished in time is noted once, whatever happens to bgd and the clock."""

from __future__ import annotations

from msgspec.structs import replace

from bgd.core.job import JobId, Outcome
from bgd.core.schedule_spec import Overlap
from bgd.daemon.storage import change_stream
from bgd.wire.views import ScheduleEvent
from tests.daemon.harness import UID
from tests.daemon.schedule_lives import DAY, HOUR, HOURLY, MINUTE, Life
from tests.daemon.waiting import soon

WATCHED = replace(HOURLY, late_after=10 * MINUTE)


async def start(life: Life, spec=WATCHED) -> int:
    """Add a schedule, let it be due once, and return its job."""
    await life.schedules.set({"hourly": spec}, UID, replaces=False)
    await life.pass_time(HOUR)
    [row] = await life.rows("hourly")
    return row.job or 0


async def late(life: Life) -> list[bool]:
    return [row.late for row in await life.rows("hourly")]


async def is_late(life: Life) -> bool:
    [view] = await life.schedules.views("hourly", 0)
    assert life.schedules.clock.late_count == int(view.is_late)
    return view.is_late


async def test_a_job_that_has_not_finished_in_time_is_late(lives):
    async with lives.begin() as life:
        await start(life)
        await life.pass_time(10 * MINUTE - 1)
        assert await late(life) == [False]
        await life.pass_time(1)

        assert await late(life) == [True]
        assert await is_late(life)


async def test_a_job_that_finished_in_time_is_not_late_even_if_somebody_retries_it(lives):
    async with lives.begin() as life:
        job = await start(life)
        await life.finish(job, Outcome.EXIT, 1)
        await life.pass_time(10 * MINUTE)
        await life.harness.actions.do("retry", JobId(job))
        await life.pass_time(20 * MINUTE)

        assert await late(life) == [False]
        assert not await is_late(life)


async def test_a_schedule_is_late_until_its_late_job_finishes(lives):
    async with lives.begin() as life:
        job = await start(life)
        await life.pass_time(20 * MINUTE)
        assert await is_late(life)
        await life.finish(job, Outcome.EXIT, 0)
        await soon(life.harness.supervisor.saved())

        assert not await is_late(life)
        assert await late(life) == [True]


async def test_a_job_that_waits_to_be_tried_again_is_late(lives):
    async with lives.begin() as life:
        job = await start(life, replace(WATCHED, job=replace(WATCHED.job, retries=1, retry_delay=DAY)))
        await life.finish(job, Outcome.EXIT, 1)
        await life.pass_time(10 * MINUTE)

        assert await late(life) == [True]


async def test_setting_the_clock_makes_no_job_late_and_no_job_less_late(lives):
    async with lives.begin() as life:
        await start(life)
        await life.jump(3653 * DAY)
        assert await late(life) == [False, False]  # the second row is for the gap
        await life.jump(-3653 * DAY)
        await life.jump(-30 * MINUTE)
        await life.pass_time(10 * MINUTE)

        assert (await late(life))[0]


async def test_a_late_job_is_noted_after_a_restart_once(lives):
    async with lives.begin() as life:
        await start(life)
    lives.clocks.go_on(15 * MINUTE)
    async with lives.begin() as life:  # as after kill -9: all that is known is on disk
        await life.pass_time(0)
        assert await late(life) == [True]
    async with lives.begin() as life:
        life.clocks.go_on(5 * MINUTE)
        await life.schedules.clock.look()

        assert life.harness.supervisor.transaction.occurrences == []
        assert await is_late(life)
        told = await life.harness.store.read(change_stream.read_events, 0, 1000)
        assert [event.outcome for event in told if isinstance(event, ScheduleEvent)] == ["ran", "late"]


async def test_a_job_within_its_time_is_watched_after_a_restart(lives):
    async with lives.begin() as life:
        await start(life)
    lives.clocks.go_on(5 * MINUTE)
    async with lives.begin() as life:
        await life.pass_time(5 * MINUTE - 1)
        assert await late(life) == [False]
        await life.pass_time(1)

        assert await late(life) == [True]


async def test_of_jobs_side_by_side_each_is_late_in_its_turn(lives):
    async with lives.begin() as life:
        await start(life, replace(WATCHED, overlap=Overlap.ALLOW, late_after=90 * MINUTE))
        await life.pass_time(HOUR)
        await life.pass_time(30 * MINUTE)
        assert await late(life) == [True, False]
        await life.pass_time(30 * MINUTE)
        await life.pass_time(30 * MINUTE)

        assert await late(life) == [True, True, False]


async def test_a_changed_definition_holds_for_a_job_that_runs(lives):
    async with lives.begin() as life:
        await start(life, HOURLY)
        await life.schedules.set({"hourly": replace(HOURLY, late_after=30 * MINUTE)}, UID, replaces=True)
        await life.pass_time(10 * MINUTE)
        await life.schedules.set({"hourly": replace(HOURLY, late_after=40 * MINUTE)}, UID, replaces=True)
        await life.pass_time(20 * MINUTE)
        assert await late(life) == [False]
        await life.pass_time(10 * MINUTE)

        assert await late(life) == [True]


async def test_nothing_of_a_removed_schedule_is_late(lives):
    async with lives.begin() as life:
        await start(life)
        life.schedules.remove("hourly")
        await life.pass_time(HOUR)

        assert await late(life) == [False]
        assert life.schedules.clock.late_count == 0


async def test_a_job_that_somebody_asked_for_is_never_late(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": WATCHED}, UID, replaces=False)
        life.schedules.run_now("hourly", "anna")
        await life.pass_time(30 * MINUTE)
    async with lives.begin() as life:
        await life.pass_time(20 * MINUTE)

        assert await late(life) == [False]
