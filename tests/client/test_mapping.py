"""`map` over a connection that breaks: jobs are submitted once, and none is left over."""

from __future__ import annotations

import asyncio
import threading

import pytest
from msgspec.structs import replace

from bgd import AsyncClient, State
from bgd.wire import replies, requests
from tests.client.scripted import view_of
from tests.support import DEADLINE

TARGET = "app.tasks:area"


def keys_in(request):
    assert isinstance(request, requests.SubmitMany)
    return [spec.key for spec in request.specs]


def finish(peer, *job_ids):
    """Answer a Wait: these jobs have finished. The client needs no more of that stream."""
    waiting = peer.receive()
    assert isinstance(waiting, requests.Wait)
    peer.send(replies.JobsPart(waiting.id, [view_of(job_id) for job_id in job_ids]))


def tell_result(peer, text):
    asked = peer.receive()
    assert isinstance(asked, requests.GetResult)
    peer.send(replies.Result(asked.id, replace(view_of(asked.job), target=TARGET), text, None))


def test_unanswered_jobs_are_sent_again_with_the_same_keys(client_at, play):
    keys = []

    def break_off(peer):
        peer.greet()
        keys.extend(keys_in(peer.receive()))

    def answer(peer):
        peer.greet()
        submitted = peer.receive()
        assert keys_in(submitted) == keys
        peer.send(replies.Submitted(submitted.id, [7, 8], found=[7]))
        finish(peer, 7, 8)
        tell_result(peer, "1.5")
        tell_result(peer, "null")
        peer.wait_for_end()

    client = client_at(play(break_off, answer), timeout=2)

    assert list(client.map(TARGET, [1, 2])) == [1.5, None]
    assert len(set(keys)) == 2


def test_a_result_is_asked_for_again_when_the_daemon_is_back(client_at, play):
    def break_off(peer):
        peer.greet()
        peer.send(replies.Submitted(peer.receive().id, [7]))
        finish(peer, 7)
        assert isinstance(peer.receive(), requests.GetResult)

    def answer(peer):
        peer.greet()
        tell_result(peer, "2")
        peer.wait_for_end()

    assert list(client_at(play(break_off, answer), timeout=2).map(TARGET, [1])) == [2]


async def test_a_map_that_stops_before_an_answer_still_cancels_its_jobs(play):
    is_sent = threading.Event()

    def script(peer):
        peer.greet()
        keys = keys_in(peer.receive())
        is_sent.set()
        again = peer.receive()
        assert keys_in(again) == keys
        assert [spec.hold for spec in again.specs] == [True, True]  # so that a new one does not start
        peer.send(replies.Submitted(again.id, [7, 8], found=[7]))
        for kind, state in ((requests.Hold, State.HELD), (requests.Cancel, State.CANCELLED)):
            asked = peer.receive()
            assert isinstance(asked, kind)
            assert asked.jobs == [7, 8]
            peer.send(replies.Acted(asked.id, [replies.ActResult(job, state) for job in asked.jobs]))
        peer.wait_for_end()

    async with AsyncClient(play(script)) as client, asyncio.TaskGroup() as group:
        task = group.create_task(anext(client.map(TARGET, [1, 2])))
        assert await asyncio.to_thread(is_sent.wait, DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
