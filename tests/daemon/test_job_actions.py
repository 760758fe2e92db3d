"""What people do to jobs, over the control socket with a scripted launcher."""

from __future__ import annotations

import asyncio
import json
import signal
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core import spec as limits
from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec, OnLimit
from bgd.daemon import dispatch, job_actions
from bgd.daemon.storage import read, summaries
from bgd.errors import NoSuchJob, Refused
from bgd.system import clock
from bgd.wire import launching
from bgd.wire.launching import Acknowledge, AttemptStarted, Launch, StopProcesses
from bgd.wire.limits import Abilities, Limits
from bgd.wire.replies import Acted, End, ErrorCode, Failed, Submitted
from bgd.wire.requests import (
    Cancel,
    Changes,
    Continue,
    Edit,
    Hold,
    Release,
    Remove,
    Selection,
    SendSignal,
    Show,
    Submit,
    SubmitMany,
    Suspend,
)
from tests.daemon.harness import UID, command, configure, served, write_log
from tests.daemon.scripted_launcher import SECOND, end
from tests.daemon.waiting import soon, until

SCHEDULED = {"delay": 300.0}


async def finished(life, launcher, outcome=Outcome.SUCCEEDED, **fields):
    key = await life.launched(command(**fields))
    launcher.say(end(key, outcome))
    await launcher.hear(Acknowledge)
    return key.job


async def act(caller, request):
    """Return the new state of the one job in the request, or why it was refused."""
    (result,) = (await caller.ask(request, Acted)).results
    return result.state or result.message


# --- jobs that wait for a newer one ---------------------------------------------------------------------


async def test_a_job_waits_for_a_newer_one_and_takes_its_options(config, launcher, monkeypatch):
    began, later = clock.now(), 0.0
    monkeypatch.setattr("bgd.daemon.job_actions.now", lambda: Now(began.elapsed + later, began.wall + later))
    async with served(config, launcher) as life:

        async def submit(*argv, **fields):
            submitted = life.actions.submit([command(*argv, key="site", **fields)], UID)
            await soon(life.supervisor.saved())
            return submitted

        def due():
            waiting = life.supervisor.get(job)
            assert waiting is not None
            assert waiting.due is not None
            return waiting.due - began.elapsed

        first = await submit("old", debounce=500.0)
        [job] = first.jobs
        assert (first.found, due()) == ([], pytest.approx(500.0))
        later = 300.0
        again = await submit("new", debounce=500.0, priority=7, tags=("late",))
        assert (again.jobs, again.found, again.first) == ([job], [job], None)
        assert due() == pytest.approx(800.0)
        view = await life.view(job)
        assert (view.priority, view.argv, view.tags, view.debounce, view.key) == (
            7,
            ["new"],
            ["late"],
            500.0,
            "site",
        )
        later = 4800.0
        await submit("newest", debounce=500.0)
        assert due() == pytest.approx(5000.0)  # ten times as long after the first, at most

        plain = await submit("ignored")  # without a debounce, the key only finds the job
        assert (plain.found, due()) == ([job], pytest.approx(5000.0))
        later = 5001.0
        late = await submit("last", debounce=500.0)
        launch = await launcher.hear(Launch)
        assert (late.jobs, launch.argv) == ([job], ["last"])
        await submit("too late", debounce=500.0)
        assert (await life.view(job)).argv == ["last"]


async def test_jobs_that_have_ended_are_forgotten_by_those_that_wait(config, launcher, monkeypatch):
    monkeypatch.setattr("bgd.daemon.job_actions.MAX_DEBOUNCED", 1)
    async with served(config, launcher) as life:
        kept = life.take(command(key="kept", debounce=100.0))
        gone = life.take(command(key="gone", debounce=100.0))
        await life.actions.do("cancel", gone)
        life.actions.submit([command(key="kept", debounce=100.0)], UID)
        assert life.actions._debounced.keys() == {kept}


# --- jobs that wait -----------------------------------------------------------------------------------


async def test_held_job_starts_after_its_release_and_with_its_changes(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        job = await life.submit(command("before", hold=True, env={"KEPT": "1", "OLD": "1"}))
        changes = Changes(argv=("after",), priority=7, name="edited", tags=("a", "b"), env={"OLD": "2"})
        assert await act(caller, Edit(1, [job], changes)) is State.HELD
        view, _ = await caller.show(Show(2, job))
        assert (view.argv, view.priority, view.name, view.tags) == (["after"], 7, "edited", ["a", "b"])

        await soon(life.is_met.wait())
        assert await act(caller, Release(3, [job])) is State.RUNNING

        launch = await launcher.hear(Launch)
        assert launch.argv == ["after"]
        assert (launch.env["KEPT"], launch.env["OLD"]) == ("1", "2")


async def test_edited_and_held_jobs_stay_so_after_a_restart(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        job = await life.submit(command(**SCHEDULED, key="nightly"))
        other = await life.submit(command(after=(job,)))
        await act(caller, Edit(1, [job], Changes(queue="slow", retries=4, timeout=9.0, slots=2)))
        await act(caller, Hold(2, [job]))
    async with served(config, launcher) as life:
        view, _ = await (await life.call()).show(Show(1, job))
        assert (view.state, view.queue, view.retries, view.timeout) == (State.HELD, "slow", 4, 9.0)
        assert (view.key, view.slots) == ("nightly", 2)
        blocked, _ = await (await life.call()).show(Show(1, other))
        assert (blocked.state, blocked.waits_for) == (State.BLOCKED, [job])
        await life.actions.do("cancel", job)
        assert (await life.view(other)).state is State.CANCELLED


async def test_jobs_that_wait_for_each_other_can_be_cancelled_together(config, launcher):
    async with served(config, launcher) as life:
        first = await life.submit(command(hold=True))
        second = await life.submit(command(after=(first,)))

        results = (await (await life.call()).ask(Cancel(1, [first, second]), Acted)).results

        assert [each.state for each in results] == [State.CANCELLED, State.CANCELLED]


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (Hold, "is running: only a waiting job can be held (suspend stops a running one)"),
        (Release, "is running: it is not held"),
        (lambda number, jobs: Edit(number, jobs, Changes(priority=1)), "is running: only a waiting job"),
        (Remove, "has not finished: cancel it first"),
    ],
)
async def test_running_job_refuses_actions_for_other_states(config, launcher, request_of, message):
    async with served(config, launcher) as life:
        key = await life.launched()

        assert message in await act(await life.call(), request_of(1, [key.job]))


@pytest.mark.parametrize(
    "request_of",
    [Hold, Release, Suspend, Continue, lambda number, jobs: SendSignal(id=number, jobs=jobs, signal=10)],
)
async def test_errors_of_finished_and_unknown_jobs_differ(config, launcher, request_of):
    async with served(config, launcher) as life:
        job = await finished(life, launcher)
        acted = await (await life.call()).ask(request_of(1, [job, 404]), Acted)

        assert [result.code for result in acted.results] == [ErrorCode.REFUSED, ErrorCode.NO_SUCH_JOB]
        assert acted.results[0].message == f"job {job} has already finished (succeeded)"


@pytest.mark.parametrize(("verb", "function"), [("cancel", read.finished_jobs), ("retry", read.plain_specs)])
async def test_a_job_that_ends_while_others_are_looked_up_is_not_called_unknown(
    config, launcher, monkeypatch, verb, function
):
    async with served(config, launcher) as life:
        job = await finished(life, launcher)
        key = await life.launched()
        read_from = life.store.read

        async def read_after_the_end(wanted, *arguments):
            if wanted is function and life.supervisor.is_unfinished(JobId(key.job)):
                launcher.say(end(key))
                await launcher.hear(Acknowledge)
            return await read_from(wanted, *arguments)

        monkeypatch.setattr(life.store, "read", read_after_the_end)
        results = await soon(life.actions.act(verb, [job, key.job]))

        of_finished = ErrorCode.REFUSED if verb == "cancel" else None
        assert [each.code for each in results] == [of_finished, ErrorCode.REFUSED]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(after=(1,)), "job 1 cannot wait for job 1, which waits for it"),
        (Changes(after_any=(404,)), "no job 404"),
        (Changes(cwd="here"), "cwd must be an absolute path"),
        (Changes(name="a\tb"), "printable text on one line"),
    ],
)
async def test_edit_that_makes_no_sense_changes_nothing(config, launcher, changes, message):
    async with served(config, launcher) as life:
        job = await life.submit(command(**SCHEDULED))
        before = await life.view(job)

        assert message in await act(await life.call(), Edit(1, [job], changes))

        after = await life.view(job)
        assert replace(after, waited_seconds=before.waited_seconds) == before  # that keeps growing


@pytest.mark.parametrize(("argument", "key"), [("{1}", "customer:{1}"), ("a{b}", "customer:a{b}")])
async def test_an_edit_does_not_look_for_arguments_in_the_key_of_a_limit_again(
    folder, launcher, argument, key
):
    config = configure(folder, rest='[security]\nallowed_classes = ["app.*"]\n')
    async with served(config, launcher) as life:
        arguments = json.dumps({"args": [argument, "of another customer"]})
        limited = JobSpec(target="app:run", arguments=arguments, limit=("customer:{0}", 1), hold=True)
        job = JobId(await life.submit(limited))

        await life.actions.do("edit", job, changes=Changes(priority=4))
        assert (await life.view(job)).limit == (key, 1)

        await life.actions.do("edit", job, changes=Changes(limit=("of:{0}", 2)))
        assert (await life.view(job)).limit == (f"of:{argument}", 2)


async def test_edited_option_replaces_the_one_it_excludes(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        job = await life.submit(command(**SCHEDULED, retries=1, retry_on=(1,), input=b"given"))

        await act(caller, Edit(1, [job], Changes(at=2e9, no_retry_on=(2,), stdin="/dev/null")))

        view = await life.view(job)
        assert (view.delay, view.at, view.retry_on, view.no_retry_on) == (0.0, 2e9, None, [2])
        assert await act(caller, Edit(2, [job], Changes(delay=0.0))) is State.RUNNING
        launch = await launcher.hear(Launch)
        assert (launch.stdin, launch.stdin_path) == (None, "/dev/null")


async def test_class_job_does_not_become_a_command(folder, launcher):
    config = configure(folder, rest='[security]\nallowed_classes = ["app.*"]')
    async with served(config, launcher) as life:
        job = await life.submit(command().__class__(target="app:work", hold=True))

        assert "cannot become a command" in await act(
            await life.call(), Edit(1, [job], Changes(argv=("sh",)))
        )


# --- jobs that wait for others ------------------------------------------------------------------------


async def test_job_waits_for_others_that_run_and_not_for_those_that_succeeded(config, launcher):
    async with served(config, launcher) as life:
        done, running = await finished(life, launcher), await life.launched()
        caller = await life.call()
        submitted = await caller.ask(
            Submit(1, command(after=(done, running.job), after_any=(done,))), Submitted
        )
        (job,) = submitted.jobs
        assert (await life.view(job)).waits_for == [running.job]

        launcher.say(end(running))

        assert {type(message) for message in (await launcher.next(), await launcher.next())} == {
            Launch,
            Acknowledge,
        }
        assert (await life.view(job)).state is State.RUNNING


async def test_job_after_one_that_failed_is_cancelled_at_once_and_says_why(config, launcher):
    async with served(config, launcher) as life:
        failed = await finished(life, launcher, Outcome.EXIT)
        batch = SubmitMany(id=1, specs=[command(after=(failed,)), command(after_any=(failed,))])
        submitted = await (await life.call()).ask(batch, Submitted)

        view = await life.view(submitted.jobs[0])
        assert (view.state, view.waits_for) == (State.CANCELLED, [])
        assert view.reason == f"job {failed}, which had to succeed first, failed"
        assert (await life.view(submitted.jobs[1])).state is State.RUNNING


async def test_job_of_a_batch_does_not_wait_for_one_that_expires_now(config, launcher, monkeypatch):
    async with served(config, launcher) as life:
        caller = await life.call()
        late = await life.submit(command(hold=True, expires=30.0))
        then = clock.elapsed()
        monkeypatch.setattr(clock, "elapsed", lambda: then + 60.0)  # and its timer has not fired yet

        reply = await caller.ask(SubmitMany(id=1, specs=[command(), command(after_any=(late,))]), Submitted)

        launched = [(await launcher.hear(Launch)).key.job for _ in reply.jobs]
        assert launched == reply.jobs


async def test_job_cannot_wait_for_one_that_does_not_exist(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        assert (await caller.ask(Submit(1, command(after=(404,))), Failed)).message == "no job 404"
        batch = SubmitMany(id=2, specs=[command(), command(after=(404,))])
        assert (await caller.ask(batch, Failed)).code is ErrorCode.NO_SUCH_JOB
        assert await life.store.read(summaries.counts) | {"queued": 0, "running": 0} == await life.store.read(
            summaries.counts
        )


async def test_jobs_cannot_wait_for_each_other(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await life.submit(command(**SCHEDULED))
        second = await life.submit(command(after=(first,)))
        third = await life.submit(command(after_any=(second,)))

        assert "which waits for it" in await act(caller, Edit(1, [first], Changes(after=(third,))))

        assert await act(caller, Edit(2, [third], Changes(after_any=(), delay=0.0))) is State.RUNNING


async def test_number_of_all_dependencies_is_limited(config, launcher, monkeypatch):
    monkeypatch.setattr("bgd.daemon.access.MAX_ALL_WAITS", 2)
    async with served(config, launcher) as life:
        caller = await life.call()
        first, second = await life.submit(command(**SCHEDULED)), await life.submit(command(**SCHEDULED))
        both = command(after=(first,), after_any=(first, second))
        waiting = (await caller.ask(Submit(1, both), Submitted)).jobs[0]

        assert (await caller.ask(Submit(2, both), Failed)).code is ErrorCode.FULL

        await life.actions.do("cancel", JobId(waiting))
        one = command(after=(first,))
        batch = await caller.ask(SubmitMany(id=3, specs=[one] * 3), Failed)
        assert (batch.code, life.supervisor.scheduler.waits) == (ErrorCode.FULL, 0)
        await caller.ask(SubmitMany(id=4, specs=[one] * 2), Submitted)


async def test_the_failure_of_a_job_cancels_the_rest_of_its_chain(config, launcher):
    async with served(config, launcher) as life:
        chain = SubmitMany(id=1, specs=[command()] * 3, chain=True)
        first, second, third = (await (await life.call()).ask(chain, Submitted)).jobs
        assert [(await life.view(job)).waits_for for job in (first, second, third)] == [[], [first], [second]]

        launched = await launcher.hear(Launch)
        launcher.say(end(launched.key, Outcome.EXIT))

        await launcher.hear(Acknowledge)
        views = [await life.view(job) for job in (first, second, third)]
        assert [view.state for view in views] == [State.FAILED, State.CANCELLED, State.CANCELLED]
        assert views[2].reason == f"job {second}, which had to succeed first, was cancelled"


async def test_job_that_cannot_wait_for_another_one_is_refused_in_a_chain(config, launcher, monkeypatch):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await life.submit(command(**SCHEDULED))
        put_off = command(key="k", debounce=5.0)

        refused = await caller.ask(SubmitMany(id=1, specs=[put_off, put_off], chain=True), Failed)
        assert refused.message.startswith("job 1 of the chain: debounce cannot be combined with")
        await caller.ask(SubmitMany(id=2, specs=[put_off, command()], chain=True), Submitted)

        monkeypatch.setattr(limits, "MAX_WAITS", 1)
        chain = SubmitMany(id=3, specs=[command(), command(after=(first,))], chain=True)
        assert (await caller.ask(chain, Failed)).message == "job 1 of the chain waits for more than 1 jobs"


async def test_a_chain_is_submitted_as_a_whole_in_several_parts(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await life.launched(command(limit=("k", 1)))
        skipped = command(limit=("k", 1), on_limit=OnLimit.SKIP)
        caller.send(SubmitMany(id=2, specs=[skipped], chain=True, more=True))

        chain = await caller.ask(SubmitMany(id=2, specs=[command()]), Submitted)

        assert [(await life.view(job)).state for job in chain.jobs] == [State.CANCELLED] * 2


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.SUCCEEDED, State.RUNNING), (Outcome.EXIT, State.CANCELLED)]
)
async def test_a_job_of_a_chain_can_follow_a_finished_one_that_still_has_its_key(
    config, launcher, outcome, state
):
    async with served(config, launcher) as life:
        caller, kept = await life.call(), command(key="k", key_for=1000.0)
        first = await life.launched(kept)
        launcher.say(end(first, outcome))
        await launcher.hear(Acknowledge)

        chain = await caller.ask(SubmitMany(id=2, specs=[kept, command()], chain=True), Submitted)

        assert chain.found == [first.job]
        assert (await life.view(chain.jobs[1])).state is state


# --- keys ---------------------------------------------------------------------------------------------


async def test_submit_with_the_key_of_an_unfinished_job_returns_that_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        key = await life.launched(command(key="once"))
        again = await caller.ask(Submit(1, command(key="once")), Submitted)
        assert (again.jobs, again.created, again.found) == ([key.job], False, [key.job])
        batch = SubmitMany(
            id=2, specs=[command(key="once"), command(), command(key="twice"), command(key="twice")]
        )
        many = await caller.ask(batch, Submitted)
        assert (many.created, many.found) == (False, [key.job, many.jobs[2]])
        assert many.jobs[2] == many.jobs[3]

        launcher.say(end(key))
        await soon(life.supervisor.saved())
        assert (await caller.ask(Submit(3, command(key="once", hold=True)), Submitted)).created

        with pytest.raises(Refused, match="has the key of job"):
            await life.actions.do("retry", JobId(key.job))


# --- jobs that run ------------------------------------------------------------------------------------


async def test_suspended_job_is_shown_so_and_can_be_continued(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        key = await life.launched()
        assert await act(caller, Suspend(1, [key.job])) is State.RUNNING
        assert await launcher.hear(launching.SuspendProcesses) == launching.SuspendProcesses(key)
        assert (await life.view(key.job)).suspended
        assert await act(caller, Suspend(2, [key.job])) is State.RUNNING

        assert await act(caller, Continue(3, [key.job])) is State.RUNNING

        assert await launcher.hear(launching.ContinueProcesses) == launching.ContinueProcesses(key)
        assert not (await life.view(key.job)).suspended


async def test_job_that_bgd_did_not_suspend_can_be_continued(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        key = await life.launched()

        assert await act(caller, Continue(1, [key.job])) is State.RUNNING

        assert await launcher.hear(launching.SignalProcesses) == launching.SignalProcesses(
            key, signal.SIGCONT, whole_tree=True
        )


@pytest.mark.parametrize("others", ["s", "sc", "scs"])
async def test_continue_does_not_interfere_with_what_was_asked_for_after_it(config, launcher, others):
    async with served(config, launcher) as life:
        key = await life.launched()
        verbs = {"s": "suspend", "c": "continue"}
        life.commits.close()
        life.take(command(**SCHEDULED))
        await soon(life.commits.reached.wait())
        asked = [
            life.tasks.create_task(life.actions.do(verbs[each], JobId(key.job))) for each in f"c{others}"
        ]
        life.commits.open()

        assert await soon(asyncio.gather(*asked)) == [State.RUNNING] * len(asked)

        assert (await life.view(key.job)).suspended is others.endswith("s")
        messages = {"s": launching.SuspendProcesses(key), "c": launching.ContinueProcesses(key)}
        assert await life.told() == [messages[each] for each in others]


async def test_adopted_attempt_gets_the_commands_it_may_have_missed(config, launcher):
    async with served(config, launcher) as life:
        suspended, going = await life.launched(), await life.launched()
        await life.actions.do("suspend", JobId(suspended.job))
        await soon(life.supervisor.saved())
        runs = [AttemptStarted(suspended, 1, 1.0), AttemptStarted(going, 2, 1.0, suspended=True)]

        await launcher.greet(*runs, instance=SECOND)

        assert set(await life.told()) == {
            launching.SuspendProcesses(suspended),
            launching.ContinueProcesses(going),
        }


async def test_adopted_attempt_that_is_suspended_already_gets_no_command(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        await life.actions.do("suspend", JobId(key.job))
        await soon(life.supervisor.saved())

        await launcher.greet(AttemptStarted(key, 1, 1.0, suspended=True), instance=SECOND)

        assert await life.told() == []


async def test_attempt_suspended_before_its_launch_is_suspended_after_it(config, launcher):
    async with served(config, launcher) as life:
        await life.told()
        life.commits.close()
        job = life.take()
        await soon(life.commits.reached.wait())
        suspending = asyncio.ensure_future(life.actions.do("suspend", job))
        life.commits.open()

        await soon(suspending)
        assert [type(message) for message in await life.told()] == [
            Launch,
            launching.SuspendProcesses,
            launching.SuspendProcesses,
        ]


async def test_only_running_jobs_get_signals(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        key, waiting = await life.launched(), await life.submit(command(**SCHEDULED))

        hup = SendSignal(id=1, jobs=[key.job], signal=signal.SIGHUP, whole_tree=True)
        assert await act(caller, hup) is State.RUNNING

        assert await launcher.hear(launching.SignalProcesses) == launching.SignalProcesses(
            key, signal.SIGHUP, whole_tree=True
        )
        refused = await act(caller, SendSignal(id=2, jobs=[waiting], signal=signal.SIGHUP))
        assert refused == f"job {waiting} is scheduled: only a running job can be sent a signal"


async def test_signal_waits_for_a_start_that_is_being_saved(config, launcher):
    async with served(config, launcher) as life:
        await life.told()
        life.commits.close()
        job = life.take()
        await soon(life.commits.reached.wait())
        signalling = asyncio.ensure_future(
            life.actions.do("signal", job, signal=signal.SIGTERM, whole_tree=False)
        )
        life.commits.open()

        await soon(signalling)
        assert [type(message) for message in await life.told()] == [Launch, launching.SignalProcesses]


@pytest.mark.parametrize("verb", ["suspend", "continue", "signal"])
async def test_what_a_launcher_has_not_done_is_refused(config, launcher, monkeypatch, verb):
    async with served(config, launcher) as life:
        key = await life.launched()
        given = {"signal": 15, "whole_tree": False} if verb == "signal" else {}
        act = partial(life.actions.do, verb, JobId(key.job), **given)
        assert await act() is State.RUNNING

        launcher.answers = False  # it has exited, which nobody knows yet
        with pytest.raises(Refused, match=f"job {key.job} has ended"):
            await act()

        launcher.answers = None
        monkeypatch.setattr(dispatch, "ANSWER_PATIENCE", 0.01)
        with pytest.raises(Refused, match="is not reached yet: the launcher does not answer"):
            await act()


async def test_a_job_that_ends_as_soon_as_it_is_continued_was_continued(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        await life.actions.do("suspend", JobId(key.job))

        launcher.answers = False

        assert await life.actions.do("continue", JobId(key.job)) is State.RUNNING


async def test_a_suspension_without_a_launcher_is_not_called_done_and_follows_later(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        launcher.hang_up()
        await soon(life.is_lost.wait())

        with pytest.raises(Refused, match="is not reached yet"):
            await life.actions.do("suspend", JobId(key.job))

        await launcher.greet(AttemptStarted(key, 1, 1.0))
        assert await life.told() == [launching.SuspendProcesses(key)]


async def test_without_a_launcher_a_signal_is_refused(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        launcher.hang_up()
        await soon(life.is_lost.wait())

        with pytest.raises(Refused, match="no launcher is connected"):
            await life.actions.do("signal", JobId(key.job), signal=15, whole_tree=False)


async def test_limits_that_the_launcher_cannot_set_are_refused_at_once(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(hold=True))
        await launcher.greet(abilities=Abilities(controllers=["cpu"], problem="no memory"))
        await life.submit(command(hold=True, cpu_max=50))

        with pytest.raises(Refused, match="memory_max needs the memory controller of cgroup v2: no memory"):
            life.actions.check([command(memory_max=2**30)])
        with pytest.raises(Refused, match="memory_max needs"):
            await life.actions.do("edit", job, changes=Changes(memory_max=2**30))


async def test_limits_of_a_class_are_checked_when_its_jobs_are_submitted(folder, launcher):
    config = configure(folder, '[security]\nallowed_classes = ["app.*"]\n[classes."app.*"]\npids_max = 5\n')
    async with served(config, launcher) as life:
        await launcher.greet(abilities=Abilities(problem="none"))
        await life.submit(command(hold=True))

        with pytest.raises(Refused, match="pids_max needs the pids controller"):
            life.actions.check([JobSpec(target="app:f")])


async def test_limits_reach_the_launcher(config, launcher):
    async with served(config, launcher) as life:
        await life.submit(command(nice=5, memory_max=2**30, keep_leftovers=True))
        launch = await launcher.hear(Launch)
        assert launch.limits == Limits(nice=5, memory_max=2**30)
        assert (launch.keep_leftovers, launch.own_group) == (True, False)


async def test_all_jobs_get_a_control_group_if_that_is_configured(folder, launcher):
    async with served(configure(folder, 'cgroups = "all"'), launcher) as life:
        await life.submit()

        assert (await launcher.hear(Launch)).own_group


async def test_stopping_ends_a_suspension(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        await life.actions.do("suspend", JobId(key.job))
        await life.actions.do("cancel", JobId(key.job))

        assert [type(message) for message in await life.told()] == [launching.SuspendProcesses, StopProcesses]
        assert not (await life.view(key.job)).suspended


# --- jobs that have finished --------------------------------------------------------------------------


async def test_removed_job_is_gone_with_its_logs_and_its_id_is_not_reused(config, launcher):
    async with served(config, launcher) as life:
        job = await finished(life, launcher, tags=("t",))
        write_log(config, life.key(job), b"its words")
        log = Path(config.log_dir, launching.log_name(job, 1))

        assert await act(await life.call(), Remove(1, [job])) is State.SUCCEEDED

        assert await life.store.read(read.view, job) is None
        with pytest.raises(NoSuchJob):
            await life.actions.do("remove", job)
        assert await life.submit(command(**SCHEDULED)) == job + 1
        await until(lambda: not list(log.parent.iterdir()))


# --- all jobs that match ------------------------------------------------------------------------------


async def test_all_that_match_are_acted_on_in_portions_lowest_ids_first(config, launcher, monkeypatch):
    monkeypatch.setattr(job_actions, "MAX_ACTS", 4)
    monkeypatch.setattr(job_actions, "FIRST_ACTS", 2)
    monkeypatch.setattr(job_actions, "SLICE", 5)
    async with served(config, launcher) as life:
        jobs = [await life.submit(command(tags=("t",), **SCHEDULED)) for _ in range(12)]
        other = await life.submit(command(**SCHEDULED))
        caller = await life.call()
        commits = life.commits.commits

        rehearsed = await caller.stream(Hold(1, where=Selection(tag="t", dry_run=True)), Acted)
        assert [(each.job, each.state) for part in rehearsed for each in part.results] == [
            (job, State.SCHEDULED) for job in jobs
        ]
        assert life.commits.commits == commits
        parts = await caller.stream(Hold(2, where=Selection(tag="t", after=jobs[0])), Acted)

        assert [(each.job, each.state) for part in parts for each in part.results] == [
            (job, State.HELD) for job in jobs[1:]
        ]
        assert 3 <= life.commits.commits - commits <= len(parts)
        assert [(await life.view(job)).state for job in (jobs[0], other)] == [State.SCHEDULED] * 2


async def test_notifications_are_selected_only_by_their_queue(config, launcher):
    async with served(config, launcher) as life:
        usual = await life.submit(command(**SCHEDULED))
        mail = await life.submit(command(queue=NOTIFICATION_QUEUE, **SCHEDULED))
        caller = await life.call()

        for number, where, expected in (
            (1, Selection(states=[State.SCHEDULED]), usual),
            (2, Selection(queue=NOTIFICATION_QUEUE), mail),
        ):
            parts = await caller.stream(Cancel(number, where=where), Acted)
            assert [each.job for part in parts for each in part.results] == [expected]


async def test_jobs_that_change_before_it_is_their_turn_are_left_out(config, launcher, monkeypatch):
    monkeypatch.setattr(job_actions, "FIRST_ACTS", 1)
    async with served(config, launcher) as life:
        first, second, third = [await finished(life, launcher) for _ in range(3)]
        caller = await life.call()
        life.commits.close()
        caller.send(Remove(1, where=Selection()))
        await soon(life.commits.reached.wait())
        life.supervisor.remove(await life.store.read(lambda db: read.finished_jobs(db, [third])[third]))
        life.commits.open()

        parts = [(await caller.hear(Acted)).results for _ in range(2)]

        await caller.hear(End)
        assert [[each.job for each in results] for results in parts] == [[first], [second]]


@pytest.mark.parametrize(("verb", "count"), [(Suspend, 0), (Continue, 1)])
async def test_a_verb_for_running_jobs_selects_those_that_it_can_change(config, launcher, verb, count):
    async with served(config, launcher) as life:
        key = await life.launched()
        await life.actions.do("suspend", JobId(key.job))
        await soon(life.supervisor.saved())

        parts = await (await life.call()).stream(verb(1, where=Selection()), Acted)

        assert sum(len(part.results) for part in parts) == count
        again = await (await life.call()).stream(verb(1, where=Selection(suspended=count == 0)), Acted)
        assert not any(part.results for part in again)
