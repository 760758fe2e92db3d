"""What attempts say of themselves: taken, written once a second at most, told, and another's never."""

from __future__ import annotations

import asyncio

import pytest

from bgd.core.job import Outcome
from bgd.daemon import streams as progress_module
from bgd.daemon.control.limits import MAX_IN_FLIGHT
from bgd.daemon.streams import ANSWERED_AT_ONCE
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.replies import Acted, Done, ErrorCode, EventsPart, Failed, Info, JobsPart, ProgressPart
from bgd.wire.requests import Cancel, GetEvents, SetProgress, Wait
from bgd.wire.steering import GetInfo, ShutdownMode
from bgd.wire.views import JobProgress, Progress
from tests.daemon.patience import soon
from tests.daemon.scripted import end
from tests.daemon.stage import command, served

NEVER = 3600.0
RETRIED = command(retries=5, retry_delay=0.0)


@pytest.fixture
def once(monkeypatch):
    """Let no second transaction come due by itself."""
    monkeypatch.setattr(progress_module, "INTERVAL", NEVER)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress_module, "INTERVAL", 0.01)


def report(key, fraction=None, message=None, request_id=1):
    return SetProgress(id=request_id, job=key.job, attempt=key.attempt, fraction=fraction, message=message)


async def say(caller, key, fraction=None, message=None):
    assert await caller.ask(report(key, fraction, message), Done) == Done(1)


async def test_what_an_attempt_says_is_seen(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        assert (await life.view(key.job)).progress is None

        await say(await life.call(), key, 0.25, "größer\n")

        assert (await life.view(key.job)).progress == Progress(0.25, "größer\n")


@pytest.mark.usefixtures("once")
async def test_reports_within_a_second_share_a_transaction(config, launcher):
    async with served(config, launcher) as life:
        keys = [await life.launched() for _ in range(2)]
        caller = await life.call()
        await say(caller, keys[0], 0.1)
        await life.view(keys[0].job)
        before = life.commits.commits

        for count in range(10):
            await say(caller, keys[count % 2], count / 10)
        await soon(life.supervisor.saved())

        assert life.commits.commits == before
        assert [(await life.view(key.job)).progress for key in keys] == [Progress(0.1), None]


@pytest.mark.usefixtures("often")
async def test_what_came_within_the_second_is_written_after_it(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        caller.send(Wait(9, [key.job], progress=True))
        for count in range(1, 11):
            caller.send(report(key, count / 10))

        said: list[float | None] = []
        while said[-1:] != [1.0]:
            if isinstance(reply := await caller.next(), ProgressPart):
                said += [told.progress.fraction for told in reply.jobs]

        assert said == sorted(set(said), key=said.index)
        assert (await life.view(key.job)).progress == Progress(1.0)


@pytest.mark.usefixtures("once")
async def test_the_end_takes_the_last_report_along(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        await say(caller, key, 0.1)
        await life.view(key.job)
        await say(caller, key, 0.9, "nearly")

        launcher.say(end(key, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)

        assert (await life.view(key.job)).progress == Progress(0.9, "nearly")


@pytest.mark.usefixtures("once")
async def test_an_orderly_stop_takes_the_last_report_along(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        await say(caller, key, 0.1)
        await life.view(key.job)
        await say(caller, key, 0.9)

        await soon(life.supervisor.drain(ShutdownMode.LEAVE))

        assert (await life.view(key.job)).progress == Progress(0.9)


@pytest.mark.usefixtures("once")
async def test_the_next_attempt_begins_without(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(RETRIED)
        caller = await life.call()
        await say(caller, key, 0.5)
        await life.view(key.job)
        await say(caller, key, 0.9)

        launcher.say(end(key, Outcome.EXIT, 1))
        while not isinstance(message := await launcher.next(), Launch):
            pass

        assert message.key.attempt == 2
        assert (await life.view(key.job)).progress is None


@pytest.mark.usefixtures("often")
async def test_nothing_said_is_no_progress(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        caller.send(GetEvents(id=9, follow=True, progress=True))
        await caller.hear(EventsPart)
        for said in (Progress(0.5), Progress()):
            caller.send(report(key, said.fraction, said.message))
            assert said in [event.progress for event in await told_events(caller)]

        assert (await life.view(key.job)).progress is None


async def told_events(caller):
    """Return the events of the next part that has any."""
    while not (isinstance(reply := await caller.next(), EventsPart) and reply.events):
        pass
    return reply.events


@pytest.mark.parametrize("change", [{"attempt": 2}, {"job": 99}])
async def test_what_does_not_run_cannot_report(config, launcher, change):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        given = {"id": 1, "job": key.job, "attempt": key.attempt, "fraction": 0.5, **change}

        failed = await caller.ask(SetProgress(**given), Failed)

        assert failed.code is ErrorCode.REFUSED
        assert failed.message == (
            f"attempt {given['attempt']} of job {given['job']} does not run: only what runs reports progress"
        )
        assert (await life.view(key.job)).progress is None


async def test_what_has_ended_or_waits_cannot_report(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        launcher.say(end(key))
        await launcher.hear(Acknowledge)
        waiting = life.key(await life.submit(command(delay=300.0)), attempt=1)
        caller = await life.call()

        for each in (key, waiting):
            assert (await caller.ask(report(each, 0.5), Failed)).code is ErrorCode.REFUSED


async def test_what_is_about_to_stop_still_may(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        await caller.ask(Cancel(2, [key.job]), Acted)

        await say(caller, key, message="tidying up")

        assert (await life.view(key.job)).progress == Progress(None, "tidying up")


@pytest.mark.parametrize("fields", [{"fraction": 1.01}, {"fraction": float("nan")}, {"message": "x" * 201}])
async def test_what_is_out_of_range_is_refused(config, launcher, fields):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()

        failed = await caller.ask(report(key, **fields), Failed)

        assert failed.code is ErrorCode.PROTOCOL
        assert isinstance(await caller.ask(GetInfo(2), Info), Info)


@pytest.mark.usefixtures("once")
async def test_a_flood_waits_for_its_answers_and_nobody_else_does(config, launcher):
    async with served(config, launcher) as life:
        keys = [await life.launched() for _ in range(2)]
        flooding, other = await life.call(), await life.call()

        flooding.send(*(report(keys[0], request_id=number) for number in range(2 * MAX_IN_FLIGHT)))
        answered = [(await flooding.hear(Done)).id for _ in range(ANSWERED_AT_ONCE)]
        await say(other, keys[1], 0.5)
        assert isinstance(await other.ask(GetInfo(2), Info), Info)

        assert answered == list(range(ANSWERED_AT_ONCE))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flooding.next(), 0.2)


@pytest.mark.usefixtures("often")
async def test_a_flood_is_answered_in_the_end(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        many = 2 * MAX_IN_FLIGHT

        caller.send(*(report(key, number / many, request_id=number) for number in range(many)))

        assert [(await caller.hear(Done)).id for _ in range(many)] == list(range(many))


# --- those who are told ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("often")
async def test_who_waits_is_told_what_was_said_before_and_what_is_said(config, launcher):
    async with served(config, launcher) as life:
        key, other = await life.launched(), await life.launched()
        caller, waiting = await life.call(), await life.call()
        await say(caller, key, 0.25)
        await life.view(key.job)

        waiting.send(Wait(7, [key.job], progress=True))
        before = await waiting.hear(ProgressPart)
        await say(caller, other, 0.3)
        await say(caller, key, 0.5, "half")
        after = await waiting.hear(ProgressPart)
        launcher.say(end(key))

        assert before.jobs == [JobProgress(key.job, 1, Progress(0.25))]
        assert after.jobs == [JobProgress(key.job, 1, Progress(0.5, "half"))]
        assert [view.id for view in (await waiting.hear(JobsPart)).jobs] == [key.job]


@pytest.mark.usefixtures("often")
async def test_who_did_not_ask_for_it_is_not_told(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, waiting, watching = [await life.call() for _ in range(3)]
        waiting.send(Wait(7, [key.job]))
        begun = await watching.ask(GetEvents(id=8, follow=True), EventsPart)
        await say(caller, key, 0.5)
        await life.view(key.job)

        launcher.say(end(key))

        assert [view.id for view in (await waiting.hear(JobsPart)).jobs] == [key.job]
        part = await watching.hear(EventsPart)
        assert [event.what for event in part.events] == ["succeed"]
        assert part.last == begun.last + 1


@pytest.mark.usefixtures("often")
async def test_events_tell_it_live_and_keep_none_of_it(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, watching = await life.call(), await life.call()
        begun = await watching.ask(GetEvents(id=8, follow=True, progress=True), EventsPart)

        await say(caller, key, 0.5, "half")

        [event] = (part := await watching.hear(EventsPart)).events
        assert (event.what, event.job, event.attempt, event.state) == ("progress", key.job, 1, "running")
        assert event.progress == Progress(0.5, "half")
        assert event.id == part.last == begun.last
        kept = await caller.stream(GetEvents(id=2, since=0, progress=True), EventsPart)
        assert [each.what for part in kept for each in part.events] == ["submit", "start"]


@pytest.mark.usefixtures("once")
async def test_of_what_has_ended_no_progress_is_told(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, watching = await life.call(), await life.call()
        await watching.ask(GetEvents(id=8, follow=True, progress=True), EventsPart)
        life.commits.close()
        await say(caller, key, 0.5)
        await soon(life.commits.reached.wait())
        await say(caller, key, 0.9)
        launcher.say(end(key))
        life.commits.open()
        await launcher.hear(Acknowledge)

        whats = []
        while "succeed" not in whats:
            whats += [event.what for event in (await watching.hear(EventsPart)).events]
        assert whats in (["progress", "succeed"], ["succeed"])
        assert (await life.view(key.job)).progress == Progress(0.9)


@pytest.mark.usefixtures("once")
async def test_nothing_is_kept_of_a_job_that_has_ended(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        for fraction in (0.1, 0.5):
            await say(caller, key, fraction)
            await life.view(key.job)
        book = life.supervisor.progress
        assert book._unsaved

        launcher.say(end(key))
        await launcher.hear(Acknowledge)

        assert not book._unsaved
        book._on_timer()  # a second later
        assert not book._counts
        assert book._timer is None
