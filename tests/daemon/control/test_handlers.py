"""Actions on jobs, and the shutdown, as clients ask for them."""

from __future__ import annotations

import asyncio
import os

from bgd.core.job import JobId, State
from bgd.daemon.storage import inbox, read
from bgd.daemon.storage.database import DiskFull
from bgd.wire.launching import Acknowledge, StopProcesses
from bgd.wire.messages import kinds_of
from bgd.wire.replies import Acted, Done, ErrorCode, Failed, InboxPart, Info
from bgd.wire.requests import (
    Cancel,
    Forget,
    GetInbox,
    GetInfo,
    Request,
    Retry,
    SaveStep,
    SetProgress,
    Shutdown,
    ShutdownMode,
    SubmitMany,
)
from tests.daemon.harness import command, configure, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon


async def test_every_request_has_an_answer(config, launcher):
    async with served(config, launcher) as life:
        unanswered = set(kinds_of(Request).values()) - life.control.handler._answers.keys()

    assert unanswered == {SubmitMany, SetProgress, SaveStep, Forget}, (
        "add a row to the table of answers in bgd/daemon/control (the connection handles these four itself)"
    )


async def test_cancel_answers_for_each_job_whatever_its_state(folder, launcher):
    async with served(configure(folder, "slots = 2"), launcher) as life:
        done = await life.launched()
        launcher.say(end(done))
        await launcher.hear(Acknowledge)
        running, stopping = await life.launched(), await life.launched()
        await life.actions.do("cancel", JobId(stopping.job))
        queued, scheduled = await life.submit(), await life.submit(command(delay=300.0))
        caller = await life.call()
        jobs = [done.job, running.job, stopping.job, queued, scheduled, 404]
        acted = await caller.ask(Cancel(1, jobs), Acted)
        assert [result.job for result in acted.results] == jobs
        assert [result.state for result in acted.results] == [
            None,
            State.STOPPING,
            State.STOPPING,
            State.CANCELLED,
            State.CANCELLED,
            None,
        ]
        assert [result.code for result in acted.results] == [
            ErrorCode.REFUSED,
            None,
            None,
            None,
            None,
            ErrorCode.NO_SUCH_JOB,
        ]
        assert acted.results[0].message == f"job {done.job} has already finished (succeeded)"
        stops = [message.key for message in await life.told() if isinstance(message, StopProcesses)]
        assert set(stops) == {running, stopping}


async def test_retry_answers_for_each_job_after_they_are_on_disk(config, launcher):
    async with served(config, launcher) as life:
        done, running = await life.launched(), await life.launched()
        launcher.say(end(done))
        await launcher.hear(Acknowledge)
        caller = await life.call()
        acted = await caller.ask(Retry(1, [done.job, done.job, running.job, 404]), Acted)
        assert [result.state for result in acted.results] == [State.QUEUED, State.QUEUED, None, None]
        assert [result.code for result in acted.results] == [
            None,
            None,  # it is named twice, and was retried once
            ErrorCode.REFUSED,
            ErrorCode.NO_SUCH_JOB,
        ]
        view = await life.store.read(read.view, JobId(done.job))
        assert view is not None
        assert (view.state, view.attempt) == (State.RUNNING, 2)


async def test_answer_to_a_cancel_waits_for_the_commit(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(delay=300.0))
        caller, other = await life.call(), await life.call()
        life.commits.close()
        caller.send(Cancel(1, [job]))
        answer = asyncio.ensure_future(caller.hear(Acted))
        await soon(life.commits.reached.wait())
        assert isinstance(await other.ask(GetInfo(1), Info), Info)
        assert not answer.done()
        life.commits.open()
        assert (await soon(answer)).results[0].state is State.CANCELLED


async def test_shutdown_is_answered_and_done_in_the_requested_mode(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await caller.ask(Shutdown(1, ShutdownMode.WAIT), Done)
        await caller.ask(Shutdown(2), Done)
        assert life.shutdowns == [ShutdownMode.WAIT, None]


async def end_of_session(life):
    """Leave the end of a job in the inbox of session "one" of the callers' user; return its id."""
    submitted = life.actions.submit([command(session="one", hold=True)], os.geteuid())
    await life.actions.do("cancel", submitted.first)
    await soon(life.supervisor.saved())
    return submitted.first


async def test_ends_that_cannot_be_marked_are_not_sent_and_others_get_them(config, launcher, monkeypatch):
    def write_nothing(*_):
        raise DiskFull("disk full")

    async with served(config, launcher) as life:
        job = await end_of_session(life)
        first, second = await life.call(), await life.call()
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "mark_handed_out", write_nothing)
            failed = await first.ask(GetInbox(id=1, session="one"), Failed)
        [part] = await second.stream(GetInbox(id=1, session="one"), InboxPart)
        assert await first.stream(GetInbox(id=2, session="one"), InboxPart) == []

    assert failed.message == "disk full"
    assert [(end.job, end.redelivered) for end in part.ends] == [(job, False)]


async def test_a_reader_that_leaves_while_its_ends_are_marked_leaves_them_to_others(config, launcher):
    async with served(config, launcher) as life:
        job = await end_of_session(life)
        first, second = await life.call(), await life.call()
        first.send(GetInbox(id=1, session="one"))
        await first.hang_up()
        [part] = await second.stream(GetInbox(id=1, session="one", wait=True), InboxPart)

    assert [end.job for end in part.ends] == [job]
