"""Deadlines: in order, none forgotten, and cancelled ones soon cost nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from bgd.launcher.deadlines import Deadlines
from bgd.system.clock import elapsed


@pytest.fixture
async def deadlines():
    deadlines = Deadlines(asyncio.get_running_loop())
    yield deadlines
    deadlines.close()


async def test_deadlines_expire_in_order_and_not_early(deadlines):
    passed = []
    waits = [0.03, 0.01, 0.02, 0.0, -1.0]
    began = elapsed()
    for wait in waits:
        deadlines.after(wait, lambda wait=wait: passed.append((wait, elapsed() - began)))

    await asyncio.wait_for(deadlines.timer(0.04), 10)

    assert [wait for wait, _ in passed] == sorted(waits)
    assert all(at >= wait for wait, at in passed)


async def test_a_cancelled_deadline_does_not_expire(deadlines):
    passed = []
    deadlines.after(0.0, lambda: passed.append("cancelled")).cancel()
    deadlines.after(0.0, lambda: passed.append("kept"))

    await asyncio.wait_for(deadlines.timer(0.01), 10)

    assert passed == ["kept"]


async def test_after_the_earliest_is_cancelled_the_next_expires_in_time(deadlines):
    earliest = deadlines.after(0.01, lambda: None)
    later = deadlines.timer(0.02)

    earliest.cancel()

    await asyncio.wait_for(later, 10)


async def test_a_callback_may_set_and_cancel_others(deadlines):
    passed = []
    victim = deadlines.after(0.02, lambda: passed.append("victim"))
    deadlines.after(0.0, victim.cancel)
    deadlines.after(0.0, lambda: deadlines.after(0.0, lambda: passed.append("child")))

    await asyncio.wait_for(deadlines.timer(0.03), 10)

    assert passed == ["child"]


async def test_a_callback_that_fails_holds_up_no_other(deadlines):
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    due = deadlines.timer(0.0)  # at the same time as the one that fails
    deadlines.after(0.0, lambda: 1 // 0)
    later = deadlines.timer(0.02)

    await asyncio.wait_for(asyncio.gather(due, later), 10)

    assert [type(each) for each in failures] == [ZeroDivisionError]


async def test_a_future_that_is_no_longer_wanted_leaves_nothing_behind(deadlines):
    for _ in range(10_000):
        deadlines.timer(1000.0).cancel()
        await asyncio.sleep(0)

    assert len(deadlines) < 200


async def test_a_million_cancelled_among_few_living_do_not_pile_up(deadlines):
    dice = random.Random(4)
    living = [deadlines.after(dice.uniform(100, 200), lambda: None) for _ in range(50)]

    for _ in range(20_000):
        deadlines.after(dice.uniform(1, 300), lambda: None).cancel()

    assert len(deadlines) < 300
    assert all(each.is_live for each in living)
