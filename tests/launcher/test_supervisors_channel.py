"""What is told to the master at once, and what may wait for company."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bgd.core.job import Outcome
from bgd.launcher.supervisors import Line
from bgd.wire.framing import FrameReader
from bgd.wire.launching import AttemptEnded, AttemptKey, AttemptStarted, FromLauncher, decode_from_launcher

KEY = AttemptKey("store", 17, 1)
STARTED = AttemptStarted(KEY, 4711, 1.0)
ENDED = AttemptEnded(key=KEY, outcome=Outcome.SUCCEEDED, finished_at=2.0)


class Master:
    """The other end of a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def hear(self) -> list[FromLauncher]:
        """Return what arrives together next."""
        loop = asyncio.get_running_loop()
        data = await asyncio.wait_for(loop.sock_recv(self._connection, 1 << 20), timeout=30)
        return [decode_from_launcher(payload) for payload in FrameReader().feed(data)]


@asynccontextmanager
async def connected(line: Line) -> AsyncIterator[Master]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    line.connect(transport)
    try:
        yield Master(theirs)
    finally:
        line.disconnect()
        theirs.close()


async def test_what_may_wait_is_told_with_the_next_that_may_not_and_before_it():
    line = Line()
    async with connected(line) as master:
        line.tell_soon(STARTED)
        line.tell(ENDED)

        assert await master.hear() == [STARTED, ENDED]


async def test_what_may_wait_is_told_by_itself_if_nothing_else_is():
    line = Line()
    async with connected(line) as master:
        line.tell_soon(STARTED)

        assert await master.hear() == [STARTED]


async def test_a_new_master_hears_nothing_that_was_for_the_one_before():
    line = Line()
    async with connected(line):
        line.tell_soon(STARTED)
    async with connected(line) as successor:
        line.tell(ENDED)

        assert await successor.hear() == [ENDED]
