"""Requests to Slurm's controller are few, and spread so that it takes all of them at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from bgd.launcher.controller import Controller, RequestLimit, SlurmJob
from bgd.wire.launching import SlurmStart


def test_a_burst_goes_at_once_and_then_requests_wait_for_the_rate():
    limit = RequestLimit(rate=2.0, now=100.0)

    assert [limit.take(4, 100.0) for _ in range(5)] == [0.0] * 5
    assert limit.take(4, 100.0) == 2.0
    assert limit.take(2, 101.0) == 2.0
    assert limit.take(2, 110.0) == 0.0


def test_a_long_silence_allows_no_larger_burst():
    limit = RequestLimit(rate=2.0, now=0.0)

    assert [limit.take(10, 1e6) for _ in range(3)] == [0.0, 0.0, 5.0]


def test_requests_that_are_not_sent_are_there_for_others():
    limit = RequestLimit(rate=2.0, now=0.0)
    limit.take(40, 0.0)

    limit.give_back(38)

    assert limit.take(4, 0.0) == 0.0


WAITS = SlurmJob("PENDING", "Resources")


class Pauses:
    """Pauses that a test ends; `seconds`: how long each would last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._latest: asyncio.Future[None]

    def timer(self, seconds: float) -> asyncio.Future[None]:
        self.seconds.append(seconds)
        self._latest = asyncio.get_running_loop().create_future()
        return self._latest

    async def end(self) -> None:
        self._latest.set_result(None)
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def controller(group, pauses, answers):
    """Return a controller with these answers, one for each question, whose count of questions is `asked`."""
    context: Any = SimpleNamespace(group=group, deadlines=pauses)  # all of it that asking needs
    settings = SlurmStart(folder="/shared", python="python3", options=[], requests_per_second=4.0)
    made = Controller(context, settings)

    async def jobs():
        return answers.pop(0)

    made.jobs = jobs  # type: ignore[method-assign]  # which would run squeue
    return made


async def test_one_question_for_all_that_wait_takes_a_twentieth_of_the_requests():
    pauses, told = Pauses(), []
    answers = [{"a": WAITS, "b": WAITS}, {"b": WAITS}, None]
    async with asyncio.TaskGroup() as group:
        asked = controller(group, pauses, answers)
        for name in ("a", "b"):
            asked.watch(name, lambda job, name=name: told.append((name, job)))
        await settled()

        await pauses.end()
        assert told == [("a", WAITS), ("b", WAITS)]
        await pauses.end()
        assert told[2:] == [("b", WAITS)]  # the other one is not there yet, or no more
        await pauses.end()
        assert told[3:] == [("a", None), ("b", None)]
        assert pauses.seconds == [2.0, 10.0, 10.0, 10.0]
        assert answers == []
        asked.unwatch("a")
        asked.unwatch("b")  # and so it ends, or the group would never


async def test_jobs_that_start_in_a_moment_cause_no_question():
    pauses = Pauses()
    async with asyncio.TaskGroup() as group:
        asked = controller(group, pauses, answers=[])
        for name in ("a", "b", "c"):
            asked.watch(name, lambda _: None)
            await settled()
            asked.unwatch(name)
            await settled()
        asked.watch("d", lambda _: None)
        await settled()
        asked.watch("e", lambda _: None)
        asked.unwatch("d")
        await pauses.end()

        assert set(pauses.seconds) == {2.0}
        asked.unwatch("e")
