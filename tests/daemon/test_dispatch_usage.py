"""What running jobs use: one question to the launcher for all who ask, and none without them."""

from __future__ import annotations

from msgspec.structs import replace

from bgd.wire.launching import AttemptKey, AttemptUsage, Measured, MeasureUsage
from bgd.wire.replies import JobUsages
from bgd.wire.requests import GetUsage
from bgd.wire.views import JobUsage
from tests.daemon.harness import served
from tests.daemon.scripted_launcher import end

USED = JobUsage(cpu_percent=97.5, memory_bytes=64_000_000, processes=3)


def usage_of(key: AttemptKey) -> AttemptUsage:
    return AttemptUsage(key, 97.5, 64_000_000, 3)


async def test_all_who_ask_meanwhile_share_one_answer_of_the_launcher(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        callers = [await life.call() for _ in range(3)]
        for caller in callers:
            caller.send(GetUsage(1))
        await launcher.hear(MeasureUsage)

        launcher.say(Measured([usage_of(key)]))

        for caller in callers:
            assert await caller.hear(JobUsages) == JobUsages(1, {key.job: USED})
        launcher.say(end(key))
        assert not isinstance(await launcher.next(), MeasureUsage)


async def test_the_launcher_is_not_asked_while_no_job_runs(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        launcher.hang_up()

        assert await caller.ask(GetUsage(1), JobUsages) == JobUsages(1, {})


async def test_only_attempts_that_run_now_are_named(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        caller = await life.call()
        caller.send(GetUsage(1))
        await launcher.hear(MeasureUsage)

        others = [replace(key, attempt=2), replace(key, job=404), replace(key, store="another")]
        launcher.say(Measured([usage_of(each) for each in [*others, key]]))

        assert (await caller.hear(JobUsages)).jobs == {key.job: USED}


async def test_without_a_launcher_nothing_is_known(config, launcher):
    async with served(config, launcher) as life:
        await life.launched()
        caller = await life.call()
        caller.send(GetUsage(1))
        await launcher.hear(MeasureUsage)

        launcher.hang_up()

        answer = await caller.hear(JobUsages)
        assert answer.jobs == {}
        assert answer.problem == "the launcher does not answer"
