"""Steps of jobs are on disk before the answer, and only one process of the running attempt records them."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from bgd.core.job import JobId, Outcome
from bgd.daemon import steps
from bgd.daemon.storage.steps import latest_steps
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.replies import Done, ErrorCode, Failed, StepsPart
from bgd.wire.requests import GetSteps, Retry, SaveStep
from bgd.wire.views import StepState
from tests.daemon.harness import command, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon

RETRIED = command(retries=5, retry_delay=0.0)


def step(key, position, name="a", value=b"{}", *, done=True):
    return SaveStep(
        id=1,
        job=key.job,
        attempt=key.attempt,
        position=position,
        name=name,
        done=done,
        value=value,
        seconds=0.5,
    )


async def opened(life, key):
    """Return a caller that may record the steps of an attempt, and the steps that it was told."""
    caller = await life.call()
    return caller, await told(caller, key)


async def told(caller, key, *, attempt=True, after=0):
    parts = await caller.stream(
        GetSteps(id=1, job=key.job, attempt=key.attempt if attempt else None, after=after), StepsPart
    )
    assert all(part.store for part in parts)
    return [each for part in parts for each in part.steps]


async def test_a_step_takes_a_finite_time(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(RETRIED)
        caller, _ = await opened(life, key)

        refused = await caller.ask(replace(step(key, 1), seconds=float("inf")), Failed)

        assert "seconds" in refused.message
        assert await told(caller, key) == []


async def test_a_step_is_on_disk_before_the_answer_and_the_next_attempt_finds_it(config, launcher):
    async with served(config, launcher) as life:
        first = await life.launched(RETRIED)
        caller, found = await opened(life, first)
        assert found == []
        assert await caller.ask(step(first, 1, "charge", b'{"result":1}'), Done) == Done(1)
        assert await caller.ask(step(first, 2, "rows", b'{"cursor":7}', done=False), Done) == Done(1)
        launcher.say(end(first, Outcome.EXIT, 1))
        second = (await launcher.hear(Launch)).key

        _, found = await opened(life, second)
        seen = await told(caller, second, attempt=False, after=1)

    assert [(each.position, each.name, each.state, each.value) for each in found] == [
        (1, "charge", StepState.DONE, b'{"result":1}'),
        (2, "rows", StepState.OPEN, b'{"cursor":7}'),
    ]
    assert [(each.name, each.seconds, each.value) for each in seen] == [("rows", 0.5, UNSET)]


async def test_an_attempt_that_was_given_up_can_neither_read_nor_record_steps(config, launcher):
    async with served(config, launcher) as life:
        first = await life.launched(RETRIED)
        caller, _ = await opened(life, first)
        launcher.say(end(first, Outcome.UNKNOWN, None))
        await launcher.hear(Launch)

        refused = [await caller.ask(step(first, 1), Failed)]
        refused.append(await caller.ask(GetSteps(id=1, job=first.job, attempt=1), Failed))

    assert {each.code for each in refused} == {ErrorCode.REFUSED}
    assert {each.message for each in refused} == {
        f"attempt 1 of job {first.job} does not run: only a running attempt has steps"
    }


async def test_one_process_of_an_attempt_records_its_steps(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, _ = await opened(life, key)
        again, _ = await opened(life, key)  # the same process may use another connection
        await again.ask(step(key, 1), Done)
        for connection in life.control.connections:
            connection.pid += 1

        refused = await caller.ask(step(key, 2), Failed)
        also = await caller.ask(GetSteps(id=1, job=key.job, attempt=1), Failed)

    assert "call bgd_job.step in one process of a job" in refused.message
    assert also.message == refused.message


async def test_a_step_is_refused_before_its_process_has_asked_for_the_steps(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()

        refused = await (await life.call()).ask(step(key, 1), Failed)

    assert "ask for the steps" in refused.message


async def test_all_values_of_a_job_have_a_limit_and_those_of_an_open_step_count_once(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(steps, "MAX_STEP_BYTES", 100)
    async with served(config, launcher) as life:
        first = await life.launched(RETRIED)
        caller, _ = await opened(life, first)
        for _ in range(5):
            await caller.ask(step(first, 1, value=bytes(60), done=False), Done)
        await caller.ask(step(first, 2, value=bytes(40)), Done)
        assert "more than 100 bytes" in (await caller.ask(step(first, 3, value=b"1"), Failed)).message
        launcher.say(end(first, Outcome.EXIT, 1))
        second = (await launcher.hear(Launch)).key

        await told(caller, second)
        await caller.ask(step(second, 1, value=bytes(60)), Done)

        assert "more than 100 bytes" in (await caller.ask(step(second, 3, value=b"1"), Failed)).message


@pytest.mark.parametrize(
    ("outcome", "left"), [(Outcome.SUCCEEDED, []), (Outcome.EXIT, ["a"])], ids=["succeeded", "failed"]
)
async def test_a_job_that_failed_goes_on_where_it_was_and_one_that_succeeded_begins_anew(
    config, launcher, outcome, left
):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, _ = await opened(life, key)
        await caller.ask(step(key, 1), Done)
        launcher.say(end(key, outcome, int(outcome is Outcome.EXIT)))
        await launcher.hear(Acknowledge)
        assert [each.name for each in await told(caller, key, attempt=False)] == ["a"]

        caller.send(Retry(2, [key.job]))
        again = (await launcher.hear(Launch)).key

        assert [each.name for each in (await opened(life, again))[1]] == left


async def test_the_steps_of_a_job_go_with_it(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, _ = await opened(life, key)
        await caller.ask(step(key, 1), Done)
        launcher.say(end(key))
        await launcher.hear(Acknowledge)

        await life.actions.do("remove", JobId(key.job))
        await soon(life.supervisor.saved())

        assert await told(caller, key, attempt=False) == []


async def test_a_job_with_many_steps_is_read_in_parts_and_a_page_gets_the_latest(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller, _ = await opened(life, key)
        caller.send(*(step(key, position, value=bytes(100_000)) for position in range(1, 46)))
        for _ in range(45):
            await caller.hear(Done)

        found = await told(caller, key)
        latest = await life.store.read(latest_steps, JobId(key.job), 3)

    assert [each.position for each in found] == list(range(1, 46))
    assert {len(each.value) for each in found} == {100_000}
    assert [each.position for each in latest] == [43, 44, 45]


async def test_steps_of_many_jobs_share_a_transaction(config, launcher):
    async with served(config, launcher) as life:
        keys = [await life.launched() for _ in range(2)]
        callers = [(await opened(life, key))[0] for key in keys]
        before = life.commits.commits
        life.commits.close()
        for count in range(10):
            for key, caller in zip(keys, callers, strict=True):
                caller.send(step(key, count + 1))
        life.commits.open()
        for caller in callers:
            for _ in range(10):
                await caller.hear(Done)

    assert life.commits.commits - before < 10
