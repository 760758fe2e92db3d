"""Schedules queue their jobs when they are due, and store what became of each occurrence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core.filters import Filter
from bgd.core.job import JobId, Outcome, State
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.core.schedules import BGD_WAS_DOWN, CLOCK_JUMPED, EXCLUDED, PAUSED, Occurrence
from bgd.daemon import schedules as daemon
from bgd.daemon.storage import lists
from bgd.daemon.storage import schedules as storage
from bgd.errors import ConfigError, Full, NotAllowed, Refused
from bgd.settings.config import Config
from bgd.system import clock
from bgd.wire.requests import List, ShutdownMode
from tests.daemon.harness import SLOTS, UID, command, configure
from tests.daemon.schedule_lives import DAY, HOUR, HOURLY, MINUTE, NIGHTLY, NOON, Life
from tests.daemon.waiting import soon

# --- occurrences and their jobs


async def test_an_occurrence_queues_a_job_with_the_name_of_its_schedule(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR)

        [row] = await life.rows("hourly")
        assert (row.due_at, row.result) == (NOON + HOUR, Result.RAN)
        view = await life.harness.view(row.job or 0)
        assert view.name == "hourly"
        assert view.argv == ["/bin/true"]


async def test_nothing_happens_before_it_is_due(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR - 1)

        assert await life.rows("hourly") == []
        assert await life.jobs() == []


async def test_row_and_job_are_in_one_transaction(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await soon(life.harness.supervisor.saved())
        life.harness.commits.close()  # bgd is killed before it has written this
        life.clocks.go_on(HOUR)
        await life.schedules.clock.look()
        await soon(life.harness.commits.reached.wait())
        commits = life.harness.commits.commits

        assert await life.harness.store.read(storage.history, "hourly", 10) == []
        assert await life.harness.store.read(lists.select_ids, List(id=0, states=list(State)), Filter()) == []
        life.harness.commits.open()
        assert len(await life.rows("hourly")) == len(await life.jobs()) == 1
        assert life.harness.commits.commits == commits


async def test_a_killed_daemon_does_not_queue_a_stored_occurrence_again(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR + 1)
        jobs = await life.jobs()
    async with lives.begin() as life:
        await life.pass_time(1)

        assert await life.jobs() == jobs
        assert len(await life.rows("hourly")) == 1


async def test_an_occurrence_within_a_restart_runs(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR - 5)
    lives.clocks.go_on(20)  # bgd is upgraded
    async with lives.begin() as life:
        assert [row.result for row in await life.rows("hourly")] == [Result.RAN]


async def test_occurrences_while_bgd_was_down_are_one_row(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(1)
    lives.clocks.go_on(10 * HOUR + 100)
    async with lives.begin() as life:
        assert await life.rows("hourly") == [
            Occurrence(NOON + HOUR, Result.MISSED, BGD_WAS_DOWN, 10, "hourly")
        ]
        assert await life.jobs() == []


async def test_the_latest_missed_occurrence_runs_if_asked_for(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": replace(HOURLY, missed=Missed.LATEST)}, UID, replaces=False)
        await life.pass_time(1)
    lives.clocks.go_on(10 * HOUR - 100)
    async with lives.begin() as life:
        missed, ran = await life.rows("hourly")
        assert (missed.result, missed.count) == (Result.MISSED, 8)
        assert (ran.result, ran.due_at) == (Result.RAN, NOON + 9 * HOUR)


async def test_a_machine_that_slept_over_ten_occurrences_runs_none_of_them(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(1)
        await life.jump(10 * HOUR + 100)  # the clock that stands still in suspend does not move

        assert await life.rows("hourly") == [
            Occurrence(NOON + HOUR, Result.MISSED, CLOCK_JUMPED, 10, "hourly")
        ]


async def test_a_stopped_daemon_misses_what_was_due_meanwhile(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(5 * HOUR + 600)  # it did not look, though all clocks went on

        assert [(row.result, row.count) for row in await life.rows("hourly")] == [(Result.MISSED, 5)]


async def test_after_the_clock_was_set_back_a_fixed_time_does_not_run_again(lives):
    async with lives.begin() as life:
        await life.schedules.set({"nightly": NIGHTLY}, UID, replaces=False)
        await life.schedules.set({"tick": replace(HOURLY, cron="* * * * *")}, UID, replaces=False)
        life.clocks.go_on(15 * HOUR - MINUTE)
        await life.schedules.clock.look()
        await life.pass_time(MINUTE)
        before = len(await life.rows("tick"))
        await life.jump(-30 * MINUTE)
        await life.pass_time(MINUTE)
        await life.pass_time(29 * MINUTE)

        assert len(await life.rows("nightly")) == 1
        assert len(await life.rows("tick")) > before


async def test_ten_years_ahead_and_back_are_a_row_and_then_as_before(lives):
    async with lives.begin() as life:
        await life.schedules.set({"nightly": NIGHTLY}, UID, replaces=False)
        await life.jump(3653 * DAY)
        [row] = await life.rows("nightly")
        assert (row.result, row.count) == (Result.MISSED, 3653)
        await life.jump(-3653 * DAY)
        await life.pass_time(15 * HOUR)

        assert [row.result for row in await life.rows("nightly")] == [Result.MISSED, Result.RAN]


async def test_what_runs_at_boot_runs_once_a_boot(lives, monkeypatch):
    async with lives.begin() as life:
        await life.schedules.set({"boot": replace(HOURLY, cron="@reboot")}, UID, replaces=False)
        await life.pass_time(DAY)
        assert await life.rows("boot") == []
    boot = clock.boot_id()
    monkeypatch.setattr(clock, "boot_id", lambda: f"after-{boot}")
    for _ in range(2):
        async with lives.begin() as life:
            assert [row.result for row in await life.rows("boot")] == [Result.RAN]


async def test_a_job_that_is_no_longer_allowed_is_missed_with_the_reason(lives, folder: Path):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(1)
    strict = configure(folder, rest='[security]\nallowed_commands = ["/bin/ls"]')
    async with lives.begin(strict) as life:
        await life.pass_time(HOUR)

        [row] = await life.rows("hourly")
        assert row.result is Result.MISSED
        assert "allowed_commands" in (row.reason or "")


async def test_a_daemon_that_is_ending_leaves_occurrences_to_the_next(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(1)
        await soon(life.harness.supervisor.drain(ShutdownMode.LEAVE))
        await life.pass_time(HOUR)
        assert await life.rows("hourly") == []
    async with lives.begin() as life:
        assert [row.result for row in await life.rows("hourly")] == [Result.RAN]


async def test_an_excluded_day_leaves_a_row_and_no_job(lives):
    async with lives.begin() as life:
        await life.schedules.set({"nightly": replace(NIGHTLY, excluded=("11-28",))}, UID, replaces=False)
        await life.pass_time(15 * HOUR)
        await life.pass_time(DAY)

        first, second = await life.rows("nightly")
        assert (first.result, first.job, first.reason) == (Result.SKIPPED, None, EXCLUDED)
        assert second.result is Result.RAN


# --- overlap, with jobs that retry


async def due_twice(life: Life, overlap: Overlap) -> list[Occurrence]:
    """Let a schedule be due twice; the job of the first time has failed once and waits to be tried again."""
    spec = replace(HOURLY, overlap=overlap, job=command(retries=1, retry_delay=DAY))
    await life.schedules.set({"hourly": spec}, UID, replaces=False)
    await life.pass_time(HOUR)
    [first] = await life.rows("hourly")
    await life.finish(first.job or 0, Outcome.EXIT, 1)
    assert (await life.harness.view(first.job or 0)).state is State.SCHEDULED
    await life.pass_time(HOUR)
    return await life.rows("hourly")


async def test_skip_leaves_out_an_occurrence_while_a_job_waits_for_its_retry(lives):
    async with lives.begin() as life:
        first, second = await due_twice(life, Overlap.SKIP)

        assert (second.result, second.job) == (Result.SKIPPED, None)
        assert second.reason == f"job {first.job} has not finished"


async def test_skip_runs_again_when_the_job_has_finished(lives):
    async with lives.begin() as life:
        first, _ = await due_twice(life, Overlap.SKIP)
        await life.harness.actions.do("cancel", JobId(first.job or 0))
        await life.pass_time(HOUR)

        assert [row.result for row in await life.rows("hourly")][-1] is Result.RAN


async def test_skip_sees_a_job_that_is_older_than_many_finished_ones_after_a_restart(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.schedules.set({"hourly": replace(HOURLY, overlap=Overlap.ALLOW)}, UID, replaces=True)
        jobs = [life.schedules.run_now("hourly", "anna") for _ in range(SLOTS + storage.LATEST)]
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=True)
        for job in jobs[SLOTS:]:  # they wait for a slot
            assert await life.harness.actions.do("cancel", job) is State.CANCELLED
        assert len(await life.rows("hourly")) == len(jobs)
    async with lives.begin() as life:
        await life.pass_time(HOUR)

        assert "has not finished" in ((await life.rows("hourly"))[-1].reason or "")


async def test_skip_sees_a_job_that_somebody_retries(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        for _ in range(2):
            await life.pass_time(HOUR)
            await life.finish((await life.rows("hourly"))[-1].job or 0, Outcome.EXIT, 0)
        first = JobId((await life.rows("hourly"))[0].job or 0)
        await life.harness.actions.do("retry", first)
        await life.pass_time(HOUR)

        assert (await life.rows("hourly"))[-1].reason == f"job {first} has not finished"


async def test_allow_starts_beside_the_other(lives):
    async with lives.begin() as life:
        _, second = await due_twice(life, Overlap.ALLOW)

        assert (await life.harness.view(second.job or 0)).state is State.RUNNING


async def test_queue_waits_for_the_other_and_keeps_one_waiting(lives):
    async with lives.begin() as life:
        first, second = await due_twice(life, Overlap.QUEUE)
        await life.pass_time(HOUR)

        waiting = await life.harness.view(second.job or 0)
        assert (waiting.state, waiting.waits_for) == (State.BLOCKED, [first.job])
        third = (await life.rows("hourly"))[-1]
        assert (third.result, third.reason) == (Result.SKIPPED, f"job {second.job} waits already")


async def test_replace_cancels_the_other(lives):
    async with lives.begin() as life:
        first, second = await due_twice(life, Overlap.REPLACE)

        assert (await life.harness.view(first.job or 0)).state is State.CANCELLED
        assert (await life.harness.view(second.job or 0)).state is State.RUNNING


async def test_replace_starts_when_the_running_job_has_ended(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": replace(HOURLY, overlap=Overlap.REPLACE)}, UID, replaces=False)
        await life.pass_time(HOUR)
        await life.pass_time(HOUR)

        first, second = await life.rows("hourly")
        assert (await life.harness.view(first.job or 0)).state is State.STOPPING
        assert (await life.harness.view(second.job or 0)).waits_for == [first.job]


async def test_unfinished_jobs_are_known_after_a_restart(lives):
    async with lives.begin() as life:
        await due_twice(life, Overlap.SKIP)
    async with lives.begin() as life:
        await life.pass_time(HOUR)

        assert [row.result for row in await life.rows("hourly")][1:] == [Result.SKIPPED] * 2


async def test_a_schedule_that_is_removed_and_added_again_knows_its_unfinished_job(lives):
    async with lives.begin() as life:
        first, _ = await due_twice(life, Overlap.SKIP)
        life.schedules.remove("hourly")
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)  # before the removal is on disk
        await life.pass_time(HOUR)
        assert (await life.rows("hourly"))[-1].reason == f"job {first.job} has not finished"
        life.schedules.remove("hourly")
        await soon(life.harness.supervisor.saved())
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY, "other": NIGHTLY}, UID, replaces=False, repeated=False)
        await life.pass_time(HOUR)

        assert (await life.rows("hourly"))[-1].reason == f"job {first.job} has not finished"


async def test_a_schedule_that_is_removed_while_it_is_added_knows_its_unfinished_job(lives):
    async with lives.begin() as life:
        first, _ = await due_twice(life, Overlap.SKIP)
        adding = asyncio.create_task(
            life.schedules.set({"other": NIGHTLY, "hourly": HOURLY}, UID, replaces=True, repeated=False)
        )
        await asyncio.sleep(0)  # it checks them
        life.schedules.remove("hourly")
        await soon(adding)
        await life.pass_time(HOUR)

        assert (await life.rows("hourly"))[-1].reason == f"job {first.job} has not finished"


# --- what people do


async def test_occurrences_of_a_paused_schedule_are_one_row(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        life.schedules.set_paused("hourly", paused=True)
        await life.pass_time(5 * HOUR)
        life.schedules.set_paused("hourly", paused=False)

        assert await life.rows("hourly") == [Occurrence(NOON + HOUR, Result.SKIPPED, PAUSED, 5, "hourly")]
        await life.pass_time(HOUR)
        assert [row.result for row in await life.rows("hourly")][-1] is Result.RAN


async def test_pausing_twice_forgets_nothing(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        for _ in range(2):
            life.schedules.set_paused("hourly", paused=True)
            await life.pass_time(2 * HOUR)
        life.schedules.set_paused("hourly", paused=False)

        assert [(row.reason, row.count) for row in await life.rows("hourly")] == [(PAUSED, 4)]


async def edit(life: Life) -> None:
    await life.schedules.set({"hourly": replace(HOURLY, cron="30 * * * *")}, UID, replaces=True)


async def pause(life: Life) -> None:
    life.schedules.set_paused("hourly", paused=True)


async def remove(life: Life) -> None:
    life.schedules.remove("hourly")


@pytest.mark.parametrize("change", [edit, pause, remove])
async def test_what_is_due_when_a_schedule_changes_runs_first(lives, change):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        life.clocks.go_on(HOUR)
        await change(life)  # before anybody has looked at the clock
        await life.schedules.clock.look()

        assert [(row.due_at, row.result) for row in await life.rows("hourly")] == [(NOON + HOUR, Result.RAN)]


async def test_a_pause_outlives_the_daemon(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        life.schedules.set_paused("hourly", paused=True)
        await life.pass_time(1)
    lives.clocks.go_on(3 * HOUR)
    async with lives.begin() as life:
        await life.pass_time(HOUR)
        assert await life.rows("hourly") == []
        life.schedules.set_paused("hourly", paused=False)

        assert [(row.reason, row.count) for row in await life.rows("hourly")] == [(PAUSED, 4)]


async def test_an_edit_counts_from_now_and_leaves_a_running_job_alone(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR)
        [first] = await life.rows("hourly")
        await life.schedules.set({"hourly": replace(HOURLY, cron="30 * * * *")}, UID, replaces=True)
        await life.pass_time(30 * MINUTE)

        assert (await life.harness.view(first.job or 0)).state is State.RUNNING
        last = (await life.rows("hourly"))[-1]
        assert (last.due_at, last.reason) == (NOON + 90 * MINUTE, f"job {first.job} has not finished")


async def test_of_two_edits_at_once_the_second_is_refused(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        [seen] = await life.schedules.views("hourly", 1)
        first, second = replace(HOURLY, cron="30 * * * *"), replace(HOURLY, paused=True)
        await life.schedules.set({"hourly": first}, UID, replaces=True, digests={"hourly": seen.digest})

        with pytest.raises(Refused, match="hourly has changed meanwhile"):
            await life.schedules.set({"hourly": second}, UID, replaces=True, digests={"hourly": seen.digest})
        [seen] = await life.schedules.views("hourly", 1)
        assert seen.spec == first
        await life.schedules.set({"hourly": second}, UID, replaces=True, digests={"hourly": seen.digest})


async def test_a_removed_schedule_keeps_its_history_and_lets_its_job_end(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR)
        life.schedules.remove("hourly")
        await life.pass_time(2 * HOUR)

        [row] = await life.schedules.history("hourly", 10, None)
        assert (await life.harness.view(row.job or 0)).state is State.RUNNING
    async with lives.begin() as life:
        assert await life.schedules.views(None, 1) == []


async def test_a_daemon_that_waits_for_its_last_jobs_does_not_look_at_schedules_again_and_again(
    lives, monkeypatch
):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.harness.supervisor.drain(ShutdownMode.WAIT)
        life.clocks.go_on(HOUR)
        looks = 0
        really_look = life.schedules.clock.look

        async def look() -> None:
            nonlocal looks
            looks += 1
            await really_look()

        monkeypatch.setattr(life.schedules.clock, "look", look)
        running = asyncio.create_task(life.schedules.clock.run())
        later = asyncio.Event()
        alarm = clock.Alarm(asyncio.get_running_loop(), later.set)
        alarm.set(clock.elapsed() + 0.1)
        await soon(later.wait())
        alarm.close()
        running.cancel()

        assert looks <= 1


async def test_run_now_queues_the_same_job_as_far_as_the_overlap_allows_it(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await life.pass_time(HOUR)
        [first] = await life.rows("hourly")
        with pytest.raises(Refused, match=f"hourly has overlap skip, and job {first.job} has not finished"):
            life.schedules.run_now("hourly", "anna")
        await life.finish(first.job or 0, Outcome.SUCCEEDED, 0)
        job = life.schedules.run_now("hourly", "anna")

        second = (await life.rows("hourly"))[-1]
        assert (second.job, second.reason) == (job, "run by anna")
        one, other = await life.harness.view(first.job or 0), await life.harness.view(job)
        assert (one.argv, one.name, one.cwd) == (other.argv, other.name, other.cwd)
        assert other.state is State.RUNNING


async def test_a_retried_job_of_a_schedule_waits_for_the_others_as_its_overlap_says(lives):
    async with lives.begin() as life:
        first, second = await due_twice(life, Overlap.QUEUE)
        await life.harness.actions.do("cancel", JobId(first.job or 0))  # instead of its retry
        state = await life.harness.actions.do("retry", JobId(first.job or 0))

        assert state is State.BLOCKED
        assert (await life.harness.view(first.job or 0)).waits_for == [second.job]


@pytest.mark.parametrize(
    ("overlap", "why"), [(Overlap.SKIP, "has not finished"), (Overlap.REPLACE, "has replaced it")]
)
async def test_a_job_of_a_schedule_is_not_retried_beside_another(lives, overlap, why):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": replace(HOURLY, overlap=overlap)}, UID, replaces=False)
        await life.pass_time(HOUR)
        [first] = await life.rows("hourly")
        await life.finish(first.job or 0, Outcome.EXIT, 0)
        await life.pass_time(HOUR)
        second = (await life.rows("hourly"))[-1]

        with pytest.raises(Refused, match=f"with overlap {overlap}, and job {second.job} {why}"):
            await life.harness.actions.do("retry", JobId(first.job or 0))


async def test_replace_does_not_starve_behind_a_backlog(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": replace(HOURLY, overlap=Overlap.REPLACE)}, UID, replaces=False)
        backlog = [await life.harness.submit(command()) for _ in range(SLOTS)]
        await life.pass_time(HOUR)
        await life.harness.submit(command())
        await life.pass_time(HOUR)
        await life.pass_time(HOUR)

        first, second, third = await life.rows("hourly")
        assert (first.result, first.job, second.result, second.job) == (Result.REPLACED, None) * 2
        assert third.result is Result.RAN
        waiting = await life.harness.view(third.job or 0)
        assert waiting.state is State.QUEUED
        await life.finish(backlog[0], Outcome.SUCCEEDED, 0)
        assert (await life.harness.view(third.job or 0)).state is State.RUNNING


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(HOURLY, cron="0 3 * *"), "not 4"),
        (replace(HOURLY, timezone="Mars/Phobos"), "not known"),
        (replace(HOURLY, timezone="../../etc/passwd"), "not known"),
        (replace(HOURLY, timezone="Europe"), "not known"),
        (replace(HOURLY, timezone="leapseconds"), "not known"),
        (replace(HOURLY, job=replace(HOURLY.job, key="k")), "takes no key"),
    ],
)
async def test_a_definition_that_is_not_valid_is_refused(lives, spec, words):
    async with lives.begin() as life:
        with pytest.raises(Refused, match=words):
            await life.schedules.set({"bad": spec}, UID, replaces=False)


async def test_a_machine_whose_zone_is_not_known_is_told_by_its_name(lives, monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST")
    async with lives.begin() as life:
        with pytest.raises(Refused, match=r"timezone 'CET-1CEST' is not known .* set the variable TZ of bgd"):
            await life.schedules.set({"x": ScheduleSpec(job=command(), cron="@daily")}, UID, replaces=False)


async def test_a_stored_schedule_that_cannot_be_used_any_more_says_why_and_when_it_was_due(
    lives, monkeypatch
):
    async with lives.begin() as life:
        await life.schedules.set({"often": ScheduleSpec(job=command(), every="15m")}, UID, replaces=False)
        await soon(life.harness.supervisor.saved())
    monkeypatch.setenv("TZ", "CET-1CEST")
    async with lives.begin() as life:
        [view] = await life.schedules.views("often", 3)

        assert view.words == "every 15m"
        assert (view.upcoming, "'CET-1CEST' is not known" in (view.problem or "")) == ([], True)


async def test_a_job_that_is_not_allowed_is_refused_at_once(lives, folder: Path):
    strict = configure(folder, rest='[security]\nallowed_commands = ["/bin/ls"]')
    async with lives.begin(strict) as life:
        with pytest.raises(NotAllowed):
            await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)


async def test_names_are_taken_and_unknown_ones_are_told_with_the_nearest(lives):
    async with lives.begin() as life:
        await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        with pytest.raises(Refused, match="already"):
            await life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        for act in (life.schedules.remove, lambda name: life.schedules.run_now(name, "anna")):
            with pytest.raises(Refused, match="hourly"):
                act("hourli")


# --- the configuration

CONFIGURED = '[schedules.nightly]\ncron = "0 3 * * *"\ntimezone = "UTC"\ncommand = ["/bin/true", "x"]\n'


async def test_a_configured_schedule_runs_and_can_be_paused_but_not_removed(lives, folder: Path):
    async with lives.begin(configure(folder, rest=CONFIGURED)) as life:
        with pytest.raises(Refused, match="configured"):
            life.schedules.remove("nightly")
        with pytest.raises(Refused, match="configured"):
            await life.schedules.set({"nightly": NIGHTLY}, UID, replaces=True)
        life.schedules.set_paused("nightly", paused=True)
        life.schedules.set_paused("nightly", paused=False)
        await life.pass_time(15 * HOUR)

        assert [row.result for row in await life.rows("nightly")] == [Result.RAN]


async def test_a_changed_configuration_counts_from_the_reload_on(lives, folder: Path):
    async with lives.begin(configure(folder, rest=CONFIGURED)) as life:
        await life.pass_time(HOUR)
        life.harness.supervisor.configure(configure(folder, rest=CONFIGURED.replace("0 3", "30 13")))
        await life.pass_time(30 * MINUTE)
        assert [row.due_at for row in await life.rows("nightly")] == [NOON + 90 * MINUTE]
        life.harness.supervisor.configure(configure(folder))
        await life.pass_time(DAY)

        assert len(await life.rows("nightly")) == 1
        assert await life.schedules.views(None, 1) == []


async def test_a_reload_takes_over_the_time_zone_of_the_machine(lives, folder: Path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    configured = configure(folder, rest=CONFIGURED.replace('timezone = "UTC"\n', ""))
    stored = replace(NIGHTLY, timezone=None)
    async with lives.begin(configured) as life:
        await life.schedules.set({"stored": stored}, UID, replaces=False)
        await life.schedules.set({"fixed": replace(stored, timezone="UTC")}, UID, replaces=False)
        await life.pass_time(1)
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        before = await life.schedules.views(None, 1)
        life.harness.supervisor.configure(configured)
        await life.schedules.clock.look()
        after = await life.schedules.views(None, 1)

    assert [each.timezone for each in before] == ["UTC"] * 3
    assert {each.name: each.timezone for each in after} == {
        "fixed": "UTC",
        "nightly": "Asia/Tokyo",
        "stored": "Asia/Tokyo",
    }
    moved = {each.name: each.upcoming[0] for each in after}
    assert {each.name: (each.upcoming[0] - moved[each.name]) % DAY for each in before} == {
        "fixed": 0,
        "nightly": 9 * HOUR,
        "stored": 9 * HOUR,
    }


async def test_a_schedule_that_is_put_back_into_the_file_knows_its_unfinished_job(lives, folder: Path):
    configured = configure(folder, rest=CONFIGURED)
    async with lives.begin(configured) as life:
        await life.pass_time(15 * HOUR)
        [first] = await life.rows("nightly")
        for config in (configure(folder), configured):
            life.harness.supervisor.configure(config)
            await life.schedules.clock.look()
        await life.pass_time(DAY)
        assert (await life.rows("nightly"))[-1].reason == f"job {first.job} has not finished"
    async with lives.begin(configure(folder)) as life:
        assert not life.schedules.has("nightly")
    async with lives.begin(configured) as life:
        await life.pass_time(DAY)

        assert (await life.rows("nightly"))[-1].reason == f"job {first.job} has not finished"


async def test_an_unchanged_configuration_misses_what_was_due_while_bgd_was_down(lives, folder: Path):
    configured = configure(folder, rest=CONFIGURED)
    async with lives.begin(configured) as life:
        await life.pass_time(1)
    lives.clocks.go_on(2 * DAY)
    async with lives.begin(configured) as life:
        assert [(row.result, row.count) for row in await life.rows("nightly")] == [(Result.MISSED, 2)]


async def test_a_name_that_is_stored_and_configured_is_refused(lives, folder: Path):
    async with lives.begin() as life:
        await life.schedules.set({"nightly": NIGHTLY}, UID, replaces=False)
        await soon(life.harness.supervisor.saved())
        with pytest.raises(ConfigError, match="nightly"):
            life.schedules.check(configure(folder, rest=CONFIGURED))
    with pytest.raises(ExceptionGroup) as caught:
        async with lives.begin(configure(folder, rest=CONFIGURED)):
            pass
    assert caught.group_contains(ConfigError, match="nightly")


def many(folder: Path, minute: int, count: int = 250) -> Config:
    return configure(
        folder,
        rest="".join(
            f'[schedules.s{number}]\ncron = "{minute} 3 * * *"\ncommand = ["/bin/true"]\n'
            for number in range(count)
        ),
    )


async def test_a_configuration_that_changes_while_its_schedules_are_taken_over_wins(lives, folder: Path):
    async with lives.begin(old := many(folder, 1)) as life:
        life.harness.supervisor.configure(new := many(folder, 2))
        taking_over = asyncio.create_task(life.schedules.clock.look())
        await asyncio.sleep(0)
        # in turns: others are served in between
        assert life.schedules.has("s0", new.schedules["s0"])
        assert life.schedules.has("s249", old.schedules["s249"])
        life.harness.supervisor.configure(last := many(folder, 3, 120))
        await taking_over
        await soon(life.schedules.clock.configured())

        views = await life.schedules.views(None, 0)
        assert {view.name: view.spec for view in views} == last.schedules
        assert (await life.harness.store.read(storage.read_schedules)).keys() == last.schedules.keys()


async def test_a_name_is_configured_from_the_reload_on(lives, folder: Path):
    async with lives.begin() as life:
        life.harness.supervisor.configure(configure(folder, rest=CONFIGURED))
        with pytest.raises(Refused, match="configured"):
            await life.schedules.set({"nightly": NIGHTLY}, UID, replaces=False)


async def test_many_schedules_are_checked_by_the_configuration_in_force_when_they_are_stored(
    lives, folder: Path
):
    async with lives.begin() as life:
        storing = asyncio.create_task(
            life.schedules.set({"nightly": NIGHTLY}, UID, replaces=True, repeated=False)
        )
        await asyncio.sleep(0)
        strict = configure(folder, rest='[security]\nallowed_commands = ["/bin/ls"]')
        life.harness.supervisor.configure(strict)
        with pytest.raises(NotAllowed):
            await storing

        assert await life.schedules.views(None, 0) == []


async def test_a_repeated_request_for_many_is_no_error_and_a_full_table_is(lives, monkeypatch):
    monkeypatch.setattr(daemon, "MAX_SCHEDULES", 2)
    async with lives.begin() as life:
        both = {"one": NIGHTLY, "two": HOURLY}
        told = await life.schedules.set(both, UID, replaces=False, repeated=False)
        again = await life.schedules.set(both, UID, replaces=False, repeated=True)
        with pytest.raises(Full):
            await life.schedules.set({"three": NIGHTLY}, UID, replaces=True, repeated=False)

        assert (told, again) == ((["one", "two"], [], []), ([], [], ["one", "two"]))


# --- history is bounded


async def test_old_rows_are_deleted_but_not_that_of_an_unfinished_job(lives):
    async with lives.begin() as life:
        await life.schedules.set({"tick": replace(HOURLY, cron="* * * * *")}, UID, replaces=False)
        for _ in range(storage.KEPT + 150):
            await life.pass_time(MINUTE)

        rows = await life.harness.store.read(storage.history, "tick", 10_000)
        assert storage.KEPT < len(rows) <= storage.KEPT + 102
        assert [row.outcome for row in rows if row.job is not None] == [Result.RAN]
