"""What the daemon and the launcher set up when they start."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import uvloop

from bgd.startup import call_in_loop


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    made = request.param()
    before = signal.getsignal(signal.SIGCHLD)
    yield made
    signal.signal(signal.SIGCHLD, before)
    made.close()


def test_a_signal_handler_calls_back_in_the_loop(loop):
    called = loop.create_future()
    signal.signal(signal.SIGCHLD, lambda *_: call_in_loop(loop, called.set_result, "ended"))
    loop.call_soon(os.kill, os.getpid(), signal.SIGCHLD)

    assert loop.run_until_complete(called) == "ended"


def test_a_signal_after_the_end_of_the_loop_does_nothing(loop):
    signal.signal(signal.SIGCHLD, lambda *_: call_in_loop(loop, pytest.fail))
    loop.close()

    os.kill(os.getpid(), signal.SIGCHLD)
