"""Limits on memory: what clients send and do not read is bounded, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import gc
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
from tests.support import DEADLINE

LARGE = command("/bin/true", "x" * 60_000, hold=True)
SMALL = command(hold=True)
GONE = 8  # clients that come and go, one after the other


async def taken(life):
    return len(life.supervisor.scheduler)


async def asked_until(caller, condition):
    """Ask until the condition holds, which it does after a few turns of the daemon."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await caller.ask(GetInfo(1), Info)


def begin(caller, life):
    """Send a large request without its last byte; return the condition that it has room."""
    caller.send_raw(frame(encode(Submit(100, LARGE)))[:-1])
    return lambda: life.control.memory.partial > 0


async def test_large_new_jobs_wait_for_room_and_small_ones_of_others_do_not(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UNSAVED_BYTES", 100_000)
    async with served(config, launcher) as life:
        greedy, waiting, modest, curious = [await life.call() for _ in range(4)]
        life.commits.close()
        greedy.send(*(Submit(number, LARGE) for number in range(3)))
        await asked_until(curious, lambda: life.control.memory.unsaved > 100_000)
        waiting.send(Submit(1, LARGE))
        modest.send(Submit(1, SMALL), Submit(2, SMALL))
        for number in range(10):
            assert (await curious.ask(GetInfo(number), Info)).id == number
        assert await taken(life) == 3  # the second small job comes from a client with unsaved bytes: it waits
        life.commits.open()
        assert [(await greedy.hear(Submitted)).id for _ in range(3)] == [0, 1, 2]
        await waiting.hear(Submitted)
        assert [(await modest.hear(Submitted)).id for _ in range(2)] == [1, 2]


async def test_jobs_of_one_client_wait_when_it_has_much_unsaved(config, launcher, monkeypatch):
    size = len(encode(Submit(1, SMALL)))
    monkeypatch.setattr(limits, "MAX_OWN_UNSAVED_BYTES", 2 * size)
    async with served(config, launcher) as life:
        caller, other = [await life.call() for _ in range(2)]
        life.commits.close()
        caller.send(*(Submit(number, SMALL) for number in range(9)))
        await soon(life.commits.reached.wait())
        await other.ask(GetInfo(1), Info)
        assert await taken(life) == 2
        life.commits.open()
        assert [(await caller.hear(Submitted)).id for _ in range(9)] == list(range(9))


async def test_large_jobs_that_many_clients_send_without_waiting_stay_within_the_bounds(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(limits, "MAX_UNSAVED_BYTES", 1_000_000)
    monkeypatch.setattr(limits, "MAX_OWN_UNSAVED_BYTES", 250_000)
    monkeypatch.setattr(limits, "MAX_PARTIAL_BYTES", 200_000)
    size = len(frame(encode(Submit(100, LARGE))))
    async with served(config, launcher) as life:
        memory = life.control.memory
        senders, other = [await life.call() for _ in range(8)], await life.call()
        life.commits.close()
        for sender in senders:
            sender.send(*(Submit(number, LARGE) for number in range(10)))
        await asked_until(other, lambda: memory.unsaved >= limits.MAX_UNSAVED_BYTES)
        for number in range(30):
            await other.ask(GetInfo(number), Info)
        assert memory.unsaved < limits.MAX_UNSAVED_BYTES + limits.MAX_PARTIAL_BYTES + size
        assert memory.partial < limits.MAX_PARTIAL_BYTES + size
        assert all(each._flow._unsaved < 250_000 + size for each in life.control.connections)
        life.commits.open()
        for sender in senders:
            assert [(await sender.hear(Submitted)).id for _ in range(10)] == list(range(10))
        assert (memory.unsaved, memory.partial) == (0, 0)


async def test_list_is_answered_beside_a_sender_of_16_mib_and_requests_that_stop_half_way(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 1.0)
    huge = command("/bin/true", *["x" * 100_000] * 9, hold=True)
    async with served(config, launcher) as life:
        memory = life.control.memory
        stalled, sender, other = [await life.call() for _ in range(5)], await life.call(), await life.call()
        for each in stalled:
            each.send_raw(frame(encode(Submit(1, huge)))[:-1])
        await asked_until(other, lambda: memory.partial >= limits.MAX_PARTIAL_BYTES)
        sender.send(*(Submit(number, huge) for number in range(18)))
        await asked_until(other, lambda: memory.waiting)
        for number in range(10):
            assert await other.stream(List(id=number), JobsPart) == []
        assert memory.partial >= limits.MAX_PARTIAL_BYTES
        for each in stalled:
            assert "half a frame arrived" in (await each.refusal()).message
        for number in range(18):
            assert (await sender.hear(Submitted)).id == number
            await other.stream(List(id=number), JobsPart)


async def test_large_request_that_has_begun_is_read_to_its_end_at_a_shared_bound(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(limits, "MAX_UNSAVED_BYTES", 50_000)
    async with served(config, launcher) as life:
        begun, greedy, other = [await life.call() for _ in range(3)]
        life.commits.close()
        request = frame(encode(Submit(100, LARGE)))
        begun.send(Submit(1, SMALL))  # so it has unsaved bytes of its own
        begun.send_raw(request[:-20_000])
        await asked_until(other, lambda: life.control.memory.partial > 0)
        greedy.send(Submit(1, LARGE), Submit(2, LARGE))
        await asked_until(other, lambda: life.control.memory.unsaved > 50_000)
        begun.send_raw(request[-20_000:])
        await asked_until(other, lambda: life.control.memory.partial == 0)
        assert await taken(life) == 3
        life.commits.open()
        assert [(await begun.hear(Submitted)).id for _ in range(2)] == [1, 100]
        assert [(await greedy.hear(Submitted)).id for _ in range(2)] == [1, 2]


async def test_deadline_of_a_large_request_stops_while_it_waits_for_room(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PARTIAL_BYTES", 50_000)
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.2)
    async with served(config, launcher) as life:
        slow, patient, late = [await life.call() for _ in range(3)]
        await asked_until(late, begin(slow, life))
        patient.send(Submit(1, LARGE))
        late.send(Submit(1, LARGE))
        assert "half a frame arrived" in (await slow.refusal()).message
        await patient.hear(Submitted)
        await late.hear(Submitted)
        assert life.control.memory.partial == 0


async def test_clients_that_wait_are_not_woken_while_their_bound_is_still_reached():
    """A thousand clients that stop half way must not cost each answer to others a thousand turns."""
    memory = limits.SharedMemory()
    memory.partial, memory.unsaved = limits.MAX_PARTIAL_BYTES, 200
    woken: list[str] = []
    memory.waiting[lambda: woken.append("large frame")] = None

    memory.release(unsaved=100)
    memory.release()
    await asyncio.sleep(0)
    assert woken == []

    memory.release(partial=100)
    await asyncio.sleep(0)
    assert woken == ["large frame"]


async def test_clients_that_wait_for_the_disk_are_woken_when_its_bound_is_left():
    memory = limits.SharedMemory()
    memory.unsaved = limits.MAX_UNSAVED_BYTES + 100
    woken: list[str] = []
    memory.waiting[lambda: woken.append("jobs")] = None

    memory.release(unsaved=50)
    await asyncio.sleep(0)
    assert woken == []

    memory.release(unsaved=100)
    await asyncio.sleep(0)
    assert woken == ["jobs"]


async def test_client_that_reads_nothing_loses_the_room_of_its_partial_request(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PARTIAL_BYTES", 50_000)
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.2)
    async with served(config, launcher) as life:
        other = await life.call()
        await other.ask(Submit(1, LARGE), Submitted)
        deaf = await life.call()
        deaf.send(*(Show(number, 1) for number in range(60)))
        await asked_until(other, begin(deaf, life))
        other.send(Submit(2, LARGE))
        assert (await other.hear(Submitted)).id == 2
        assert life.control.memory.partial == 0


async def test_client_that_leaves_while_it_waits_for_room_keeps_nobody_waiting(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PARTIAL_BYTES", 50_000)
    async with served(config, launcher) as life:
        slow, leaving, last = [await life.call() for _ in range(3)]
        await asked_until(last, begin(slow, life))
        leaving.send(Submit(1, LARGE))
        await asked_until(last, lambda: life.control.memory.waiting)
        await leaving.hang_up()
        last.send(Submit(1, LARGE))
        await slow.hang_up()
        await last.hear(Submitted)
        assert life.control.memory.partial == 0


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
            await life.actions.do("cancel", job)
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
                    await until(lambda: any(each._flow.large_frame for each in life.control.connections))
                await caller.hang_up()
                await until(lambda: not life.control.connections)
            assert tracemalloc.get_traced_memory()[0] < len(nonsense) * GONE / 2
        finally:
            tracemalloc.stop()
            gc.enable()
