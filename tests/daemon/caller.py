"""A client of the control socket that sends and receives raw frames."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeVar

from bgd.wire.framing import HEADER, frame
from bgd.wire.messages import Hello, decode_reply, encode
from bgd.wire.replies import AttemptsPart, End, Failed, Reply, Shown
from bgd.wire.requests import Request, Show
from bgd.wire.views import AttemptView, JobView
from tests.daemon.waiting import soon

T = TypeVar("T")


class Caller:
    """Sends requests in raw frames and decodes replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *requests: Request | Hello) -> None:
        """Send all messages in one write."""
        self.send_raw(b"".join(frame(encode(request)) for request in requests))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def next_payload(self) -> bytes:
        header = await soon(self._reader.readexactly(HEADER))
        return await soon(self._reader.readexactly(int.from_bytes(header, "big")))

    async def next(self) -> Reply:
        return decode_reply(await self.next_payload())

    async def hear(self, kind: type[T]) -> T:
        """Return the next reply, which must be of this kind."""
        reply = await self.next()
        assert isinstance(reply, kind), reply
        return reply

    async def ask(self, request: Request, kind: type[T]) -> T:
        self.send(request)
        return await self.hear(kind)

    async def stream(self, request: Request, kind: type[T]) -> list[T]:
        """Return the replies before End, which must be of this kind."""
        self.send(request)
        replies: list[T] = []
        while not isinstance(reply := await self.next(), End):
            assert isinstance(reply, kind), reply
            replies.append(reply)
        return replies

    async def show(self, request: Show) -> tuple[JobView, list[AttemptView]]:
        shown = await self.ask(request, Shown)
        attempts = []
        while isinstance(part := await self.next(), AttemptsPart):
            attempts += part.attempts
        assert isinstance(part, End), part
        return shown.job, attempts

    async def refusal(self) -> Failed:
        """Return the error of a daemon that then hangs up, and wait until it has."""
        failed = await self.hear(Failed)
        assert await soon(self._reader.read()) == b"", "the daemon sends more"
        return failed

    async def hang_up(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):  # the daemon hung up first
            await soon(self._writer.wait_closed())
