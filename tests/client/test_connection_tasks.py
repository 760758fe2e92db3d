"""An AsyncClient that tasks share: none waits for another, and a cancelled one leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import aclosing

import pytest
import uvloop

from bgd import AsyncClient, BgdError, DaemonUnreachable
from bgd.wire import replies
from tests.client.scripted import accept, serve, view_of
from tests.support import DEADLINE, wait_until

TASKS = 8


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request, play):
    """Run coroutines on each kind of event loop."""
    del play  # its daemons wait for the clients' end
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    with asyncio.Runner(loop_factory=loops[request.param]) as runner:
        yield runner.run


def test_tasks_that_wait_at_once_each_get_their_own_answer(play, run):
    def script(peer):
        peer.greet()
        waits = [peer.receive() for _ in range(TASKS)]
        for wait in reversed(waits):
            peer.send(replies.JobsPart(wait.id, [view_of(wait.jobs[0])]), replies.End(wait.id))

    async def wait_for_all():
        async with AsyncClient(play(script)) as client:
            return await asyncio.gather(*(client.wait([job_id]) for job_id in range(1, TASKS + 1)))

    assert [job.id for [job] in run(wait_for_all())] == list(range(1, TASKS + 1))


def test_a_cancelled_task_ends_its_stream_and_another_reads_on(play, run):
    both_are_waiting = threading.Event()

    def script(peer):
        peer.greet()
        waits = {wait.jobs[0]: wait for wait in (peer.receive(), peer.receive())}
        both_are_waiting.set()
        assert peer.receive().request == waits[1].id
        peer.send(replies.End(waits[1].id))
        peer.send(replies.JobsPart(waits[2].id, [view_of(2)]), replies.End(waits[2].id))

    async def cancel_the_first():
        async with AsyncClient(play(script)) as client, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.wait([1]))
            second = tasks.create_task(client.wait([2]))
            await asyncio.to_thread(both_are_waiting.wait, DEADLINE)
            first.cancel()
            return [job.id for job in await second]

    assert run(cancel_the_first()) == [2]


def test_whoever_reads_passes_that_on_when_it_leaves(play, run):
    rounds = 40

    async def take_turns(client, number):
        for turn in range(rounds):
            if turn % 5 == number % 5:
                with pytest.raises(TimeoutError):  # it may be the one that reads for all
                    await client.wait([1], timeout=0.001)
            await client.submit(["true"])

    async def take_turns_at_once():
        async with (
            AsyncClient(play(accept(TASKS * rounds)), timeout=10) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(TASKS):
                tasks.create_task(take_turns(client, number))

    run(take_turns_at_once())


def test_nothing_follows_half_a_request_over_the_same_connection(play, run):
    is_cancelled = threading.Event()

    def stall(peer):
        peer.greet()
        assert is_cancelled.wait(DEADLINE)
        peer.wait_for_end()

    async def submit_twice():
        async with AsyncClient(play(stall, serve(2))) as client:
            await client._channel.connection()  # it may take long on a busy machine
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.submit(["cat"], input=b"x" * 500_000)
            is_cancelled.set()
            return await client.submit(["true"])

    assert run(submit_twice()).id == 2


def test_closing_a_client_wakes_its_waiting_task(play, run):
    def script(peer):
        peer.greet()
        peer.send(replies.JobsPart(peer.receive().id, [view_of(1)]))
        peer.wait_for_end()

    async def close_while_waiting():
        client = AsyncClient(play(script))
        async with aclosing(client.as_finished([1, 2])) as finished:
            await anext(finished)
            async with asyncio.TaskGroup() as tasks:
                rest = tasks.create_task(anext(finished))
                await asyncio.sleep(0)
                await client.close()
        return rest

    with pytest.raises(ExceptionGroup) as raised:
        run(close_while_waiting())
    assert raised.group_contains(DaemonUnreachable, match="was closed")


def test_a_log_that_is_not_read_stays_in_the_socket(play, run):
    sent = []

    def script(peer):
        peer.greet()
        request = peer.receive()
        sent.extend(peer.flood(replies.LogPart(request.id, 1, b"x" * 64_000), limit=1000))
        peer.wait_for_end()

    async def take_one_piece():
        async with AsyncClient(play(script)) as client, aclosing(client.logs(1)) as pieces:
            await anext(pieces)
            await asyncio.to_thread(wait_until, lambda: sent)

    run(take_one_piece())

    assert len(sent) < 100


def test_an_attribute_before_the_first_look_is_an_error_with_a_remedy(play, run):
    async def submit():
        async with AsyncClient(play(serve(7))) as client:
            return await client.submit(["true"])

    job = run(submit())

    assert (job.id, job.is_new, repr(job)) == (7, True, "<AsyncJob 7>")
    with pytest.raises(BgdError, match=r"nothing is known of job 7 yet: `await job\.refresh\(\)`"):
        _ = job.state
    with pytest.raises(AttributeError, match="a job has no attribute 'colour'"):
        _ = job.colour


def test_a_client_belongs_to_one_loop(play, run):
    client = AsyncClient(play(serve(1)))

    async def submit():
        return await client.submit(["true"])

    run(submit())
    with pytest.raises(BgdError, match="belongs to another event loop"):
        asyncio.run(submit())
    run(client.close())


def test_the_loop_runs_on_while_a_daemon_is_too_busy_to_accept(play, run, tmp_path):
    del play
    path = str(tmp_path / "busy.sock")

    async def turns_until_unreachable():
        turns = 0
        async with AsyncClient(path, timeout=0.2) as client, asyncio.TaskGroup() as tasks:
            attempt = tasks.create_task(unreachable(client))
            while not attempt.done():
                await asyncio.sleep(0.01)
                turns += 1
        return turns

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        assert run(turns_until_unreachable()) >= 5


async def unreachable(client: AsyncClient) -> None:
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        await client.submit(["true"])
