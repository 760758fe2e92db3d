"""Scripted daemons for the client's tests, and clients of each kind."""

import asyncio
from contextlib import ExitStack

import pytest
import uvloop

from bgd import AsyncClient, Client
from tests.client.driven import Driven
from tests.client.scripted import ScriptedDaemon


@pytest.fixture
def play(tmp_path):
    """Start a scripted daemon, which must have finished its scripts at the end of the test."""
    daemons: list[ScriptedDaemon] = []

    def start(*scripts):
        daemons.append(ScriptedDaemon(str(tmp_path / f"{len(daemons)}.sock"), scripts))
        return daemons[-1].path

    yield start
    for daemon in daemons:
        daemon.finish()


@pytest.fixture(params=["blocking", "asyncio", "uvloop"])
def client_at(request, play):
    """Make clients of each kind, so that a test holds for all of them."""
    del play  # its daemons wait for the clients' end
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    with asyncio.Runner(loop_factory=loops.get(request.param)) as runner, ExitStack() as clients:

        def make(*args, **kwargs):
            is_blocking = request.param == "blocking"
            client = Client(*args, **kwargs) if is_blocking else Driven(runner, AsyncClient(*args, **kwargs))
            return clients.enter_context(client)

        yield make
