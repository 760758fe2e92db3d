"""Which messages are sent at once, and which wait for others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bgd.core.job import Outcome
from bgd.launcher.supervisors import SupervisorChannel
from bgd.wire.framing import FrameReader
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    FromLauncher,
    decode_from_launcher,
)

KEY = AttemptKey("store", 17, 1)
STARTED = AttemptStarted(KEY, 4711, 1.0)
ENDED = AttemptEnded(key=KEY, outcome=Outcome.SUCCEEDED, finished_at=2.0)


class Master:
    """The other end of a channel."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def receive(self) -> list[FromLauncher]:
        """Return the messages that arrive together next."""
        loop = asyncio.get_running_loop()
        data = await asyncio.wait_for(loop.sock_recv(self._connection, 1 << 20), timeout=30)
        return [decode_from_launcher(payload) for payload in FrameReader().feed(data)]


@asynccontextmanager
async def connected(channel: SupervisorChannel) -> AsyncIterator[Master]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    channel.connect(transport)
    try:
        yield Master(theirs)
    finally:
        channel.disconnect()
        theirs.close()


async def test_a_message_that_may_wait_is_sent_with_the_next_urgent_one_and_before_it():
    channel = SupervisorChannel()
    async with connected(channel) as master:
        channel.send_soon(STARTED)
        channel.send(ENDED)

        assert await master.receive() == [STARTED, ENDED]


async def test_a_message_that_may_wait_is_sent_alone_soon():
    channel = SupervisorChannel()
    async with connected(channel) as master:
        channel.send_soon(STARTED)

        assert await master.receive() == [STARTED]


async def test_a_new_supervisor_gets_nothing_that_was_for_the_one_before():
    channel = SupervisorChannel()
    async with connected(channel):
        channel.send_soon(STARTED)
    async with connected(channel) as successor:
        channel.send(ENDED)

        assert await successor.receive() == [ENDED]
