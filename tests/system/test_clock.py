"""The elapsed clock and its alarm, on both loops."""

from __future__ import annotations

import asyncio
import errno
import time
from itertools import islice
from pathlib import Path

import pytest
import uvloop

from bgd.system import clock
from bgd.system.clock import Alarm, boot_id, elapsed

PATIENCE = 10.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    loop = request.param()
    yield loop
    loop.close()


@pytest.fixture
def rings():
    return []


@pytest.fixture
def alarm(loop, rings):
    def ring():
        rings.append(elapsed())
        loop.stop()

    alarm = Alarm(loop, ring)
    yield alarm
    alarm.close()


def run_until_it_rings(loop):
    guard = loop.call_later(PATIENCE, loop.stop)
    loop.run_forever()
    guard.cancel()


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_elapsed_counts_seconds_since_the_machine_started():
    uptime = float(Path("/proc/uptime").read_text().split()[0])

    assert elapsed() == pytest.approx(uptime, abs=1.0)


def test_boot_id_stays_the_same():
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


def test_alarm_rings_once_at_its_time_and_not_before(loop, alarm, rings):
    at = elapsed() + 0.05

    alarm.set(at)
    run_until_it_rings(loop)
    run_for(loop, 0.05)

    assert len(rings) == 1
    assert rings[0] >= at


@pytest.mark.parametrize("at", [-1.0, 0.0, 1e-9, 1.0])
def test_alarm_for_the_past_rings_at_once(loop, alarm, rings, at):
    alarm.set(at)

    run_until_it_rings(loop)

    assert len(rings) == 1


def test_alarm_that_is_set_again_forgets_the_earlier_time(loop, alarm, rings):
    at = elapsed() + 0.1
    alarm.set(elapsed() + 0.01)

    alarm.set(at)
    run_until_it_rings(loop)

    assert rings[0] >= at


def test_alarm_set_to_none_does_not_ring(loop, alarm, rings):
    alarm.set(elapsed() + 0.01)

    alarm.set(None)
    run_for(loop, 0.05)

    assert rings == []


@pytest.mark.parametrize("at", [1e12, float("inf")])
def test_alarm_for_the_far_future_does_not_ring(loop, alarm, rings, at):
    alarm.set(at)

    run_for(loop, 0.02)

    assert rings == []


def test_alarm_set_to_none_costs_nothing_while_nothing_is_due(loop, alarm):
    """A timer that is off only in theory would wake its loop forever."""
    alarm.set(None)

    began = time.process_time()
    run_for(loop, 0.2)

    assert time.process_time() - began < 0.1


def test_alarm_may_be_set_again_by_its_own_callback(loop):
    rings = []

    def ring():
        rings.append(elapsed())
        snooze.set(elapsed() + 0.001) if len(rings) < 3 else loop.stop()

    snooze = Alarm(loop, ring)
    snooze.set(elapsed())
    run_until_it_rings(loop)
    snooze.close()

    assert len(rings) == 3


def test_alarm_that_is_unset_just_before_it_rings_does_not_ring(loop, alarm, rings):
    alarm.set(0.0)
    loop.call_soon(alarm.set, None)  # before the loop checks its descriptors

    run_for(loop, 0.05)

    assert rings == []


def test_alarm_that_rang_may_be_set_to_the_same_time_again(loop, alarm, rings):
    at = elapsed()
    alarm.set(at)
    run_until_it_rings(loop)

    alarm.set(at)

    run_until_it_rings(loop)
    assert len(rings) == 2


def test_alarm_set_just_after_the_clock_was_set_rings_for_that_and_again_later(loop, rings, monkeypatch):
    """The kernel reports this after it arms the timer; a test may not set the clock to provoke it."""
    arm = clock._arm

    def answer(fd, at, *, reports_changes):
        arm(fd, at, reports_changes=reports_changes)
        raise OSError(errno.ECANCELED, "as the clock was set")

    def ring():
        rings.append(time.time())
        loop.stop()

    alarm = Alarm(loop, ring, on_wall_clock=True)
    at = time.time() + 0.3
    monkeypatch.setattr(clock, "_arm", answer)
    alarm.set(at)
    run_until_it_rings(loop)
    assert rings[0] < at
    run_until_it_rings(loop)
    assert rings[1] >= at
    alarm.close()


def test_pauses_double_up_to_the_longest():
    assert list(islice(clock.doubling(0.5, 3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
