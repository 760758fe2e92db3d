"""Limits on memory: what clients send and do not read is bounded, and clients get room in turn."""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest

from bgd.daemon.control import connection as connection_module
from bgd.daemon.control import limits
from bgd.daemon.control.limits import FOLLOWED_BYTES, STREAM_BYTES
from bgd.daemon.storage import read
from bgd.wire.framing import frame
from bgd.wire.messages import encode
from bgd.wire.replies import End, ErrorCode, Failed, Info, JobsPart, Submitted
from bgd.wire.requests import Forget, GetInfo, List, Show, Submit, SubmitMany, Wait
from tests.daemon.harness import command, served
from tests.daemon.waiting import soon, until

LARGE = command("/bin/true", "x" * 60_000, hold=True)
SMALL = command(hold=True)
GONE = 8  # clients that come and go, one after the other


async def taken(life):
    return len(life.supervisor._scheduler)


async def asked_until(caller, condition):
    """Ask until the condition holds, which it does after a few turns of the daemon."""
    while not condition():
        await caller.ask(GetInfo(1), Info)


def begin(caller, life):
    """Send a large request without its last byte; return the condition that it has room."""
    caller.send_raw(frame(encode(Submit(100, LARGE)))[:-1])
    return lambda: life.control.budgets.unread._used > 0


def later(seconds):
    """Return the condition that so much time has passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


async def test_large_new_jobs_wait_for_room_and_small_ones_of_others_do_not(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNSAVED_BYTES", 100_000)
    async with served(config, launcher) as life:
        greedy, waiting, modest = [await life.call() for _ in range(3)]
        life.commits.close()
        greedy.send(*(Submit(number, LARGE) for number in range(3)))
        waiting.send(Submit(1, LARGE))
        await soon(life.commits.reached.wait())
        modest.send(Submit(1, SMALL))
        for number in range(10):
            modest.send(GetInfo(number + 2))
            assert (await modest.next()).id == number + 2
        assert await taken(life) == 2
        life.commits.open()
        assert [(await greedy.hear(Submitted)).id for _ in range(3)] == [0, 1, 2]
        await waiting.hear(Submitted)
        await modest.hear(Submitted)


async def test_small_jobs_of_one_client_wait_too_when_it_has_much_unsaved(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNSAVED_BYTES", 10)
    size = len(encode(Submit(1, SMALL)))
    monkeypatch.setattr(limits, "MAX_SMALL_UNSAVED_BYTES", 2 * size)
    async with served(config, launcher) as life:
        caller, other = [await life.call() for _ in range(2)]
        life.commits.close()
        caller.send(*(Submit(number, SMALL) for number in range(9)))
        await soon(life.commits.reached.wait())
        other.send(GetInfo(1))
        await other.next()
        assert await taken(life) == 2
        life.commits.open()
        assert [(await caller.hear(Submitted)).id for _ in range(9)] == list(range(9))


async def test_deadline_of_a_large_request_stops_while_it_waits_for_room(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNREAD_BYTES", 70_000)
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.2)
    async with served(config, launcher) as life:
        slow, patient, late = [await life.call() for _ in range(3)]
        await asked_until(late, begin(slow, life))
        patient.send(Submit(1, LARGE))
        late.send(Submit(1, LARGE))
        assert "half a frame arrived" in (await slow.refusal()).message
        await patient.hear(Submitted)
        await late.hear(Submitted)
        assert life.control.budgets.unread._used == 0


async def test_client_that_stops_in_a_large_request_is_disconnected_when_others_wait(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(limits, "MAX_UNREAD_BYTES", 70_000)
    monkeypatch.setattr(connection_module, "STILL_SECONDS", 0.2)
    async with served(config, launcher) as life:
        still, waiting = [await life.call() for _ in range(2)]
        await asked_until(waiting, begin(still, life))
        await asked_until(waiting, later(0.5))
        assert life.control.budgets.unread._used > 0  # it may take its time while nobody waits

        waiting.send(Submit(1, LARGE))
        refusal = await still.refusal()
        assert refusal.code is ErrorCode.FULL
        assert "no byte of a large request arrived for 0.2 s while others wait" in refusal.message
        await waiting.hear(Submitted)
        assert life.control.budgets.unread._used == 0


async def test_client_that_sends_a_large_request_slowly_is_not_disconnected(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNREAD_BYTES", 70_000)
    monkeypatch.setattr(connection_module, "STILL_SECONDS", 1.0)
    async with served(config, launcher) as life:
        slow, waiting, other = [await life.call() for _ in range(3)]
        request = frame(encode(Submit(100, LARGE)))
        slow.send_raw(request[:20_000])
        await asked_until(other, lambda: life.control.budgets.unread._used > 0)
        waiting.send(Submit(1, LARGE))
        for start in range(20_000, len(request), len(request) // 5):
            await asked_until(other, later(0.3))
            slow.send_raw(request[start : start + len(request) // 5])
        await slow.hear(Submitted)
        await waiting.hear(Submitted)


async def test_client_that_reads_nothing_loses_the_room_of_its_partial_request(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNREAD_BYTES", 70_000)
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.2)
    async with served(config, launcher) as life:
        other = await life.call()
        await other.ask(Submit(1, LARGE), Submitted)
        deaf = await life.call()
        deaf.send(*(Show(number, 1) for number in range(60)))
        await asked_until(other, begin(deaf, life))
        other.send(Submit(2, LARGE))
        assert (await other.hear(Submitted)).id == 2
        assert life.control.budgets.unread._used == 0


async def test_client_that_leaves_while_in_line_keeps_nobody_waiting(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNREAD_BYTES", 70_000)
    async with served(config, launcher) as life:
        slow, leaving, last = [await life.call() for _ in range(3)]
        await asked_until(last, begin(slow, life))
        leaving.send(Submit(1, LARGE))
        await asked_until(last, lambda: life.control.budgets.unread.has_waiters)
        await leaving.hang_up()
        last.send(Submit(1, LARGE))
        await slow.hang_up()
        await last.hear(Submitted)
        assert life.control.budgets.unread._used == 0


async def test_one_stream_too_many_is_refused_until_another_one_ends(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_STREAM_BYTES", 2 * STREAM_BYTES + 2 * FOLLOWED_BYTES)
    async with served(config, launcher) as life:
        job = await life.submit(SMALL)
        caller, other = [await life.call() for _ in range(2)]
        caller.send(Wait(1, [job]), Wait(2, [job]), GetInfo(3))
        assert (await caller.next()).id == 3
        refused = await other.ask(Wait(1, [job]), Failed)
        assert refused.code is ErrorCode.FULL
        assert "try again later" in refused.message
        caller.send(Forget(4, 2))
        assert await caller.hear(End) == End(2)
        other.send(Wait(2, [job]), GetInfo(3))
        assert (await other.next()).id == 3


async def test_more_requests_than_are_answered_at_a_time_stay_in_the_socket(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SHORT_TASKS", 2)
    async with served(config, launcher) as life:
        caller, other = [await life.call() for _ in range(2)]
        life.commits.close()
        life.take(SMALL)
        caller.send(*(List(id=number) for number in range(5)))
        await soon(life.commits.reached.wait())
        assert max(each._flow._short_tasks for each in life.control.connections) == 2
        await other.ask(Wait(1, [10**9]), Failed)  # streams do not count
        life.commits.open()
        ended: set[int] = set()
        while len(ended) < 5:
            if isinstance(reply := await caller.next(), End):
                ended.add(reply.id)


@pytest.mark.parametrize("ask", [List(id=1, limit=100), Wait(1, list(range(1, 31)))])
async def test_large_jobs_are_read_and_sent_a_few_at_a_time(config, launcher, monkeypatch, ask):
    async with served(config, launcher) as life:
        caller = await life.call()
        jobs = [await life.submit(LARGE) for _ in range(30)]
        for job in jobs:
            await life.actions.cancel(job)
        await soon(life.supervisor.saved())
        most = 0

        for function in (read.next_views, read.first_views):

            def counted(*arguments, function=function):
                nonlocal most
                views, rest = function(*arguments)
                most = max(most, len(views))
                return views, rest

            monkeypatch.setattr(read, function.__name__, counted)
        parts = await caller.stream(ask, JobsPart)
        assert sorted(view.id for part in parts for view in part.jobs) == jobs
        assert 0 < most < 10


async def test_batch_keeps_its_memory_until_it_is_on_disk(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 2000)
    async with served(config, launcher) as life:
        caller, other = [await life.call() for _ in range(2)]
        life.commits.close()
        caller.send(SubmitMany(id=1, specs=[SMALL, SMALL]))
        await soon(life.commits.reached.wait())
        refused = await other.ask(SubmitMany(id=1, specs=[SMALL, SMALL]), Failed)
        assert refused.code is ErrorCode.FULL
        life.commits.open()
        await caller.hear(Submitted)
        await caller.ask(SubmitMany(id=2, specs=[SMALL, SMALL]), Submitted)


async def test_client_that_does_not_read_holds_one_large_answer_at_a_time(config, launcher):
    async with served(config, launcher) as life:
        for _ in range(20):
            await life.submit(LARGE)
        caller, other = [await life.call() for _ in range(2)]
        caller.send(*(List(id=number) for number in range(60)))
        most = 0
        for number in range(300):
            other.send(GetInfo(number))
            await other.next()
            most = max(most, *(each._transport.get_write_buffer_size() for each in life.control.connections))
        assert 0 < most < 2_000_000
        ends = 0
        while ends < 60:
            ends += isinstance(await caller.next(), End)


@pytest.mark.parametrize("is_whole", [True, False], ids=["refused", "broken off"])
async def test_client_that_is_gone_leaves_no_large_request_behind(config, launcher, is_whole):
    """Python frees a connection late, because it is in a reference cycle."""
    nonsense = frame(b"\xc1" * 1_000_000)
    async with served(config, launcher) as life:
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(GONE):
                caller = await life.call()
                caller.send_raw(nonsense if is_whole else nonsense[:-1])
                if is_whole:
                    assert (await caller.hear(Failed)).code is ErrorCode.PROTOCOL
                else:
                    await until(lambda: any(each._flow.has_reserved for each in life.control.connections))
                await caller.hang_up()
                await until(lambda: not life.control.connections)
            assert tracemalloc.get_traced_memory()[0] < len(nonsense) * GONE / 2
        finally:
            tracemalloc.stop()
            gc.enable()
