from __future__ import annotations

import asyncio
import signal
import time

import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause, Reason
from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.retry import NOT_RERUN
from bgd.core.spec import ExecutorKind
from bgd.daemon import dispatch, supervisor
from bgd.daemon.storage import read, summaries
from bgd.daemon.storage.database import StoreBroken
from bgd.errors import NoSuchJob, Refused
from bgd.system import clock
from bgd.wire.launching import (
    Acknowledge,
    AttemptKey,
    AttemptStarted,
    Launch,
    LogGrew,
    Place,
    StopProcesses,
    WatchLog,
)
from bgd.wire.requests import ShutdownMode
from tests.daemon.harness import SLOTS, command, configure, running_supervisor
from tests.daemon.scripted_launcher import EARLIER_BOOT, FIRST, SECOND, end
from tests.daemon.waiting import soon, until
from tests.launcher.host import is_stopped
from tests.support import DEADLINE

PID = 4711  # of every attempt that the launcher reports as running


def runs(key):
    return AttemptStarted(key, PID, 1.0)


async def stored_launchers(life):
    """Return the launcher that each active attempt is saved for."""
    return {
        item.job.id: item.launcher
        async for page in life.store.unfinished()
        for item in page
        if item.slot is not None
    }


def launches(messages):
    return [message.key for message in messages if isinstance(message, Launch)]


# --- the wall clock -----------------------------------------------------------------------------------


@pytest.fixture
def jumps(monkeypatch):
    """Return by how much the wall clock was set; a test appends the next value, and the alarm reports it."""
    jumps = [0.0]

    def shown():
        real = clock.now()
        return Now(real.elapsed, real.wall + jumps[-1])

    monkeypatch.setattr(supervisor, "now", shown)
    monkeypatch.setattr(supervisor, "inf", time.time())  # the alarm rings as if the clock were set
    return jumps


async def test_due_times_follow_the_wall_clock_when_it_is_set(config, launcher, jumps):
    async with running_supervisor(config, launcher) as life:
        job = await life.submit(command(delay=60.0))
        due_at = await due_at_of(life, job)
        for jump in (1e8, -1e8):
            jumps.append(jump)
            await soon(until_due(life, job, due_at + jump))


async def due_at_of(life, job):
    due_at = (await life.view(job)).due_at
    assert due_at is not None
    return due_at


async def until_due(life, job, due_at):
    while (await life.store.read(read.view, job)).due_at != pytest.approx(due_at, abs=1.0):  # noqa: ASYNC110 - nothing reports it
        await asyncio.sleep(0)


async def test_a_clock_that_is_set_costs_one_commit_however_many_jobs_wait(config, launcher, jumps):
    async with running_supervisor(config, launcher) as life:
        jobs = [life.take(command(delay=60.0)) for _ in range(100)]
        due_at = await due_at_of(life, jobs[-1])
        commits = life.commits.commits
        jumps.append(1e8)
        await soon(until_due(life, jobs[-1], due_at + 1e8))
        assert life.commits.commits == commits + 1


async def test_the_next_boot_reads_due_times_by_the_wall_clock_as_it_was_set(
    config, launcher, jumps, monkeypatch
):
    async with running_supervisor(config, launcher) as life:
        job = await life.submit(command(delay=60.0))
        due_at = await due_at_of(life, job)
        jumps.append(1e8)
        await soon(until_due(life, job, due_at + 1e8))
    monkeypatch.setattr(clock, "boot_id", lambda: "another boot")
    async with running_supervisor(config, launcher) as life:
        assert await due_at_of(life, job) == pytest.approx(due_at + 1e8, abs=1.0)
        restored = life.supervisor.get(job)
        assert restored is not None
        assert restored.due == pytest.approx(clock.elapsed() + 60.0, abs=DEADLINE)


# --- R1, R3: restarts ---------------------------------------------------------------------------------


async def test_generation_grows_with_every_start(config, launcher):
    generations = []
    for _ in range(3):
        async with running_supervisor(config, launcher):
            generations.append((await launcher.greet()).generation)
    assert generations == [1, 2, 3]


async def test_nothing_starts_before_a_launcher_has_reported_what_it_knows(config, launcher):
    async with running_supervisor(config, launcher) as life:
        job = await life.submit()
        assert (await life.view(job)).state is State.QUEUED
        await launcher.greet()
        assert launches(await life.told()) == [life.key(job)]


async def test_running_attempt_is_adopted_and_not_started_again(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(runs(key))
        assert await life.told() == []
        assert (await life.attempts(key.job))[0].pid == PID
        launcher.say(end(key))
        assert (await launcher.hear(Acknowledge)).key == key
        assert (await life.view(key.job)).state is State.SUCCEEDED


async def test_adopted_attempt_holds_its_slot(folder, launcher):
    config = configure(folder, "slots = 1")
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        second = await life.submit()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(runs(key))
        assert await life.told() == []
        launcher.say(end(key))
        assert launches(await life.heard()) == [life.key(second)]


async def test_adopted_attempt_that_should_stop_is_stopped_again(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        await life.actions.do("cancel", JobId(key.job))
        assert await life.told() == [StopProcesses(key, config.daemon.grace, is_cancel=True)]
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(runs(key))
        assert await life.told() == [StopProcesses(key, config.daemon.grace, is_cancel=True)]
        assert (await life.view(key.job)).state is State.STOPPING


async def test_attempt_that_its_launcher_never_received_is_sent_again(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        assert launches(await life.told()) == [key]
        assert len(await life.attempts(key.job)) == 1


async def test_attempt_that_a_dead_launcher_never_received_is_saved_for_the_next_before_it_is_sent(
    config, launcher
):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
    async with running_supervisor(config, launcher) as life:
        life.commits.close()
        await launcher.greet(instance=SECOND, covers=[FIRST])
        await soon(life.commits.reached.wait())
        assert await life.told_so_far() == []
        assert await stored_launchers(life) == {key.job: FIRST}
        life.commits.open()
        assert (await launcher.hear(Launch)).key == key
        assert await stored_launchers(life) == {key.job: SECOND}


async def test_attempt_of_a_dead_launcher_is_unknown_and_not_run_again_by_itself(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance=SECOND)
        assert launches(await life.told()) == []
        view = await life.view(key.job)
        assert (view.state, view.outcome, view.reason) == (State.FAILED, Outcome.UNKNOWN, NOT_RERUN)


async def test_attempt_of_a_dead_launcher_is_followed_by_another_if_the_job_allows_it(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched(command(rerun=True, retry_delay=0.0))
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance=SECOND)
        assert (await launcher.hear(Launch)).key == life.key(key.job, attempt=2)


async def test_attempt_of_an_earlier_boot_is_interrupted_and_costs_no_retry(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance=EARLIER_BOOT)
        key = await life.launched(command(retries=1, retry_delay=300.0))
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance=SECOND)
        assert (await launcher.hear(Launch)).key == life.key(key.job, attempt=2)
        first, second = await life.attempts(key.job)
        assert (first.outcome, second.outcome) == (Outcome.INTERRUPTED, None)


async def test_stopping_attempt_that_never_started_is_cancelled(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        await life.actions.do("cancel", JobId(key.job))
        await launcher.hear(StopProcesses)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        assert await life.told() == []
        view = await life.view(key.job)
        assert (view.state, view.outcome) == (State.CANCELLED, Outcome.CANCELLED)


async def test_attempt_that_the_database_does_not_know_is_stopped(config, launcher):
    async with running_supervisor(config, launcher) as life:
        stray, foreign = life.key(99), AttemptKey("another store", 1, 1)
        await launcher.greet(runs(stray), runs(foreign))
        grace = config.daemon.grace
        assert await life.told() == [StopProcesses(stray, grace), StopProcesses(foreign, grace)]


async def test_running_attempt_that_has_ended_in_the_database_is_stopped(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(instance=SECOND)
        await life.told()
        assert (await life.view(key.job)).outcome is Outcome.UNKNOWN
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(runs(key))
        assert await life.told() == [StopProcesses(key, config.daemon.grace)]


async def test_delay_continues_after_a_restart(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        soon_due = await life.submit(command(delay=0.3))
        long = await life.submit(command(delay=300.0))
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        assert (await launcher.hear(Launch)).key == life.key(soon_due)
        assert (await life.view(long)).state is State.SCHEDULED


# --- R4: ends -----------------------------------------------------------------------------------------


async def test_end_is_acknowledged_only_after_its_commit(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        life.commits.close()
        launcher.say(end(key))
        await soon(life.commits.reached.wait())
        assert await life.told_so_far() == []
        life.commits.open()
        assert (await launcher.hear(Acknowledge)).key == key
        assert (await life.attempts(key.job))[0].outcome is Outcome.SUCCEEDED


async def test_repeated_end_is_acknowledged_again_and_changes_nothing(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched(command(retries=3))
        launcher.say(end(key), end(key, Outcome.EXIT, 5), end(key))
        assert [(await launcher.hear(Acknowledge)).key for _ in range(3)] == [key] * 3
        view = await life.view(key.job)
        assert (view.state, view.exit_code, view.attempt) == (State.SUCCEEDED, 0, 1)


async def test_end_of_an_unknown_attempt_is_acknowledged(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        strays = [AttemptKey("another store", key.job, 1), life.key(99), life.key(key.job, attempt=2)]
        launcher.say(*map(end, strays))
        assert [(await launcher.hear(Acknowledge)).key for _ in strays] == strays
        assert (await life.view(key.job)).state is State.RUNNING


async def test_end_that_the_launcher_kept_is_recorded_when_it_is_greeted(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(end(key, Outcome.EXIT, 3))
        assert [told.key for told in await life.told() if isinstance(told, Acknowledge)] == [key]
        view = await life.view(key.job)
        assert (view.state, view.exit_code) == (State.FAILED, 3)


async def test_failed_attempt_is_followed_by_another_after_its_delay(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched(command(retries=1, retry_delay=0.05))
        launcher.say(end(key, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)
        assert (await launcher.hear(Launch)).key == life.key(key.job, attempt=2)


# --- save first, then answer, then act ----------------------------------------------------------------


async def test_nothing_is_answered_or_started_before_the_commit(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        life.commits.close()
        job = life.take()
        answered = asyncio.Event()
        life.supervisor.when_saved(answered.set)
        await soon(life.commits.reached.wait())
        assert await life.told_so_far() == []
        assert not answered.is_set()
        life.commits.open()
        await soon(answered.wait())
        assert (await launcher.hear(Launch)).key == life.key(job)


async def test_broken_store_ends_the_supervisor_and_nothing_is_answered(config, launcher):
    answered = asyncio.Event()
    with pytest.RaisesGroup(StoreBroken):
        async with running_supervisor(config, launcher) as life:
            life.commits.failure = StoreBroken("the disk is gone")
            life.take()
            life.supervisor.when_saved(answered.set)
            await asyncio.Event().wait()
    assert not answered.is_set()
    async with running_supervisor(config, launcher) as life:
        assert await life.store.read(read.view, JobId(1)) is None


async def test_facts_that_arrive_during_a_commit_share_the_next_one(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await life.submit()
        before = life.commits.commits
        life.commits.close()
        jobs = [life.take()]
        await soon(life.commits.reached.wait())
        jobs += [life.take() for _ in range(1000)]
        life.commits.open()
        await soon(life.supervisor.saved())
        assert life.commits.commits == before + 2
        assert (await life.store.read(summaries.counts))["queued"] == len(jobs) + 1


async def test_read_without_a_change_costs_no_commit(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await life.submit()
        before = life.commits.commits
        await soon(life.supervisor.saved())
        assert life.commits.commits == before


async def test_delayed_job_starts_by_itself(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await life.submit(command(delay=0.05))
        assert (await launcher.hear(Launch)).key == life.key(job)


# --- a launcher that is lost and back -----------------------------------------------------------------


@pytest.mark.parametrize("back", [FIRST, SECOND], ids=["the same", "another"])
async def test_launcher_lost_and_back_while_a_start_is_being_saved(config, launcher, back):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        life.commits.close()
        job = life.take()
        await soon(life.commits.reached.wait())
        launcher.hang_up()
        await launcher.greet(instance=back)
        await life.told_so_far()
        life.commits.open()
        assert launches(await life.told()) == [life.key(job)]
        assert await stored_launchers(life) == {job: back}
        assert len(await life.attempts(job)) == 1


@pytest.mark.parametrize("back", [FIRST, SECOND], ids=["the same", "another"])
async def test_launcher_lost_and_back_before_a_start_is_even_being_saved(config, launcher, back):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        life.commits.close()
        first = life.take()
        await soon(life.commits.reached.wait())
        second = life.take()
        launcher.hang_up()
        await launcher.greet(instance=back)
        await life.told_so_far()
        life.commits.open()
        told = launches(await life.told())
        assert len(told) == 2  # one for each attempt
        assert set(told) == {life.key(first), life.key(second)}
        assert await stored_launchers(life) == {first: back, second: back}


async def test_nothing_starts_while_there_is_no_launcher(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        launcher.hang_up()
        await soon(life.is_lost.wait())
        job = await life.submit()
        assert (await life.view(job)).state is State.QUEUED
        await launcher.greet(runs(key))
        assert launches(await life.told()) == [life.key(job)]


async def test_start_that_could_not_be_sent_goes_to_the_next_launcher(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        life.commits.close()
        job = life.take()
        await soon(life.commits.reached.wait())
        launcher.hang_up()
        await soon(life.is_lost.wait())
        life.commits.open()
        assert (await life.view(job)).state is State.RUNNING
        await launcher.greet(instance=SECOND)
        assert launches(await life.told()) == [life.key(job)]


async def test_launcher_that_sends_invalid_bytes_is_disconnected_and_greeted_again(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        launcher.say_raw(b"\0\0\0\1\xc1")
        await launcher.greet(runs(key))
        assert await life.told() == []


# --- refusals -----------------------------------------------------------------------------------------


async def test_job_that_is_no_longer_allowed_is_refused_at_its_start(folder, launcher):
    config = configure(folder, "slots = 1")
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        first = await life.launched()
        waiting = await life.submit(command("/bin/echo", retries=5))
        listed = '[security]\nallowed_commands = ["/bin/true"]'
        life.supervisor.configure(configure(folder, "slots = 1", listed))
        launcher.say(end(first))
        assert launches(await life.heard() + await life.told()) == []
        view = await life.view(waiting)
        assert (view.state, view.outcome) == (State.FAILED, Outcome.REFUSED)
        (attempt,) = await life.attempts(waiting)
        assert attempt.error is not None
        assert "allowed_commands" in attempt.error.message


async def test_more_slots_start_waiting_jobs_at_once(folder, launcher):
    async with running_supervisor(configure(folder, "slots = 1"), launcher) as life:
        await launcher.greet()
        await life.launched()
        second = await life.submit()
        life.supervisor.configure(configure(folder, "slots = 2"))
        assert launches(await life.told()) == [life.key(second)]


# --- cancel and retry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 300.0])
async def test_waiting_job_is_cancelled_at_once(config, launcher, delay):
    async with running_supervisor(config, launcher) as life:
        job = await life.submit(command(delay=delay))
        assert await life.actions.do("cancel", job) is State.CANCELLED
        assert (await life.view(job)).state is State.CANCELLED
        await launcher.greet()
        assert await life.told() == []


async def test_running_job_is_stopped_and_then_cancelled(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched(command(retries=3))
        assert await life.actions.do("cancel", JobId(key.job)) is State.STOPPING
        assert await life.actions.do("cancel", JobId(key.job)) is State.STOPPING
        assert await life.told() == [StopProcesses(key, config.daemon.grace, is_cancel=True)]
        launcher.say(end(key, Outcome.CANCELLED, None))
        await launcher.hear(Acknowledge)
        assert (await life.view(key.job)).state is State.CANCELLED


async def test_job_cancelled_while_its_start_is_being_saved_never_starts(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        life.commits.close()
        job = life.take()
        await soon(life.commits.reached.wait())
        assert await life.actions.do("cancel", job) is State.STOPPING
        life.commits.open()
        assert await life.told() == []
        view = await life.view(job)
        assert (view.state, view.outcome) == (State.CANCELLED, Outcome.CANCELLED)


async def test_job_cancelled_without_a_launcher_is_stopped_when_one_is_back(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        launcher.hang_up()
        await soon(life.is_lost.wait())
        await life.actions.do("cancel", JobId(key.job))
        assert (await life.view(key.job)).state is State.STOPPING
        await launcher.greet(runs(key))
        assert await life.told() == [StopProcesses(key, config.daemon.grace, is_cancel=True)]


async def test_retried_job_continues_to_count_its_attempts(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        launcher.say(end(key, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)
        assert await soon(life.actions.do("retry", JobId(key.job))) is State.QUEUED
        assert (await launcher.hear(Launch)).key == life.key(key.job, attempt=2)


async def test_job_whose_end_is_being_saved_can_be_retried(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        life.commits.close()
        launcher.say(end(key))
        await soon(life.commits.reached.wait())
        async with asyncio.TaskGroup() as tasks:
            revived = tasks.create_task(life.actions.do("retry", JobId(key.job)))
            await life.told_so_far()
            life.commits.open()
        assert revived.result() is State.QUEUED


async def test_job_retried_twice_at_once_is_queued_once(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        launcher.say(end(key))
        await launcher.hear(Acknowledge)
        both = await soon(
            asyncio.gather(
                *(life.actions.do("retry", JobId(key.job)) for _ in range(2)), return_exceptions=True
            )
        )
        assert both[0] is State.QUEUED
        assert isinstance(both[1], Refused)
        assert launches(await life.told()) == [life.key(key.job, attempt=2)]


async def test_unfinished_and_unknown_jobs_are_not_retried(config, launcher):
    async with running_supervisor(config, launcher) as life:
        job = await life.submit()
        with pytest.raises(Refused, match="has not finished"):
            await soon(life.actions.do("retry", job))
        with pytest.raises(NoSuchJob, match="no job 99"):
            await soon(life.actions.do("retry", JobId(99)))


# --- draining -----------------------------------------------------------------------------------------


async def test_drain_that_leaves_jobs_returns_at_once_and_starts_nothing_more(folder, launcher):
    async with running_supervisor(configure(folder, "slots = 1"), launcher) as life:
        await launcher.greet()
        key = await life.launched()
        waiting = await life.submit()
        await soon(life.supervisor.drain(ShutdownMode.LEAVE))
        launcher.say(end(key))
        await life.heard()
        assert (await life.view(waiting)).state is State.QUEUED
        assert await life.told() == []


async def test_draining_daemon_takes_no_jobs(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await soon(life.supervisor.drain(ShutdownMode.LEAVE))
        with pytest.raises(Refused, match="shutting down"):
            life.actions.check([command()])


async def test_drain_that_waits_returns_when_all_attempts_have_ended(folder, launcher):
    async with running_supervisor(configure(folder, "slots = 2"), launcher) as life:
        await launcher.greet()
        keys = [await life.launched(), await life.launched()]
        waiting = await life.submit()
        drain = life.tasks.create_task(life.supervisor.drain(ShutdownMode.WAIT))
        for key in keys:
            assert await life.told() == []
            assert not drain.done()
            launcher.say(end(key))
            await launcher.hear(Acknowledge)
        await soon(drain)
        assert (await life.view(waiting)).state is State.QUEUED


async def test_drain_that_waits_returns_at_once_if_nothing_runs(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await soon(life.supervisor.drain(ShutdownMode.WAIT))


async def test_drain_that_requeues_stops_jobs_and_queues_them_again(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        drain = life.tasks.create_task(life.supervisor.drain(ShutdownMode.REQUEUE))
        assert await launcher.hear(StopProcesses) == StopProcesses(key, config.daemon.grace)
        launcher.say(end(key, Outcome.CANCELLED, None))
        await launcher.hear(Acknowledge)
        await soon(drain)
        assert (await life.view(key.job)).state is State.QUEUED
        [attempt] = await life.attempts(key.job)
        assert attempt.outcome is Outcome.INTERRUPTED
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        assert launches(await life.told()) == [life.key(key.job, attempt=2)]


async def test_drain_that_cancels_leaves_waiting_jobs(folder, launcher):
    async with running_supervisor(configure(folder, "slots = 1"), launcher) as life:
        await launcher.greet()
        key = await life.launched()
        waiting = await life.submit()
        drain = life.tasks.create_task(life.supervisor.drain(ShutdownMode.CANCEL))
        await launcher.hear(StopProcesses)
        launcher.say(end(key, Outcome.CANCELLED, None))
        await soon(drain)
        assert (await life.view(key.job)).state is State.CANCELLED
        assert (await life.view(waiting)).state is State.QUEUED


async def test_launcher_that_is_back_while_draining_gets_nothing_new(folder, launcher):
    async with running_supervisor(configure(folder, "slots = 1"), launcher) as life:
        await launcher.greet()
        key = await life.launched()
        waiting = await life.submit()
        drain = life.tasks.create_task(life.supervisor.drain(ShutdownMode.WAIT))
        launcher.hang_up()
        await launcher.greet(runs(key))
        launcher.say(end(key))
        await launcher.hear(Acknowledge)
        await soon(drain)
        assert await life.told() == []
        assert (await life.view(waiting)).state is State.QUEUED


# --- logs ---------------------------------------------------------------------------------------------


async def test_launcher_reports_the_growth_of_a_log_while_somebody_follows_it(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        with life.supervisor.subscribe_to_log(JobId(key.job)) as subscription:
            assert await life.told() == [WatchLog(key)]
            subscription.take_moved()
            launcher.say(LogGrew(key, 10))
            await soon(subscription.changed.wait())
        assert await life.told() == [WatchLog(key, on=False)]


async def test_log_is_watched_until_its_last_follower_leaves_or_fails(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        with life.supervisor.subscribe_to_log(JobId(key.job)):
            with pytest.raises(asyncio.CancelledError), life.supervisor.subscribe_to_log(JobId(key.job)):
                raise asyncio.CancelledError
            assert WatchLog(key, on=False) not in await life.told()
        assert await life.told() == [WatchLog(key, on=False)]
        with pytest.raises(asyncio.CancelledError), life.supervisor.subscribe_to_log(JobId(key.job)):
            raise asyncio.CancelledError
        assert await life.told() == [WatchLog(key), WatchLog(key, on=False)]


async def test_attempt_of_a_followed_job_is_watched_from_its_first_byte(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        job = await life.submit(command(delay=0.05))
        with life.supervisor.subscribe_to_log(job):
            await launcher.hear(Launch)
            assert await launcher.hear(WatchLog) == WatchLog(life.key(job))


async def test_adopted_attempt_is_watched_again_for_its_follower(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        with life.supervisor.subscribe_to_log(JobId(key.job)):
            await launcher.hear(WatchLog)
            launcher.hang_up()
            await launcher.greet(runs(key))
            assert await life.told() == [WatchLog(key)]


# --- a cluster ----------------------------------------------------------------------------------------


async def test_an_attempt_without_a_node_says_what_it_waits_for_until_it_has_one(config, launcher):
    far = Place(executor="far", kind=ExecutorKind.SLURM)
    wait = Reason(cause=Cause.NODE, subject="far", problem="Resources")
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        job = JobId(key.job)

        launcher.say(AttemptStarted(key, None, 1.0, place=far, waits=wait))
        await life.heard()
        assert life.supervisor.explain(job) == (wait,)
        assert (await life.view(job)).needs_node
        await life.actions.do("suspend", job)
        assert [each.cause for each in life.supervisor.explain(job)] == [Cause.SUSPENSION, Cause.NODE]

        launcher.say(AttemptStarted(key, PID, 1.0, suspended=True, place=replace(far, node="n1")))
        await life.heard()
        assert [each.cause for each in life.supervisor.explain(job)] == [Cause.SUSPENSION]
        assert not (await life.view(job)).needs_node


async def test_an_attempt_that_cannot_start_yet_says_why_until_it_runs(config, launcher):
    wait = Reason(cause=Cause.START, problem="the disk is full")
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()

        launcher.say(AttemptStarted(key, None, 1.0, waits=wait))
        await life.heard()
        assert life.supervisor.explain(JobId(key.job)) == (wait,)

        launcher.say(AttemptStarted(key, PID, 1.0))
        await life.heard()
        assert life.supervisor.explain(JobId(key.job)) == ()


async def test_an_attempt_that_no_launcher_reports_waits_for_the_launcher(config, launcher, monkeypatch):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        assert life.supervisor.explain(JobId(key.job)) == ()

        monkeypatch.setattr(dispatch, "START_PATIENCE", 0.0)

        assert life.supervisor.explain(JobId(key.job)) == (Reason(cause=Cause.START),)
        await life.actions.do("suspend", JobId(key.job))
        assert [each.cause for each in life.supervisor.explain(JobId(key.job))] == [Cause.SUSPENSION]


async def test_jobs_wait_for_a_launcher_that_is_stopped_and_say_so(config, launcher):
    stopped = await asyncio.create_subprocess_exec("sleep", "100")
    try:
        stopped.send_signal(signal.SIGSTOP)
        await until(lambda: is_stopped(stopped.pid))
        async with running_supervisor(config, launcher) as life:
            await launcher.greet(pid=stopped.pid)
            sent = await life.launched()
            held = await life.submit(command(slots=SLOTS))

            for job in (JobId(sent.job), held):
                first = life.supervisor.explain(job)[0]
                assert first.cause is Cause.LAUNCHER
                assert f"kill -CONT {stopped.pid} continues it" in (first.problem or "")
    finally:
        stopped.kill()
        await stopped.wait()


async def test_what_an_attempt_waits_for_is_known_only_while_there_is_a_launcher(config, launcher):
    far = Place(executor="far", kind=ExecutorKind.SLURM)
    wait = Reason(cause=Cause.REQUESTS, subject="far")
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched()
        waiting = AttemptStarted(key, None, 1.0, place=far, waits=wait)
        launcher.say(waiting)
        await life.heard()

        launcher.hang_up()
        await soon(life.is_lost.wait())
        assert life.supervisor.explain(JobId(key.job)) == ()
        await launcher.greet(waiting)
        await soon(life.is_met.wait())
        assert life.supervisor.explain(JobId(key.job)) == (wait,)
