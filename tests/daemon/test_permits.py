"""Attempts that are launched before their start is saved, because a permit for them is on disk."""

from __future__ import annotations

import asyncio
import os
from math import inf

import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import Job, JobId, Move, Now, Outcome, RetryPolicy, State
from bgd.core.schedule_spec import ScheduleSpec
from bgd.daemon.permits import MOST_PERMITS, SHORT_RUN, Permits
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage import change_stream, read
from bgd.daemon.storage.records import JobEvent, Transaction
from bgd.errors import Refused
from bgd.wire.launching import AttemptStarted, Launch
from bgd.wire.requests import Changes, ShutdownMode
from bgd.wire.views import EventView
from tests.daemon.harness import command, configure, running_supervisor
from tests.daemon.scripted_launcher import end as end_of
from tests.daemon.waiting import soon, until

OTHER_BOOT = "another-boot:launcher"


@pytest.fixture
def config(folder, monkeypatch):
    monkeypatch.setattr("bgd.daemon.permits.UNUSED_SECONDS", 600.0)  # the machine may be slow
    return configure(folder, "slots = 1")


def end(key, seconds=0.001):
    return replace(end_of(key), run_seconds=seconds, started_at=1.0, slot=1)


def launches(messages):
    return [message.key.job for message in messages if isinstance(message, Launch)]


async def permits(life):
    return [permit.job for permit in await life.store.read(read.permits)]


async def granted(life, launcher, count=4, **options):
    """Run a short job, let a second one run, and grant permits to two others; return the first of these."""
    first = await life.launched()
    others = [await life.submit(command(**options)) for _ in range(count - 1)]
    launcher.say(end(first))
    assert launches(await life.heard()) == [others[0]]
    await life.supervisor.saved()
    assert await permits(life) == others[1:3]
    return others[1]


async def whats(life, job):
    events = await life.store.read(change_stream.read_events, 0, 100)
    return [event.what for event in events if isinstance(event, EventView) and event.job == job]


async def test_a_permitted_job_is_launched_before_its_start_is_saved_and_recorded_as_any_other(
    config, launcher
):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        assert await life.attempts(job) == []
        assert (await life.view(job)).state is State.QUEUED
        life.commits.close()
        launcher.say(end(life.key(job - 1)))

        assert (await launcher.hear(Launch)).key == life.key(job)
        view = await life.store.read(read.view, JobId(job))
        assert view is not None
        assert view.state is State.QUEUED
        life.commits.open()
        launcher.say(end(life.key(job)))
        await life.heard()

        view, [attempt] = await life.view(job), await life.attempts(job)
        assert (view.state, attempt.outcome) == (State.SUCCEEDED, Outcome.SUCCEEDED)
        assert await whats(life, job) == ["submit", Move.START, Move.SUCCEED]


async def test_a_start_and_an_end_in_one_transaction_are_both_stored(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        life.commits.close()
        life.take(command(priority=-5))  # its commit is in flight
        await soon(life.commits.reached.wait())
        launcher.say(end(life.key(job - 1)))
        await launcher.hear(Launch)
        launcher.say(end(life.key(job)))
        assert (await launcher.hear(Launch)).key.job == job + 1
        life.commits.open()
        await life.heard()

        view = await life.view(job)
        assert (view.state, view.started_at, view.outcome) == (State.SUCCEEDED, 1.0, Outcome.SUCCEEDED)
        assert view.finished_at is not None


async def test_the_most_urgent_job_starts_first_whichever_has_a_permit(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        urgent = life.take(command(priority=1))
        launcher.say(end(life.key(job - 1)))

        assert launches(await life.heard()) == [urgent]
        assert (await life.view(job)).state is State.QUEUED


@pytest.mark.parametrize("verb", ["hold", "cancel"])
async def test_a_job_that_is_held_or_cancelled_has_no_permit_any_more(config, launcher, verb):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        await life.actions.do(verb, JobId(job))
        await life.supervisor.saved()

        assert job not in await permits(life)
        launcher.say(end(life.key(job - 1)))
        assert job not in launches(await life.heard())


async def test_an_edited_job_is_launched_as_edited(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        await life.actions.do("edit", JobId(job), changes=Changes(argv=("/bin/false",)))
        launcher.say(end(life.key(job - 1)))

        launch = await launcher.hear(Launch)
        assert (launch.key.job, launch.argv) == (job, ["/bin/false"])


async def test_a_pause_and_a_drain_leave_no_permit(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        await granted(life, launcher)
        life.supervisor.decide(lambda scheduler, _: scheduler.pause(Cause.PAUSE))
        await life.supervisor.saved()
        assert await permits(life) == []
        life.supervisor.decide(lambda scheduler, at: scheduler.resume(Cause.PAUSE, at))
        await life.submit()
        assert await permits(life) != []
        await life.supervisor.drain(ShutdownMode.LEAVE)
        assert await permits(life) == []


async def test_only_a_transaction_with_an_event_grants_permits(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        await granted(life, launcher)
        life.supervisor.decide(lambda scheduler, _: scheduler.pause(Cause.PAUSE))
        await life.supervisor.saved()
        position = life.store.position
        life.supervisor.decide(lambda scheduler, at: scheduler.resume(Cause.PAUSE, at))
        await life.supervisor.saved()

        assert (await permits(life), life.store.position) == ([], position)


async def test_unused_permits_are_withdrawn(config, launcher, monkeypatch):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        monkeypatch.setattr("bgd.daemon.permits.UNUSED_SECONDS", 0.01)
        launcher.say(end(life.key(job - 1)))
        await until(lambda: not life.supervisor.permits.value)
        await life.supervisor.saved()

        assert await permits(life) == []


def test_permits_are_withdrawn_a_second_after_the_last_short_job(monkeypatch):
    monkeypatch.setattr("bgd.daemon.permits.UNUSED_SECONDS", 1.0)
    permits, job = Permits(), Job(JobId(9), State.QUEUED, "default", 0, RetryPolicy())

    event = JobEvent(0.0, job.id, Move.START, job.state, 1, None, None, None)

    def jobs_after(elapsed):
        now = Now(wall=0.0, elapsed=elapsed)
        permits.close(Transaction(now=now, events=[event]), lambda most: [job][:most], "launcher")
        return list(permits.value)

    for at in (5.0, 5.5):
        permits.note_end(1, 0.001, 0.0, at)
    assert (jobs_after(5.9), permits.unused_at) == ([9], 6.0)
    assert (jobs_after(6.0), permits.unused_at) == ([9], 6.5)
    assert (jobs_after(6.5), permits.unused_at) == ([], inf)


async def test_jobs_have_no_permits_while_the_load_of_the_machine_is_watched(folder, launcher):
    config = configure(folder, "slots = 1\nmax_load = 1000")
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        first = await life.launched()
        for _ in range(3):
            await life.submit()
        launcher.say(end(first))
        await life.heard()
        await life.supervisor.saved()
        assert await permits(life) == []


@pytest.mark.parametrize("seconds", [SHORT_RUN, None])
async def test_after_a_long_job_nothing_has_a_permit(config, launcher, seconds):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        first = await life.launched()
        for _ in range(3):
            await life.submit()
        launcher.say(end(first, seconds))
        await life.heard()
        await life.supervisor.saved()
        assert await permits(life) == []


async def test_a_job_with_a_large_spec_is_launched_after_its_commit(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher, env={"A": "x" * 100_000})
        life.commits.close()
        launcher.say(end(life.key(job - 1)))
        await soon(life.commits.reached.wait())

        assert launches(await life.told_so_far()) == []
        life.commits.open()
        assert launches(await life.heard()) == [job]


# --- after the death of the daemon ------------------------------------------------------------------------


async def test_what_ran_by_permit_is_adopted_in_its_slot(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
    async with running_supervisor(config, launcher) as life:
        key = life.key(job)
        await launcher.greet(AttemptStarted(key, 5, 7.0, slot=1), end(life.key(job - 1)))

        assert launches(await life.told()) == []
        view, [attempt] = await life.view(job), await life.attempts(job)
        assert (view.state, view.started_at, attempt.pid) == (State.RUNNING, 7.0, 5)
        assert life.supervisor.scheduler.table.queues.active[JobId(job)].number == 1
        assert await permits(life) == [job + 1]
        launcher.say(end(key))
        assert launches(await life.heard()) == [job + 1]


async def test_what_ended_by_permit_is_recorded_with_its_start(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(end(life.key(job)), end(life.key(job - 1)))

        assert launches(await life.told()) == [job + 1]
        assert await whats(life, job) == ["submit", Move.START, Move.SUCCEED]


async def test_what_the_launcher_does_not_know_has_never_begun(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(end(life.key(job - 1)))

        assert launches(await life.told()) == [job]
        assert (await life.view(job)).attempt == 1


@pytest.mark.parametrize(
    ("options", "state", "moves"),
    [
        ({}, State.FAILED, [Move.GIVE_UP]),
        ({"rerun": True}, State.QUEUED, [Move.REQUEUE]),
    ],
)
async def test_what_may_have_begun_before_a_power_cut_gets_an_outcome_without_a_start(
    config, launcher, options, state, moves
):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance=OTHER_BOOT)
        job = await granted(life, launcher, **options)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance="boot:now")
        await life.heard()

        view = await life.view(job + 1)
        attempt = (await life.attempts(job + 1))[0]
        assert (view.state, attempt.outcome, attempt.started_at) == (state, Outcome.INTERRUPTED, None)
        assert attempt.error is not None
        assert attempt.error.message == "the machine went down; it may have begun"
        assert (await whats(life, job + 1))[: 1 + len(moves)] == ["submit", *moves]


async def test_nothing_is_done_to_jobs_before_a_launcher_has_said_what_has_begun(
    config, launcher, monkeypatch
):
    monkeypatch.setattr("bgd.daemon.supervisor.ANSWER_PATIENCE", 0.0)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
    async with running_supervisor(config, launcher) as life:
        with pytest.raises(Refused, match="bgd does not know yet which jobs have begun"):
            await life.actions.do("cancel", JobId(job))
        await life.submit()
        assert await permits(life) == [job, job + 1]
        with pytest.raises(Refused, match="bgd does not know yet which jobs have begun"):
            life.actions.check([command(key="a", debounce=60.0)])
        await launcher.greet()
        await life.told()
        life.actions.check([command(key="a", debounce=60.0)])
        await life.actions.do("cancel", JobId(job + 1))
        assert (await life.view(job + 1)).state is State.CANCELLED


async def test_schedules_wait_until_a_launcher_has_said_what_has_begun(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await granted(life, launcher)
        schedules = Schedules(life.supervisor, life.actions, life.store)
        await schedules.clock.load()
        spec = ScheduleSpec(job=command(), cron="* * * * *")
        await schedules.set({"missed": spec}, os.geteuid(), replaces=False)
        schedules.clock.by_name["missed"].stored = replace(
            schedules.clock.by_name["missed"].stored, seen_at=1_700_000_000.0
        )
        schedules.clock.save("missed")
        await life.supervisor.saved()
    async with running_supervisor(config, launcher) as life:
        schedules = Schedules(life.supervisor, life.actions, life.store)
        await schedules.clock.load()
        running = asyncio.create_task(schedules.clock.run())
        with pytest.raises(Refused, match="bgd does not know yet which jobs have begun"):
            schedules.run_now("missed", "me")
        await life.supervisor.saved()
        assert life.supervisor.newest_id == job + 1
        await launcher.greet()
        await life.told()

        await until(lambda: life.supervisor.newest_id > job + 1)
        running.cancel()


def test_slots_whose_jobs_are_shorter_than_commits_have_more_permits_up_to_a_limit():
    permits = Permits()
    numbers = []
    for _ in range(4):
        permits.note_end(1, 0.001, 0.005, 1.0)
        numbers.append(permits.numbers[1])
    assert numbers == [2, 4, MOST_PERMITS, MOST_PERMITS]
