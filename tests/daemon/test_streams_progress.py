"""Progress of attempts is accepted from running attempts only, saved once a second at most, and streamed."""

from __future__ import annotations

import asyncio

import pytest

from bgd.core.job import Outcome
from bgd.daemon import streams
from bgd.daemon.control.limits import MAX_IN_FLIGHT
from bgd.daemon.streams import MAX_PROMPT_ANSWERS
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.replies import Acted, Done, ErrorCode, EventsPart, Failed, Info, JobsPart, ProgressPart
from bgd.wire.requests import Cancel, GetEvents, GetInfo, SetProgress, ShutdownMode, Wait
from bgd.wire.views import JobProgress, Progress
from tests.daemon.harness import command, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon

NEVER = 3600.0
RETRIED = command(retries=5, retry_delay=0.0)


@pytest.fixture
def once(monkeypatch):
    """Let no second transaction become due by itself."""
    monkeypatch.setattr(streams, "PROGRESS_INTERVAL", NEVER)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(streams, "PROGRESS_INTERVAL", 0.01)


def report(key, fraction=None, message=None, request_id=1):
    return SetProgress(id=request_id, job=key.job, attempt=key.attempt, fraction=fraction, message=message)


async def say(caller, key, fraction=None, message=None):
    assert await caller.ask(report(key, fraction, message), Done) == Done(1)


async def test_reported_progress_is_shown(config, launcher):
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
async def test_reports_within_the_second_are_saved_after_it(config, launcher):
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
async def test_the_end_of_an_attempt_saves_its_last_report(config, launcher):
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
async def test_a_shutdown_saves_the_last_report(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        await say(caller, key, 0.1)
        await life.view(key.job)
        await say(caller, key, 0.9)

        await soon(life.supervisor.drain(ShutdownMode.LEAVE))

        assert (await life.view(key.job)).progress == Progress(0.9)


@pytest.mark.usefixtures("once")
async def test_the_next_attempt_starts_without_progress(config, launcher):
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
async def test_a_job_that_reported_nothing_has_no_progress(config, launcher):
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
    """Return the events of the next part that is not empty."""
    while not (isinstance(reply := await caller.next(), EventsPart) and reply.events):
        pass
    return reply.events


@pytest.mark.parametrize("change", [{"attempt": 2}, {"job": 99}])
async def test_an_attempt_that_does_not_run_cannot_report(config, launcher, change):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        given = {"id": 1, "job": key.job, "attempt": key.attempt, "fraction": 0.5, **change}

        failed = await caller.ask(SetProgress(**given), Failed)

        assert failed.code is ErrorCode.REFUSED
        assert failed.message == (
            f"attempt {given['attempt']} of job {given['job']} does not run: only a running attempt"
            " reports progress"
        )
        assert (await life.view(key.job)).progress is None


async def test_finished_and_waiting_jobs_cannot_report(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        launcher.say(end(key))
        await launcher.hear(Acknowledge)
        waiting = life.key(await life.submit(command(delay=300.0)), attempt=1)
        caller = await life.call()

        for each in (key, waiting):
            assert (await caller.ask(report(each, 0.5), Failed)).code is ErrorCode.REFUSED


async def test_a_stopping_attempt_can_report(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        await caller.ask(Cancel(2, [key.job]), Acted)

        await say(caller, key, message="tidying up")

        assert (await life.view(key.job)).progress == Progress(None, "tidying up")


@pytest.mark.parametrize("fields", [{"fraction": 1.01}, {"fraction": float("nan")}, {"message": "x" * 201}])
async def test_values_out_of_range_are_refused(config, launcher, fields):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()

        failed = await caller.ask(report(key, **fields), Failed)

        assert failed.code is ErrorCode.PROTOCOL
        assert isinstance(await caller.ask(GetInfo(2), Info), Info)


@pytest.mark.usefixtures("once")
async def test_only_the_job_that_floods_waits_for_its_answers(config, launcher):
    async with served(config, launcher) as life:
        keys = [await life.launched() for _ in range(2)]
        flooding, other = await life.call(), await life.call()

        flooding.send(*(report(keys[0], request_id=number) for number in range(2 * MAX_IN_FLIGHT)))
        answered = [(await flooding.hear(Done)).id for _ in range(MAX_PROMPT_ANSWERS)]
        await say(other, keys[1], 0.5)
        assert isinstance(await other.ask(GetInfo(2), Info), Info)

        assert answered == list(range(MAX_PROMPT_ANSWERS))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flooding.next(), 0.2)


@pytest.mark.usefixtures("often")
async def test_a_flood_is_answered_after_the_interval(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        many = 2 * MAX_IN_FLIGHT

        caller.send(*(report(key, number / many, request_id=number) for number in range(many)))

        assert [(await caller.hear(Done)).id for _ in range(many)] == list(range(many))


# --- followers -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("often")
async def test_a_waiting_client_gets_the_progress_so_far_and_all_later_progress(config, launcher):
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
async def test_a_client_that_did_not_ask_for_progress_gets_none(config, launcher):
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
async def test_the_event_stream_carries_progress_live_and_keeps_none(config, launcher):
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
async def test_no_progress_is_sent_of_a_job_that_has_ended(config, launcher):
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
async def test_the_buffer_keeps_nothing_of_a_job_that_has_ended(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        for fraction in (0.1, 0.5):
            await say(caller, key, fraction)
            await life.view(key.job)
        progress = life.supervisor.progress
        assert progress._unsaved

        launcher.say(end(key))
        await launcher.hear(Acknowledge)

        assert not progress._unsaved
        progress._on_timer()  # a second later
        assert not progress._counts
        assert progress._timer is None
