"""Jobs that the launcher gets ahead, and gives back if they have not begun."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from bgd.clock import now
from bgd.core.explain import Cause
from bgd.core.job import JobId, Move, Now, Outcome, State
from bgd.daemon.storage import activity, change_stream
from bgd.errors import Refused
from bgd.wire.launching import (
    FIRST_WITH_RETURNS,
    AttemptReturned,
    AttemptStarted,
    CheckAttempt,
    Checked,
    Launch,
    RecallAttempts,
    StopProcesses,
    SuspendProcesses,
)
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import EventView
from tests.daemon.harness import command, configure, running_supervisor
from tests.daemon.scripted_launcher import end as end_of
from tests.daemon.waiting import soon


@pytest.fixture
def config(folder):
    return configure(folder, "slots = 1")


def end(key):
    return replace(end_of(key), run_seconds=0.001)


def launches(messages):
    return [(message.key.job, message.key.attempt) for message in messages if isinstance(message, Launch)]


async def prefetched(life, launcher):
    """Run a short job, and let a second one run and "build" wait behind it; return the key of that."""
    first = await life.launched()
    second, third = await life.submit(), await life.submit(command(name="build"))
    launcher.say(end(first))
    assert launches(await life.heard()) == [(second, 1), (third, 1)]
    return life.key(third)


THREE_STARTS = {
    (activity.QUEUE, "default"): 3,
    (activity.NAME, activity.OTHER): 2,
    (activity.NAME, "build"): 1,
}


@pytest.fixture
def one_minute(monkeypatch):
    """Let all happen in one minute of the charts."""
    wall = now().wall
    monkeypatch.setattr("bgd.daemon.supervisor.now", lambda: Now(now().elapsed, wall))


async def charted_starts(life):
    """Return how many starts the charts of queues and names count."""
    rows = await life.store.read(
        lambda db: db.execute("SELECT kind, subject, counts FROM activity").fetchall()
    )
    counted: Counter[tuple[str, str]] = Counter()
    for kind, subject, packed in rows:
        counted[kind, subject] += activity._decode(packed).started
    return +counted


def decide_end(life, job):
    """Let the first attempt of a job end after a short time, without its launcher."""
    life.supervisor.decide(
        lambda scheduler, at: scheduler.ended(JobId(job), 1, Outcome.SUCCEEDED, at, seconds=0.001)
    )


async def test_after_a_short_job_the_launcher_gets_two(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)

        assert (await life.view(key.job)).state is State.RUNNING
        assert (life.supervisor.scheduler.running, life.supervisor.scheduler.taken) == (1, 1)


async def test_an_older_launcher_gets_nothing_ahead(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(protocol=FIRST_WITH_RETURNS - 1)
        first = await life.launched()
        second, _ = await life.submit(), await life.submit()
        launcher.say(end(first))

        assert launches(await life.heard()) == [(second, 1)]


async def test_nothing_starts_ahead_while_somebody_is_told_of_starts(folder, launcher):
    told = '[notify.ops]\nmail = "ops@example.org"\non = ["started"]'
    async with running_supervisor(configure(folder, "slots = 1", told), launcher) as life:
        await launcher.greet()
        first = await life.launched()
        second, _ = await life.submit(), await life.submit()
        launcher.say(end(first))

        assert launches(await life.heard()) == [(second, 1)]


async def test_a_returned_attempt_leaves_no_trace_and_starts_again_under_its_number(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)

        launcher.say(AttemptReturned(key))

        await life.heard()
        assert (await life.view(key.job)).state is State.QUEUED
        assert await life.attempts(key.job) == []
        launcher.say(end(life.key(key.job - 1)))
        assert launches(await life.heard()) == [(key.job, 1)]
        launcher.say(end(key))
        await life.heard()
        view = await life.view(key.job)
        assert (view.state, view.attempt) == (State.SUCCEEDED, 1)
        events = await life.store.read(change_stream.read_events, 0, 100)
        whats = [event.what for event in events if isinstance(event, EventView) and event.job == key.job]
        assert whats == ["submit", Move.START, Move.RETURN, Move.START, Move.SUCCEED]


@pytest.mark.usefixtures("one_minute")
async def test_charts_count_the_start_of_a_returned_attempt_once(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        launcher.say(AttemptReturned(key), end(life.key(key.job - 1)))
        await life.heard()
        launcher.say(end(key))
        await life.heard()

        assert await charted_starts(life) == THREE_STARTS


@pytest.mark.usefixtures("one_minute")
async def test_charts_count_a_start_once_that_is_returned_after_a_restart(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(AttemptStarted(life.key(key.job - 1), 1, 1.0), AttemptStarted(key, None, 1.0))
        launcher.say(AttemptReturned(key), end(life.key(key.job - 1)))
        assert launches(await life.heard()) == [(key.job, 1)]

        assert await charted_starts(life) == THREE_STARTS


async def test_it_may_start_again_in_the_transaction_of_its_return(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        life.commits.close()
        life.take(command("/bin/true", priority=-1))
        launcher.say(AttemptReturned(key), end(life.key(key.job - 1)))
        await life.commits.reached.wait()
        life.commits.open()

        assert launches(await life.heard()) == [(key.job, 1), (key.job + 1, 1)]
        assert [each.attempt for each in await life.attempts(key.job)] == [1]


async def test_a_return_of_what_is_to_be_stopped_cancels_it(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        life.supervisor.decide(lambda scheduler, at: scheduler.cancel(key.job, at))
        await launcher.hear(StopProcesses)

        launcher.say(AttemptReturned(key))

        await life.heard()
        assert (await life.view(key.job)).state is State.CANCELLED
        [attempt] = await life.attempts(key.job)
        assert attempt.outcome is Outcome.CANCELLED


async def test_a_returned_attempt_that_was_suspended_meanwhile_goes_back_and_can_be_continued(
    config, launcher
):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        life.supervisor.decide(lambda scheduler, at: scheduler.set_suspended(key.job, at, suspended=True))
        assert await launcher.hear(SuspendProcesses) == SuspendProcesses(key)
        launcher.say(AttemptReturned(key))

        launch, suspend = (await life.heard())[-2:]

        assert isinstance(launch, Launch)
        assert (launch.key, launch.is_prefetched) == (key, True)
        assert suspend == SuspendProcesses(key)
        assert (await life.view(key.job)).state is State.RUNNING
        assert [attempt.attempt for attempt in await life.attempts(key.job)] == [1]


async def test_a_return_of_an_unknown_attempt_changes_nothing(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        launcher.say(AttemptReturned(life.key(key.job, 2)), AttemptReturned(life.key(99)))

        assert await life.heard() == []
        assert (await life.view(key.job)).state is State.RUNNING


async def test_a_more_urgent_job_recalls_what_waits(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)

        urgent = await life.submit(command(priority=1))

        assert await life.heard() == [RecallAttempts()]
        launcher.say(AttemptReturned(key), end(life.key(key.job - 1)))
        assert launches(await life.heard()) == [(urgent, 1), (key.job, 1)]


async def test_a_pause_recalls_what_waits(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)

        life.supervisor.decide(lambda scheduler, _: scheduler.pause(Cause.PAUSE))

        assert await life.heard() == [RecallAttempts()]
        launcher.say(AttemptReturned(key), end(life.key(key.job - 1)))
        assert launches(await life.heard()) == []


async def test_what_is_sent_ahead_after_a_pause_was_asked_for_is_recalled_too(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        first = await life.launched()
        second, third = await life.submit(), await life.submit()
        life.commits.close()
        launcher.say(end(first))
        await life.commits.reached.wait()
        life.supervisor.decide(lambda scheduler, _: scheduler.pause(Cause.PAUSE))
        life.commits.open()

        told = await life.heard()

        assert launches(told) == [(second, 1), (third, 1)]
        assert told[-1] == RecallAttempts()


async def test_one_transaction_recalls_what_it_starts_before_a_pause_but_not_what_it_starts_later(
    config, launcher
):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        first = await life.launched()
        second, third, fourth = await life.submit(), await life.submit(), await life.submit()
        life.commits.close()
        life.take()
        await life.commits.reached.wait()
        decide_end(life, first.job)
        life.supervisor.decide(lambda scheduler, _: scheduler.pause(Cause.PAUSE))
        life.supervisor.decide(lambda scheduler, at: scheduler.resume(Cause.PAUSE, at))
        decide_end(life, second)
        life.commits.open()

        told = await life.heard()

        recalled = told.index(RecallAttempts())
        assert launches(told[:recalled]) == [(third, 1)]
        assert launches(told[recalled:]) == [(fourth, 1), (fourth + 1, 1)]


@pytest.mark.parametrize("mode", [ShutdownMode.REQUEUE, ShutdownMode.CANCEL])
async def test_a_shutdown_ends_only_attempts_that_have_begun(config, launcher, mode):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        launcher.answers = None
        drain = life.tasks.create_task(life.supervisor.drain(mode))
        assert await launcher.hear(RecallAttempts) == RecallAttempts()
        question = await launcher.hear(CheckAttempt)

        launcher.say(AttemptReturned(key), Checked(question.number, True))

        assert (await launcher.hear(StopProcesses)).key.job == key.job - 1
        launcher.say(end_of(life.key(key.job - 1), Outcome.CANCELLED, None))
        await soon(drain)
        assert (await life.view(key.job)).state is State.QUEUED
        assert await life.attempts(key.job) == []


async def test_what_was_never_started_is_queued_again_after_a_crash(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(AttemptStarted(life.key(key.job - 1), 1, 1.0))

        assert launches(await life.told()) == []
        assert (await life.view(key.job)).state is State.QUEUED
        assert await life.attempts(key.job) == []


@pytest.mark.parametrize("what", ["launcher", "daemon"])
async def test_what_was_never_started_does_not_start_during_a_pause(config, launcher, what):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        life.supervisor.decide(lambda scheduler, _: scheduler.pause(Cause.PAUSE))
        await life.told()
        if what == "launcher":
            launcher.hang_up()
            life.is_met.clear()
            await launcher.greet(AttemptStarted(life.key(key.job - 1), 1, 1.0))
            assert launches(await life.told()) == []
            assert (await life.view(key.job)).state is State.QUEUED
    async with running_supervisor(config, launcher) as life:
        life.supervisor.scheduler.pause(Cause.PAUSE)
        await launcher.greet()

        assert launches(await life.told()) == []


async def test_what_was_never_started_starts_in_its_turn(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        later = await life.submit(command(priority=1))
        launcher.hang_up()
        life.is_met.clear()
        await launcher.greet(end(life.key(key.job - 1)))

        assert launches(await life.heard()) == [(later, 1)]
        launcher.say(end(life.key(later)))
        assert launches(await life.heard()) == [(key.job, 1)]


async def test_a_suspended_attempt_that_was_never_started_is_launched_again(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        await life.actions.do("suspend", JobId(key.job))
        await life.told()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(AttemptStarted(life.key(key.job - 1), 1, 1.0))

        launch = await launcher.hear(Launch)
        assert (launch.key, launch.slot, launch.is_prefetched) == (key, 1, True)
        assert await launcher.hear(SuspendProcesses) == SuspendProcesses(key)


async def test_what_waits_is_adopted_by_the_next_daemon(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(AttemptStarted(life.key(key.job - 1), 1, 1.0), AttemptStarted(key, None, 1.0))

        assert await life.told() == [RecallAttempts()]  # others may have to start first by now
        assert (life.supervisor.scheduler.running, life.supervisor.scheduler.taken) == (1, 1)


@pytest.mark.parametrize("verb", ["signal", "suspend"])
async def test_what_is_asked_of_a_job_that_comes_back_is_not_said_to_come_too_late(config, launcher, verb):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        launcher.answers = None
        given = {"signal": 15, "whole_tree": False} if verb == "signal" else {}
        asked = asyncio.create_task(life.actions.do(verb, JobId(key.job), **given))
        if verb == "suspend":
            await launcher.hear(SuspendProcesses)
        question = await launcher.hear(CheckAttempt)

        launcher.say(AttemptReturned(key), Checked(question.number, False))

        if verb == "signal":
            with pytest.raises(Refused, match=f"job {key.job} has not begun"):
                await soon(asked)
        else:  # it is launched again, suspended
            await soon(asked)


async def test_a_prefetched_job_has_waited_until_it_began(config, launcher):
    """Not only until it was sent to the launcher: it waits there for its slot."""
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await prefetched(life, launcher)
        at = now()
        began = at.wall + 5
        launcher.say(AttemptStarted(key, 1, began, since=at.elapsed + 5), replace(end(key), started_at=began))
        await life.heard()

        view, [attempt] = await life.view(key.job), await life.attempts(key.job)

    assert view.started_at == attempt.started_at == began
    assert view.waited_seconds == pytest.approx(5, abs=2)
