"""A submit that is sent again makes no second job, whatever has happened since."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from bgd.core.job import JobId, Now, State
from bgd.daemon import idempotency
from bgd.daemon.storage import read, submissions
from bgd.daemon.storage.records import Submission, Transaction
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.daemon.storage.submissions import KEPT_SECONDS
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.replies import Acted, ErrorCode, Failed, Submitted
from bgd.wire.requests import Cancel, Remove, Submit, SubmitMany
from tests.daemon.harness import command, served
from tests.daemon.scripted_launcher import end
from tests.daemon.storage.builders import BOOT, NOW, a_job, new, submitted
from tests.daemon.waiting import soon

TOKEN, OTHER = b"t" * 16, b"o" * 16


async def ids_of(life):
    await soon(life.supervisor.saved())
    return await life.store.read(read.states, range(1, 100))


async def test_repeated_request_is_answered_as_before(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await caller.ask(Submit(1, command(), token=TOKEN), Submitted)

        again = await (await life.call()).ask(Submit(1, command(), token=TOKEN, again=0), Submitted)

        assert again == first
        assert again.created
        assert await ids_of(life) == dict.fromkeys(first.jobs, (await ids_of(life))[first.jobs[0]])


async def test_repeated_request_is_known_after_its_job_was_removed_and_the_daemon_restarted(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await caller.ask(Submit(1, command(), token=TOKEN), Submitted)
        launcher.say(end((await launcher.hear(Launch)).key))
        await launcher.hear(Acknowledge)
        await caller.ask(Remove(2, first.jobs), Acted)
    async with served(config, launcher) as life:
        caller = await life.call()

        assert await caller.ask(Submit(1, command(), token=TOKEN, again=0), Submitted) == first
        assert await ids_of(life) == {}


async def test_first_copy_that_arrives_after_the_second_makes_no_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await caller.ask(Submit(1, command(), token=TOKEN, again=0), Submitted)

        late = await caller.ask(Submit(1, command(), token=TOKEN), Submitted)

        assert late == first
        assert len(await ids_of(life)) == 1


async def test_both_copies_at_once_make_one_job(config, launcher):
    async with served(config, launcher) as life:
        other = await life.submit()
        callers = [await life.call(), await life.call()]
        asks = [
            Submit(1, command(after_any=(other,)), token=TOKEN),
            Submit(1, command(after_any=(other,)), token=TOKEN, again=other),
        ]
        life.commits.close()
        pending = [
            asyncio.create_task(caller.ask(request, Submitted))
            for caller, request in zip(callers, asks, strict=True)
        ]
        life.commits.open()

        replies = [await soon(task) for task in pending]

        assert replies[0] == replies[1]
        assert len(await ids_of(life)) == 2


async def test_repeated_batch_is_answered_with_all_of_its_jobs(config, launcher):
    specs = [command(hold=True), command(key="one", hold=True), command(key="one"), command(hold=True)]
    async with served(config, launcher) as life:
        first = await (await life.call()).ask(SubmitMany(id=1, specs=specs, token=TOKEN), Submitted)
    async with served(config, launcher) as life:
        again = await (await life.call()).ask(SubmitMany(id=1, specs=specs, token=TOKEN, again=0), Submitted)

        assert again == first
        assert again == Submitted(1, [1, 2, 2, 3], created=False, found=[2])
        assert len(await ids_of(life)) == 3


async def test_first_copy_makes_no_job_after_the_second_was_refused(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        refused = await caller.ask(Submit(1, command(after=(99,)), token=TOKEN, again=0), Failed)
        assert refused.code is ErrorCode.NO_SUCH_JOB

        late = await caller.ask(Submit(1, command(), token=TOKEN), Failed)

        assert "sent again meanwhile and refused" in late.message
        assert await ids_of(life) == {}


async def test_first_copy_makes_no_job_after_the_second_found_one_with_its_key(config, launcher):
    mine, asked = command(key="one", hold=True), Submit(1, command(key="one"), token=TOKEN)
    async with served(config, launcher) as life:
        caller = await life.call()
        [job] = (await caller.ask(Submit(1, mine), Submitted)).jobs
        found = await caller.ask(replace(asked, again=0), Submitted)
        assert (found.jobs, found.found) == ([job], [job])
        await caller.ask(Cancel(2, [job]), Acted)

        late = await caller.ask(asked, Failed)  # for example over the connection that broke

        assert "sent again meanwhile and answered" in late.message
        assert await ids_of(life) == {job: State.CANCELLED}
        # a client that asks once more has not received the answer, and that job has finished
        third = await caller.ask(replace(asked, again=0), Submitted)
        assert third.created
        assert (await caller.ask(asked, Submitted)).jobs == third.jobs


async def test_requests_with_different_tokens_make_their_own_jobs(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        jobs = [
            (await caller.ask(Submit(1, command(), token=token, again=0), Submitted)).jobs[0]
            for token in (TOKEN, OTHER)
        ]
        assert jobs == [1, 2]


async def test_memory_holds_only_the_latest_requests(config, launcher, monkeypatch):
    monkeypatch.setattr(idempotency, "MAX_REMEMBERED", 2)
    async with served(config, launcher) as life:
        caller = await life.call()
        for number in range(5):
            await caller.ask(Submit(number, command(hold=True), token=bytes([number]) * 16), Submitted)

        again = await caller.ask(Submit(9, command(), token=bytes(16), again=0), Submitted)

        assert again.jobs == [1]  # from the disk


@pytest.fixture
async def store(tmp_path):
    """Open a store with two jobs, each of a request of its own."""
    store = await Store.open(str(tmp_path / "bgd.db"))
    await store.write(adopt_boot, NOW, BOOT)
    await store.commit(
        submitted(new(1), new(2), submissions={token(1): a_request(1), token(2): a_request(2)})
    )
    yield store
    await store.close()


async def is_known(store, number):
    return await store.search(submissions.find_submission, token(number), 0) == a_request(number)


async def test_requests_of_removed_jobs_are_deleted_from_the_disk_after_some_minutes(store):
    await store.commit(Transaction(now=NOW, removed=[a_job(1)]))
    assert await is_known(store, 1)

    later = Now(NOW.elapsed + KEPT_SECONDS + 1, NOW.wall)
    await store.commit(submitted(new(3), now=later, submissions={token(3): a_request(3)}))
    await store.commit(Transaction(now=later, removed=[a_job(2), a_job(3)]))

    assert [await is_known(store, number) for number in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize("jump", [2 * KEPT_SECONDS, -2 * KEPT_SECONDS])
async def test_requests_are_not_deleted_because_the_clock_was_set(store, jump):
    for number in (1, 2):
        await store.commit(Transaction(now=Now(NOW.elapsed + 1, NOW.wall + jump), removed=[a_job(number)]))

    assert await is_known(store, 1)
    assert await is_known(store, 2)


def a_request(number):
    return Submission([number], [], JobId(number))


def token(number):
    return number.to_bytes(16, "big")
