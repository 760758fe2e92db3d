"""Batch objects: what follows them is submitted once, in the transaction of the end that it follows."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from msgspec.structs import replace

from bgd.core.batches import BatchId
from bgd.core.job import JobId, Outcome, State
from bgd.daemon import batches
from bgd.daemon.storage import batches as stored
from bgd.errors import NoSuchJob
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.replies import Acted, BatchesPart, BatchRuns, Failed, JobsPart, Submitted
from bgd.wire.requests import (
    BatchPlace,
    Cancel,
    CloseBatch,
    GetBatch,
    GetBatches,
    List,
    NewBatch,
    Remove,
    Retry,
    Selection,
    Submit,
    SubmitMany,
)
from tests.daemon.harness import UID, command, served
from tests.daemon.scripted_launcher import end

TOKEN = b"t" * 16
HELD = command(hold=True)
FOLLOWED = NewBatch(
    name="nightly",
    then=replace(HELD, name="then", env={"A": "1"}),
    catch=replace(HELD, name="catch"),
    finally_=replace(HELD, name="finally"),
    is_whole=True,
)


def portion(*specs, after=0, new=FOLLOWED, token=TOKEN):
    place = BatchPlace(token, after, [(after + 1, len(specs))])
    return SubmitMany(id=1, specs=list(specs), place=place, batch=new)


async def submitted(caller, *specs, **given):
    await caller.stream(GetBatch(id=7, batch=given.get("token", TOKEN)), BatchRuns)
    return await caller.ask(portion(*specs, **given), Submitted)


async def batch(caller, number=1):
    [part] = await caller.stream(GetBatches(id=2, batch=number), BatchesPart)
    return part.batches[0]


async def followed(caller, life):
    """Return the names of the jobs that follow the batch, and check that the batch names them."""
    view = await batch(caller)
    jobs = [each.job for each in (view.then, view.catch, view.finally_) if each is not None and each.job]
    return [(await life.view(job)).name for job in jobs]


async def ended(launcher, *outcomes):
    """Let as many jobs end as are about to start, in this way."""
    launched = [await launcher.hear(Launch) for _ in outcomes]
    for launch, outcome in zip(launched, outcomes, strict=True):
        launcher.say(end(launch.key, outcome))
        await launcher.hear(Acknowledge)


async def test_then_and_finally_follow_a_batch_that_has_succeeded(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        reply = await submitted(caller, command(), command())
        assert (reply.jobs, reply.batch) == ([1, 2], 1)
        assert (await life.view(1)).batch == 1

        await ended(launcher, Outcome.SUCCEEDED, Outcome.SUCCEEDED)

        view = await batch(caller)
        assert (view.name, view.total, view.succeeded, view.pending) == ("nightly", 2, 2, 0)
        assert view.finished_at is not None
        assert await followed(caller, life) == ["then", "finally"]
        then: Any = await life.view(view.then.job)
        assert (then.batch, then.cause.event, then.cause.id, then.cause.outcome) == (
            None,
            "then",
            1,
            "succeeded",
        )


async def test_the_transaction_of_an_end_has_what_follows_it(config, launcher, monkeypatch):
    async with served(config, launcher) as life:
        caller, saved, commit = await life.call(), [], life.store.commit
        await submitted(caller, command())

        async def recording(transaction):
            saved.append(transaction)
            return await commit(transaction)

        monkeypatch.setattr(life.store, "commit", recording)
        await ended(launcher, Outcome.SUCCEEDED)

        [transaction] = [each for each in saved if each.ends]
        assert [transaction.specs[job.id].spec.name for job in transaction.new] == ["then", "finally"]
        assert [(each.started, each.has_ended) for each in transaction.counted] == [
            ({"then": 2, "finally": 3}, True)
        ]


async def test_a_failure_starts_catch_at_once_and_a_retry_starts_then_at_most(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, command(), HELD)
        await ended(launcher, Outcome.EXIT)
        assert await followed(caller, life) == ["catch"]
        await caller.ask(Cancel(3, [2]), Acted)
        assert await followed(caller, life) == ["catch", "finally"]
        assert (await batch(caller)).finished_at is not None

    async with served(config, launcher) as life:  # the batch has ended, and is read again for the retry
        caller = await life.call()
        await caller.ask(Retry(3, [1, 2]), Acted)
        assert (await batch(caller)).finished_at is None

        await ended(launcher, Outcome.SUCCEEDED, Outcome.SUCCEEDED)

        assert await followed(caller, life) == ["then", "catch", "finally"]
        assert (await life.view(5)).name == "then"


async def test_a_batch_goes_on_after_a_restart_of_the_daemon(config, launcher):
    part = replace(FOLLOWED, is_whole=False)
    async with served(config, launcher) as life:
        await submitted(await life.call(), HELD, new=part)

    async with served(config, launcher) as life:
        caller = await life.call()
        runs = await caller.stream(GetBatch(id=7, batch=TOKEN), BatchRuns)
        assert [each.batch for each in runs] == [1, 1]
        assert (await caller.ask(portion(HELD, after=1, new=part), Submitted)).batch == 1
        await life.actions.do("cancel", JobId(1))
        await life.actions.do("cancel", JobId(2))
        assert (await batch(caller)).finished_at is None

        closed = await caller.ask(CloseBatch(5, 1), BatchesPart)

        assert (closed.batches[0].total, closed.batches[0].cancelled) == (2, 2)
        assert await followed(caller, life) == ["finally"]


async def test_a_batch_that_is_reopened_does_not_end_with_its_jobs(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD)
        await caller.ask(CloseBatch(5, 1, reopen=True), BatchesPart)
        await caller.ask(Cancel(3, [1]), Acted)
        assert (await batch(caller)).finished_at is None

    async with served(config, launcher) as life:
        caller = await life.call()
        assert await followed(caller, life) == []
        await caller.ask(CloseBatch(5, 1), BatchesPart)
        assert await followed(caller, life) == ["finally"]
        ended_at = (await batch(caller)).finished_at

        [again] = (await caller.ask(CloseBatch(5, 1, reopen=True), BatchesPart)).batches

        assert again.finished_at == ended_at


async def test_a_cancelled_batch_is_not_reopened(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD)
        await caller.ask(CloseBatch(5, 1, cancel=True), BatchesPart)
        await caller.ask(CloseBatch(5, 1, reopen=True), BatchesPart)
        await caller.ask(Cancel(3, [1]), Acted)
        assert (await batch(caller)).finished_at is not None


async def test_more_lines_keep_a_batch_open_until_its_client_closes_it_again(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD)
        await submitted(caller, HELD, after=1, new=NewBatch())
        await caller.ask(Cancel(3, [1, 2]), Acted)
        assert (await batch(caller)).finished_at is None


async def test_a_job_that_is_cancelled_before_its_attempt_began_says_so(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        for began_at in (None, 5.0):
            await caller.ask(Submit(6, command()), Submitted)
            launch = await launcher.hear(Launch)
            await life.actions.do("cancel", JobId(launch.key.job))
            launcher.say(replace(end(launch.key, Outcome.CANCELLED), started_at=began_at))
            await launcher.hear(Acknowledge)
        reasons = [(await life.view(job)).reason for job in (1, 2)]
        assert reasons == ["cancelled before it started", None]


async def test_more_lines_reopen_a_batch_that_has_ended(config, launcher):
    async with served(config, launcher) as life:
        await submitted(await life.call(), command())
        await ended(launcher, Outcome.SUCCEEDED)

    async with served(config, launcher) as life:
        caller = await life.call()
        assert (await batch(caller)).finished_at is not None
        assert (await submitted(caller, HELD, after=1)).batch == 1
        assert (await batch(caller)).finished_at is None
        await life.actions.do("cancel", JobId(4))

        assert (await batch(caller)).cancelled == 1
        assert await life.store.read(stored.last_id) == 1


async def test_a_batch_that_was_cancelled_takes_no_more_lines(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD, new=replace(FOLLOWED, is_whole=False))
        await caller.ask(CloseBatch(5, 1, cancel=True), BatchesPart)

        assert "was cancelled" in (await caller.ask(portion(HELD, after=1), Failed)).message
        await life.actions.do("cancel", JobId(1))
        assert (await batch(caller)).finished_at is not None
        assert "was cancelled" in (await caller.ask(portion(HELD, after=1), Failed)).message


async def test_lines_that_are_refused_do_not_reopen_a_batch(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, command())
        await ended(launcher, Outcome.SUCCEEDED)

        assert (await caller.ask(portion(command(after=(99,)), after=1), Failed)).message == "no job 99"
        await life.submit(HELD)

        assert (await batch(caller)).finished_at is not None


async def test_a_client_that_leaves_before_its_lines_are_queued_does_not_reopen_a_batch(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, command())
        await ended(launcher, Outcome.SUCCEEDED)

        async def leave():
            async with life.actions.batches.reopened(TOKEN, os.getuid()):
                assert life.supervisor.batches.open
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await leave()
        await life.submit(HELD)

        assert (await batch(caller)).finished_at is not None


async def test_lines_that_reopen_a_batch_may_wait_for_a_job_that_ends_meanwhile(
    config, launcher, monkeypatch
):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, command())
        await ended(launcher, Outcome.SUCCEEDED)
        other = await life.launched(command())
        read = life.store.read

        async def slowly(query, *given):
            if query is stored.batch_of_token:
                launcher.say(end(other, Outcome.SUCCEEDED))
                await launcher.hear(Acknowledge)
            return await read(query, *given)

        monkeypatch.setattr(life.store, "read", slowly)
        reply = await caller.ask(portion(command(after=(other.job,)), after=1), Submitted)

        assert (await life.view(reply.jobs[0])).state is State.RUNNING


async def test_lines_join_their_batch_even_if_it_ends_while_they_are_looked_up(config, launcher, monkeypatch):
    async with served(config, launcher) as life:
        caller = await life.call()
        other = await life.launched(command())
        launcher.say(end(other, Outcome.SUCCEEDED))
        await launcher.hear(Acknowledge)
        await submitted(caller, command())
        running, finished_dependencies = await launcher.hear(Launch), life.actions.finished_dependencies

        async def slowly(jobs):
            launcher.say(end(running.key, Outcome.SUCCEEDED))
            await launcher.hear(Acknowledge)
            assert not life.supervisor.batches.open
            return await finished_dependencies(jobs)

        monkeypatch.setattr(life.actions, "finished_dependencies", slowly)
        reply = await caller.ask(portion(command(after=(other.job,), hold=True), after=1), Submitted)

        assert reply.batch == 1
        view = await batch(caller)
        assert (view.total, view.succeeded, view.finished_at) == (2, 1, None)


@pytest.mark.parametrize("had_ended", [False, True])
async def test_lines_do_not_join_a_batch_that_is_cancelled_while_they_are_looked_up(
    config, launcher, monkeypatch, had_ended
):
    async with served(config, launcher) as life:
        caller, canceller = await life.call(), await life.call()
        await submitted(caller, HELD)
        if had_ended:
            await life.actions.do("cancel", JobId(1))
        other = (await submitted(caller, HELD, token=bytes(16))).jobs[0]
        finished_dependencies = life.actions.finished_dependencies

        async def slowly(jobs):
            await canceller.ask(CloseBatch(5, 1, cancel=True), BatchesPart)
            return await finished_dependencies(jobs)

        monkeypatch.setattr(life.actions, "finished_dependencies", slowly)
        refused = await caller.ask(portion(command(after=(other,)), after=1), Failed)
        await life.submit(HELD)

        assert refused.message == "batch 1 was cancelled and takes no jobs"
        assert (await batch(caller)).total == 1


async def test_a_job_can_be_added_while_the_batch_is_open(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD)

        await caller.ask(Submit(3, command(batch=1, hold=True)), Submitted)
        await life.actions.do("cancel", JobId(1))
        assert (await batch(caller)).total == 2
        assert (await batch(caller)).finished_at is None

        await caller.ask(CloseBatch(5, 1, cancel=True), BatchesPart)
        refused = await caller.ask(SubmitMany(id=3, specs=[command(batch=1)]), Failed)
        assert refused.message == "batch 1 was cancelled and takes no jobs"
        await life.actions.do("cancel", JobId(2))
        refused = await caller.ask(Submit(4, command(batch=1)), Failed)
        assert refused.message == "batch 1 has ended, or does not exist: only an open one takes jobs"


async def test_a_batch_of_another_user_takes_no_jobs_and_is_not_closed(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD)
        life.supervisor.batches.open[BatchId(1)].uid = UID

        assert "another user" in (await caller.ask(Submit(4, command(batch=1)), Failed)).message
        assert "another user" in (await caller.ask(CloseBatch(5, 1), Failed)).message


async def test_a_batch_can_be_waited_for(config, launcher):
    async with served(config, launcher) as life:
        caller, waiting = await life.call(), await life.call()
        await submitted(caller, command(), HELD)
        waiting.send(GetBatches(id=9, name="nightly", wait=True))
        await ended(launcher, Outcome.SUCCEEDED)
        await life.actions.do("cancel", JobId(2))

        [view] = (await waiting.hear(BatchesPart)).batches

        assert (view.succeeded, view.cancelled) == (1, 1)


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ({"batch": 7}, "no batch 7: `bgctl batch list` shows names and ids"),
        ({"name": "x"}, "no batch is named 'x': `bgctl batch list` shows names and ids"),
    ],
)
async def test_a_batch_that_does_not_exist_is_named(config, launcher, which, why):
    async with served(config, launcher) as life:
        caller = await life.call()

        assert (await caller.ask(GetBatches(id=2, **which), Failed)).message == why
        [part] = await caller.stream(GetBatches(id=2), BatchesPart)
        assert part.batches == []


async def test_batches_are_listed_and_their_jobs_selected(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD, HELD)
        await life.submit(HELD)
        await submitted(caller, HELD, token=bytes(16), new=NewBatch(is_whole=True))
        await caller.ask(Submit(3, command(batch=1, hold=True)), Submitted)

        [part] = await caller.stream(GetBatches(id=2), BatchesPart)
        assert [each.id for each in part.batches] == [2, 1]
        [part] = await caller.stream(GetBatches(id=2, before=2), BatchesPart)
        assert [each.id for each in part.batches] == [1]
        [listed] = await caller.stream(List(id=2, words="batch:1"), JobsPart)
        assert [each.id for each in listed.jobs] == [5, 2, 1]
        [listed] = await caller.stream(List(id=2, words="-batch:1"), JobsPart)
        assert [each.id for each in listed.jobs] == [4, 3]
        await caller.stream(Cancel(3, where=Selection(words="batch:1")), Acted)
        assert (await batch(caller)).cancelled == 3
        assert (await life.view(3)).state is State.HELD


async def test_batches_with_large_follow_ups_are_listed_in_several_parts(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        large = NewBatch(then=command("/bin/echo", *["x" * 100_000] * 8))
        for token in (bytes(16), TOKEN):
            await submitted(caller, HELD, token=token, new=large)

        parts = await caller.stream(GetBatches(id=2), BatchesPart)

        assert [[each.id for each in part.batches] for part in parts] == [[2], [1]]


async def test_a_batch_goes_with_its_last_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD, HELD)
        await caller.ask(Cancel(3, [1]), Acted)
        await caller.ask(Remove(4, [1]), Acted)
        await caller.ask(Cancel(3, [2]), Acted)
        assert (await batch(caller)).cancelled == 2

        await caller.ask(Remove(4, [2]), Acted)

        with pytest.raises(NoSuchJob):
            await life.actions.batches.views(GetBatches(id=0, batch=1))
        assert await life.store.read(lambda db: db.execute("SELECT * FROM batch_jobs").fetchall()) == []
        assert await life.store.read(stored.last_id) == 1


async def test_what_follows_is_checked_like_a_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await caller.stream(GetBatch(id=7, batch=TOKEN), BatchRuns)

        bad = replace(FOLLOWED, catch=command("nul\0"))
        refused = (await caller.ask(portion(HELD, new=bad), Failed)).message
        assert refused.startswith("catch: ")
        assert "NUL" in refused
        waits = replace(FOLLOWED, then=command(after=(1,)))
        assert (await caller.ask(portion(HELD, new=waits), Failed)).message.startswith(
            "then: a follow-up of a batch"
        )
        nowhere = SubmitMany(id=1, specs=[HELD], batch=FOLLOWED)
        assert (await caller.ask(nowhere, Failed)).message == "a batch needs a place"
        assert life.supervisor.newest_id == 0


async def test_the_number_of_open_batches_is_limited(config, launcher, monkeypatch):
    monkeypatch.setattr(batches, "MAX_OPEN", 1)
    async with served(config, launcher) as life:
        caller = await life.call()
        await submitted(caller, HELD)
        assert (await submitted(caller, HELD, after=1)).batch == 1

        other = bytes(16)
        await caller.stream(GetBatch(id=7, batch=other), BatchRuns)
        refused = await caller.ask(portion(HELD, token=other), Failed)

        assert refused.message.startswith("1 batches have not ended")


async def test_a_job_that_has_the_key_of_what_follows_counts_as_what_follows(config, launcher):
    async with served(config, launcher) as life:
        caller, keyed = await life.call(), replace(HELD, key="index")
        holder = await caller.ask(Submit(1, keyed), Submitted)
        await submitted(caller, command(), new=NewBatch(then=keyed, is_whole=True))

        await ended(launcher, Outcome.SUCCEEDED)

        assert (await batch(caller)).then.job == holder.jobs[0]
        assert life.supervisor.newest_id == 2
