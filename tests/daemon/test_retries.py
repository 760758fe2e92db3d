"""Retries: jobs wait again as before, and those that were cancelled because of them come along."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import JobId, Outcome, State
from bgd.daemon import retries
from bgd.daemon.control import handlers
from bgd.wire.replies import Acted, Submitted
from bgd.wire.requests import Cancel, Changes, Edit, Remove, Retry, Selection, Submit
from tests.daemon.harness import SLOTS, UID, command, configure, served
from tests.daemon.scripted_launcher import end

FAILED = {"outcome": Outcome.EXIT, "exit_code": 1}


async def pipeline(life, launcher, *specs):
    """Run a job that fails, and submit others before its end; return the ids of all of them."""
    caller = await life.call()
    first = await life.launched(command())
    jobs = [first.job]
    for number, spec in enumerate(specs, start=1):
        reply = await caller.ask(Submit(number, spec(jobs)), Submitted)
        jobs += reply.jobs
    await finish(life, launcher, first.job, **FAILED)
    return caller, jobs


def after_latest(jobs):
    return command(after=(jobs[-1],))


def after_first(jobs):
    return command(after=(jobs[0],))


async def states(life, jobs):
    return [(await life.view(job)).state for job in jobs]


async def finish(life, launcher, job, attempt=1, **how):
    launcher.say(end(life.key(job, attempt), **how))
    await life.heard()


@pytest.mark.parametrize("portion", [1, 2, 200])
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
async def test_retried_jobs_wait_for_each_other_again_in_whatever_order_they_are_named(
    config, launcher, order, portion, monkeypatch
):
    monkeypatch.setattr(handlers, "ACTIONS_PER_TRANSACTION", portion)
    async with served(config, launcher) as life:
        caller, jobs = await pipeline(life, launcher, after_latest, after_latest)
        assert await states(life, jobs) == [State.FAILED, State.CANCELLED, State.CANCELLED]

        acted = await caller.ask(Retry(9, list(order)), Acted)

        assert {result.job: result.state for result in acted.results} == {
            1: State.QUEUED,
            2: State.BLOCKED,
            3: State.BLOCKED,
        }
        assert await states(life, jobs) == [State.RUNNING, State.BLOCKED, State.BLOCKED]
        await finish(life, launcher, 1, 2)
        await finish(life, launcher, 2, 1, **FAILED)
        assert await states(life, jobs) == [State.SUCCEEDED, State.FAILED, State.CANCELLED]


async def test_a_retried_job_brings_along_those_that_were_cancelled_because_of_it(config, launcher):
    async with served(config, launcher) as life:
        caller, jobs = await pipeline(life, launcher, after_latest, after_latest, after_first)

        [result] = (await caller.ask(Retry(9, [1]), Acted)).results

        assert (result.state, sorted(result.along), result.left) == (State.QUEUED, [2, 3, 4], [])
        assert await states(life, jobs) == [State.RUNNING, State.BLOCKED, State.BLOCKED, State.BLOCKED]


async def test_alone_leaves_those_that_were_cancelled_because_of_it(config, launcher):
    async with served(config, launcher) as life:
        caller, jobs = await pipeline(life, launcher, after_latest)

        [result] = (await caller.ask(Retry(9, [1], alone=True), Acted)).results

        assert (result.along, result.left) == ([], [])
        assert await states(life, jobs) == [State.RUNNING, State.CANCELLED]


async def test_a_job_that_a_person_cancelled_does_not_come_along(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await life.launched(command())
        await caller.ask(Submit(1, command(after=(first.job,))), Submitted)
        await caller.ask(Cancel(2, [2]), Acted)
        await finish(life, launcher, first.job, **FAILED)

        [result] = (await caller.ask(Retry(9, [1]), Acted)).results

        assert result.along == []


async def test_a_held_job_that_comes_along_is_held_again(config, launcher):
    async with served(config, launcher) as life:
        hold = lambda jobs: command(after=(jobs[0],), hold=True)  # noqa: E731
        caller, jobs = await pipeline(life, launcher, hold)
        assert (
            await life.view(2)
        ).reason == "job 1, which had to succeed first, failed while this one was held"

        [result] = (await caller.ask(Retry(9, [1]), Acted)).results
        assert (result.along, await states(life, jobs)) == ([2], [State.RUNNING, State.HELD])
        await finish(life, launcher, 1, 2)

        assert await states(life, jobs) == [State.SUCCEEDED, State.HELD]


async def test_a_job_that_another_failure_holds_up_comes_along_with_the_last_of_them(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first, second = await life.launched(command()), await life.launched(command())
        await caller.ask(Submit(1, command(after=(1, 2))), Submitted)
        for key in (first, second):
            await finish(life, launcher, key.job, **FAILED)

        [result] = (await caller.ask(Retry(9, [1]), Acted)).results
        assert (result.along, result.left) == ([], [3])
        [result] = (await caller.ask(Retry(9, [2]), Acted)).results
        assert (result.along, result.left) == ([3], [])

        assert (await life.view(3)).waits_for == [1, 2]


async def test_a_selection_brings_along_what_waits_for_jobs_of_several_transactions(
    config, launcher, monkeypatch
):
    monkeypatch.setattr("bgd.daemon.job_actions.FIRST_ACTS", 1)
    monkeypatch.setattr("bgd.daemon.job_actions.MAX_ACTS", 1)
    async with served(config, launcher) as life:
        caller = await life.call()
        keys = [await life.launched(command()) for _ in range(3)]
        await caller.ask(Submit(1, command(after=(1, 2, 3))), Submitted)
        for key in keys:
            await finish(life, launcher, key.job, **FAILED)

        parts = await caller.stream(Retry(9, where=Selection()), Acted)

        along = [job for part in parts for result in part.results for job in result.along]
        assert along == [4]
        assert (await life.view(4)).state is State.BLOCKED


async def test_at_most_so_many_jobs_come_along(config, launcher, monkeypatch):
    monkeypatch.setattr(retries, "MAX_ALONG", 2)
    async with served(config, launcher) as life:
        caller, _ = await pipeline(life, launcher, *[after_first] * 3)

        [result] = (await caller.ask(Retry(9, [1]), Acted)).results

        assert len(result.along) == 2


async def test_a_job_is_not_retried_while_one_that_it_waits_for_has_not_succeeded(config, launcher):
    async with served(config, launcher) as life:
        caller, jobs = await pipeline(life, launcher, after_latest, after_latest)

        acted = await caller.ask(Retry(9, [3, 2]), Acted)

        assert [result.message for result in acted.results] == [
            "job 3 waits for job 2, which was cancelled: retry it, too",
            "job 2 waits for job 1, which failed: retry it, too",
        ]
        assert await states(life, jobs) == [State.FAILED, State.CANCELLED, State.CANCELLED]


async def test_a_job_waits_for_no_more_than_the_end_of_some(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await life.launched(command())
        await caller.ask(Submit(1, command(after_any=(1,))), Submitted)
        await finish(life, launcher, 1, **FAILED)
        await finish(life, launcher, 2, **FAILED)

        acted = await caller.ask(Retry(9, [1, 2]), Acted)
        assert [result.state for result in acted.results] == [State.QUEUED, State.BLOCKED]
        await finish(life, launcher, 1, 2, **FAILED)
        assert (await life.view(2)).state is State.RUNNING


@pytest.mark.parametrize("has_run", [True, False])
async def test_a_removed_job_counts_as_succeeded_only_for_a_job_that_has_run(config, launcher, has_run):
    async with served(config, launcher) as life:
        caller = await life.call()
        await life.launched(command())
        await caller.ask(Submit(1, command(after=(1,), hold=not has_run)), Submitted)
        await finish(life, launcher, 1)
        if has_run:
            await finish(life, launcher, 2, **FAILED)
        else:
            await caller.ask(Cancel(2, [2]), Acted)
        await caller.ask(Remove(3, [1]), Acted)

        [result] = (await caller.ask(Retry(9, [2]), Acted)).results

        why = "job 2 waits for job 1, which was removed: submit it again"
        assert result.message == (None if has_run else why)


async def test_jobs_that_edits_made_wait_for_each_other_are_not_retried_together(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await life.launched(command())
        await caller.ask(Submit(1, command(after_any=(1,))), Submitted)
        for job in (1, 2):
            await finish(life, launcher, job)
        for _ in range(SLOTS):
            await life.launched(command())
        await caller.ask(Retry(2, [1]), Acted)
        await caller.ask(Edit(3, [1], Changes(after_any=(2,))), Acted)
        await caller.ask(Cancel(4, [1]), Acted)

        acted = await caller.ask(Retry(9, [1, 2]), Acted)

        why = "job 1 waits for jobs that wait for it: retry them one after the other"
        assert [(result.state, result.message) for result in acted.results] == [
            (None, why),
            (State.QUEUED, None),
        ]


async def test_a_date_holds_again_and_a_delay_does_not(config, launcher):
    async with served(config, launcher) as life:
        dated = await life.submit(command(at=4e9))
        delayed = await life.submit(command(delay=1e6))
        for job in (dated, delayed):
            await life.actions.do("cancel", job)

        assert await life.actions.do("retry", dated) is State.SCHEDULED
        assert await life.actions.do("retry", delayed) is State.QUEUED


async def test_an_expiry_counts_again_from_the_retry_of_a_job_that_never_ran(config, launcher):
    async with served(config, launcher) as life:
        keys = [await life.launched(command()) for _ in range(SLOTS)]
        job = await life.submit(command(expires=1000.0))
        before = (await life.view(job)).expires_at
        await life.actions.do("cancel", job)
        await life.actions.do("retry", job)
        again = (await life.view(job)).expires_at
        await finish(life, launcher, keys[0].job)  # so that it starts
        await finish(life, launcher, job, **FAILED)
        await life.launched(command())
        await life.actions.do("retry", job)

        assert before is not None
        assert again is not None
        assert again > before
        assert (await life.view(job)).expires_at is None


async def test_key_limit_and_resources_hold_again(folder, launcher):
    config = configure(folder, rest='[resources]\ngpu = ["0"]')
    async with served(config, launcher) as life:
        spec = command(key="a", limit=("k", 1), resources={"gpu": 1})
        first = await life.launched(spec)
        await finish(life, launcher, first.job, **FAILED)
        await life.launched(replace(spec, key="b"))

        assert await life.actions.do("retry", JobId(first.job)) is State.QUEUED
        causes = {reason.cause for reason in life.supervisor.explain(JobId(first.job))}
        assert causes == {Cause.LIMIT, Cause.TOKENS}
        repeated = life.actions.submit([spec], UID)
        assert repeated.found == [first.job]


async def test_a_job_whose_key_another_job_has_does_not_come_along(config, launcher):
    async with served(config, launcher) as life:
        caller, _ = await pipeline(life, launcher, lambda jobs: command(after=(jobs[0],), key="k"))
        await life.launched(command(key="k"))

        [result] = (await caller.ask(Retry(9, [1]), Acted)).results

        assert (result.along, result.left) == ([], [2])
