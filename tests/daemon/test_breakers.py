"""Calls of a class that pause after failures: on disk, told once, and explained."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import JobId, Outcome, State
from bgd.core.notifications import Message, NotifyEvent
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec
from bgd.daemon.storage.records import unpack_spec
from bgd.wire.launching import Acknowledge, RenewWorkers
from tests.daemon.harness import configure, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon, until

CLASSES = """
[security]
allowed_classes = ["app.x.*"]
[classes."app.x.*"]
retries = 0
pause_after = "2 failures/10m"
notify = "ops"
[notify.ops]
mail = "root"
on = ["failed", "recovered"]
failures = 9
"""
CALL = JobSpec(target="app.x:call")
PATTERN = "app.x.*"


@pytest.fixture
def config(folder):
    return configure(folder, rest=CLASSES)


async def fail(life, launcher, times=2):
    for _ in range(times):
        key = await life.launched(CALL)
        launcher.say(end(key, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)


async def messages(life):
    """Return what the target is told about calls."""
    await soon(life.notifications._settle())
    query = "SELECT spec FROM specs JOIN jobs ON id = job WHERE queue = ? ORDER BY job"
    rows = await life.store.read(lambda db: [row[0] for row in db.execute(query, (NOTIFICATION_QUEUE,))])
    return [msgspec.json.decode(unpack_spec(packed).input or b"", type=Message) for packed in rows]


async def test_a_pause_outlives_the_daemon(config, launcher):
    async with served(config, launcher) as life:
        await fail(life, launcher)
        waiting = await life.submit(CALL)
        paused = life.supervisor.scheduler.breakers.state(PATTERN)
        assert (await life.view(waiting)).state is State.QUEUED
        assert paused.paused_until is not None

    async with served(config, launcher) as life:
        restored = life.supervisor.scheduler.breakers.state(PATTERN)
        assert restored.paused_until == pytest.approx(paused.paused_until, abs=1.0)
        reasons = life.supervisor.explain(JobId(waiting))
        [reason] = [each for each in reasons if each.cause is Cause.BREAKER]
        assert (reason.subject, reason.head) == (PATTERN, waiting)


async def test_a_pause_is_told_once(config, launcher):
    async with served(config, launcher) as life:
        await fail(life, launcher)
        [message] = await messages(life)
        assert (message.event, message.subject, message.job) == (
            NotifyEvent.FAILED,
            f"calls to {PATTERN}",
            None,
        )
        assert message.reason == "paused after 2 failures in 10m"


async def test_calls_that_work_again_are_told_once(launcher, folder):
    rest = CLASSES.replace(
        'pause_after = "2 failures/10m"', 'pause_after = "2 failures/10m"\npause_for = "1ms"'
    )
    async with served(configure(folder, rest=rest), launcher) as life:
        await fail(life, launcher)
        for _ in range(2):
            key = await life.launched(CALL)
            launcher.say(replace(end(key), result=b'{"ok":null}'))
            await launcher.hear(Acknowledge)

        events = [(message.event, message.subject) for message in await messages(life)]
        calls = f"calls to {PATTERN}"
        assert events == [(NotifyEvent.FAILED, calls), (NotifyEvent.RECOVERED, calls)]


async def test_a_pause_whose_class_leaves_the_configuration_before_it_is_saved_is_not_told(
    config, launcher, folder
):
    async with served(config, launcher) as life:
        await fail(life, launcher, times=1)
        key = await life.launched(CALL)
        life.commits.close()
        other = asyncio.ensure_future(life.submit(replace(CALL, hold=True)))
        await life.commits.reached.wait()
        launcher.say(end(key, Outcome.EXIT, 1))
        await until(lambda: PATTERN in life.supervisor.scheduler.breakers.changed)
        rest = CLASSES.replace(f'[classes."{PATTERN}"]', '[classes."app.y"]')
        life.supervisor.configure(configure(folder, rest=rest))
        life.commits.open()

        await soon(other)
        await launcher.hear(RenewWorkers)
        await launcher.hear(Acknowledge)
        assert await messages(life) == []
