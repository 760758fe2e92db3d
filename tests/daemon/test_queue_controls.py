"""Slots and queues are set, paused and resumed at run time."""

from __future__ import annotations

import asyncio

import pytest

from bgd.core.job import Outcome, State
from bgd.core.limits import QueueRule
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon import queue_controls
from bgd.daemon.storage.records import QueueControls, QueueSetting
from bgd.wire.launching import CheckAttempt, Checked, Launch
from bgd.wire.replies import Acted, ErrorCode, Failed, Queues
from bgd.wire.requests import (
    Cancel,
    GetQueues,
    Pause,
    RemoveQueue,
    Resume,
    SetQueue,
    SetSlots,
    Submit,
)
from tests.daemon.harness import command, configure, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon


async def test_slots_and_queues_set_at_run_time_survive_a_restart(folder, launcher):
    config = configure(folder, "slots = 1", "[queues.mail]\nslots = 2")
    async with served(config, launcher) as life:
        caller = await life.call()
        assert (await caller.ask(SetSlots(1, 3), Queues)).slots == 3
        await caller.ask(SetQueue(2, "slow", 1), Queues)
        await caller.ask(SetQueue(3, "mail", None), Queues)
        await caller.ask(SetQueue(4, "held-up", None), Queues)
        await caller.ask(Pause(5, "held-up"), Queues)
        await life.launched(command(queue="slow"))
        await life.submit(command(queue="slow"))
    async with served(config, launcher) as life:
        queues = await (await life.call()).ask(GetQueues(1), Queues)
        assert (queues.slots, queues.configured_slots, queues.paused) == (3, 1, False)
        found = {each.name: (each.slots, each.configured_slots, each.paused) for each in queues.queues}
        assert found == {
            "default": (None, None, False),
            "held-up": (None, None, True),
            "mail": (None, 2, False),
            "slow": (1, None, False),
        }
        (slow,) = [each for each in queues.queues if each.name == "slow"]
        assert sum(slow.counts.values()) == 2

        caller = await life.call()
        await caller.ask(SetSlots(1, None), Queues)
        queues = await caller.ask(RemoveQueue(2, "mail"), Queues)
        assert queues.slots == 1
        assert {each.name: each.slots for each in queues.queues}["mail"] == 2


async def test_a_pause_is_confirmed_once_the_launcher_has_begun_what_started_before(config, launcher):
    async with served(config, launcher) as life:
        caller, other = await life.call(), await life.call()
        launcher.answers = None
        job = life.take()
        pausing = asyncio.create_task(caller.ask(Pause(1), Queues))

        assert (await launcher.hear(Launch)).key.job == job
        question = await launcher.hear(CheckAttempt)
        await other.ask(GetQueues(1), Queues)
        assert not pausing.done()
        launcher.say(Checked(question.number, False))

        assert (await soon(pausing)).paused


@pytest.mark.parametrize("queue", [None, "default"])
async def test_a_start_that_no_launcher_has_begun_is_taken_back_if_its_queue_is_paused(
    config, launcher, queue
):
    async with served(config, launcher) as life:
        life.commits.close()
        paused, other = life.take(), life.take(command(queue="other"))
        await life.commits.reached.wait()
        launcher.hang_up()
        await life.is_lost.wait()
        life.commits.open()
        await (await life.call()).ask(Pause(1, queue), Queues)
        await launcher.greet(instance="boot:second")

        launched = [message.key.job for message in await life.told() if isinstance(message, Launch)]

        assert launched == ([other] if queue else [])
        assert (await life.view(paused)).state is State.QUEUED
        [attempt] = await life.attempts(paused)
        assert attempt.outcome is Outcome.INTERRUPTED
        assert attempt.error is not None
        assert attempt.error.message == "stopped before it was started"


async def test_paused_queue_starts_nothing_until_it_is_resumed(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await caller.ask(SetQueue(1, "slow", None), Queues)
        assert not (await caller.ask(Pause(1, "slow"), Queues)).paused
        waiting = await life.submit(command(queue="slow"))
        await life.launched(command(queue="fast"))
        assert (await life.view(waiting)).state is State.QUEUED

        await caller.ask(Resume(2, "slow"), Queues)

        assert (await launcher.hear(Launch)).key == life.key(waiting)


async def test_unknown_queue_can_be_paused_before_its_first_job_but_not_resumed(folder, launcher):
    async with served(configure(folder, rest="[queues.mail]\nslots = 2"), launcher) as life:
        caller = await life.call()
        failed = await caller.ask(Resume(1, "mial"), Failed)
        assert failed.code is ErrorCode.REFUSED
        assert failed.message == (
            "there is no queue mial (did you mean mail?): `bgctl queue set mial --slots N` makes it"
        )
        queues = (await caller.ask(GetQueues(2), Queues)).queues
        assert [queue.name for queue in queues] == ["default", "mail"]

        await caller.ask(SetQueue(3, "set", None), Queues)
        await caller.ask(Cancel(4, [await life.submit(command(queue="used", hold=True))]), Acted)
        for queue in ("default", "mail", "set", "used"):
            await caller.ask(Resume(5, queue), Queues)
        await caller.ask(Pause(6, "early"), Queues)
        waiting = await life.submit(command(queue="early"))
        await life.launched(command(queue="other"))
        assert (await life.view(waiting)).state is State.QUEUED


async def test_pause_of_everything_survives_a_restart(config, launcher):
    async with served(config, launcher) as life:
        assert (await (await life.call()).ask(Pause(1), Queues)).paused
        job = await life.submit()
    async with served(config, launcher) as life:
        assert await life.told() == []

        assert not (await (await life.call()).ask(Resume(1), Queues)).paused

        assert (await launcher.hear(Launch)).key == life.key(job)


async def test_number_of_set_queues_is_limited(config, launcher, monkeypatch):
    monkeypatch.setattr(queue_controls, "MAX_SET_QUEUES", 2)
    async with served(config, launcher) as life:
        caller = await life.call()
        for number, queue in enumerate(["one", "two", "two"]):
            await caller.ask(SetQueue(number, queue, 1), Queues)
        await life.submit(command(queue="three"))
        assert (await caller.ask(Pause(9, "three"), Failed)).code is ErrorCode.FULL
        assert "neither set nor paused" in (await caller.ask(RemoveQueue(9, "three"), Failed)).message


async def test_the_queue_of_notifications_cannot_be_changed_or_used(config, launcher):
    own = NOTIFICATION_QUEUE
    async with served(config, launcher) as life:
        caller = await life.call()
        for request in (SetQueue(1, own, 2), Pause(2, own), Resume(3, own)):
            refused = await caller.ask(request, Failed)
            assert refused.code is ErrorCode.REFUSED
            assert f"queue {own} is for bgd's own notifications" in refused.message
        refused = await caller.ask(Submit(4, command(queue=own)), Failed)
        assert f"queue {own} is for bgd's own notifications" in refused.message
        assert own not in {each.name for each in (await caller.ask(GetQueues(5), Queues)).queues}


async def test_a_job_of_the_queue_of_notifications_starts_while_all_slots_are_taken_and_all_is_paused(
    folder, launcher
):
    async with served(configure(folder, "slots = 1"), launcher) as life:
        await life.launched()
        await (await life.call()).ask(Pause(1), Queues)
        key = await life.launched(command(queue=NOTIFICATION_QUEUE, name="notify ops"))
        second = await life.submit(command(queue=NOTIFICATION_QUEUE, name="notify ops"))
        assert (await life.view(second)).state is State.QUEUED
        life.launcher.say(end(key))
        assert (await life.launcher.hear(Launch)).key == life.key(second)


CLUSTER = '[executors.cluster]\nkind = "slurm"\nfolder = "/shared"\n'


@pytest.mark.parametrize(
    ("queue", "controls", "elsewhere"),
    [
        ('executor = "cluster"\nslots = 50', QueueControls(), True),
        ('executor = "cluster"', QueueControls(), False),  # nothing else limits them
        ("slots = 50", QueueControls(), False),
        ('executor = "cluster"', QueueControls(queues={"far": QueueSetting(has_slots=True, slots=3)}), True),
        (
            'executor = "cluster"\nslots = 50',
            QueueControls(queues={"far": QueueSetting(has_slots=True)}),
            False,
        ),
    ],
)
def test_jobs_on_a_cluster_take_only_slots_of_their_queue_if_it_has_a_number(
    folder, queue, controls, elsewhere
):
    config = configure(folder, "slots = 2", f"{CLUSTER}[queues.far]\n{queue}\n[queues.near]\nslots = 7")

    rules = queue_controls.queue_rules(config, controls)

    assert rules.get("far", QueueRule()).elsewhere is elsewhere
    assert not rules["near"].elsewhere


def test_jobs_on_a_cluster_count_for_the_files_that_may_be_open(folder):
    config = configure(folder, "slots = 2", f'{CLUSTER}[queues.far]\nexecutor = "cluster"\nslots = 50')

    assert queue_controls.most_slots(config) == 52
