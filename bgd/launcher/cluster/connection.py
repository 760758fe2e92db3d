"""The connection to a pilot."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from bgd.errors import ProtocolError
from bgd.launcher.context import Context
from bgd.system.frames import FrameWriter
from bgd.wire import launching
from bgd.wire.framing import FrameReader
from bgd.wire.launching import MAX_LAUNCHING_FRAME, AttemptKey, AttemptUsage, ToLauncher, encode

if TYPE_CHECKING:
    from bgd.launcher.cluster.pilot import Pilot

log = logging.getLogger(__name__)


class PilotConnection(asyncio.Protocol):
    """The connection to a pilot; messages of one turn of the loop are one write."""

    _transport: asyncio.Transport

    def __init__(self, pilot: Pilot, context: Context) -> None:
        self.is_ready = False  # its snapshot is complete
        self.silent_beats = 0  # KeepAlives sent since its last message
        self.lost = asyncio.Event()
        self._usage: asyncio.Future[list[AttemptUsage]] | None = None  # that it was asked for
        self._questions: dict[int, asyncio.Future[bool | None]] = {}  # about attempts
        self._numbers = count()
        self._pilot = pilot
        self._context = context
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)
        self._unhandled: deque[bytes] = deque()  # messages
        self._out = FrameWriter(MAX_LAUNCHING_FRAME)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream socket's is
        self._transport = self._out.transport = transport

    def greet(self, store: str) -> None:
        """Introduce this launcher; the pilot answers with all that it knows."""
        oldest, newest = launching.OLDEST_LAUNCHING_PROTOCOL, launching.LAUNCHING_PROTOCOL
        self.send(launching.Greeting(oldest, store, generation=1, newest=newest))

    def send(self, message: ToLauncher) -> None:
        """Send a message with others of this turn of the loop."""
        self._out.send(encode(message))

    def ask_usage(self) -> asyncio.Future[list[AttemptUsage]]:
        """Ask what its attempts use."""
        if self._usage is None or self._usage.done():
            self._usage = asyncio.get_running_loop().create_future()
            self.send(launching.MeasureUsage())
        return self._usage

    def take_usage(self, usages: list[AttemptUsage]) -> None:
        """Deliver its answer."""
        if self._usage is not None and not self._usage.done():
            self._usage.set_result(usages)

    def ask(self, key: AttemptKey) -> asyncio.Future[bool | None]:
        """Ask whether an attempt has not ended, once it is settled; None: the connection is lost."""
        question = launching.CheckAttempt(key, next(self._numbers), settled=True)
        self._questions[question.number] = answer = asyncio.get_running_loop().create_future()
        self.send(question)
        return answer

    def take_answer(self, number: int, is_alive: bool | None) -> None:  # noqa: FBT001 - as it came
        """Deliver its answer."""
        if (answer := self._questions.pop(number, None)) is not None and not answer.done():
            answer.set_result(is_alive)

    def drop(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.silent_beats = 0
        try:
            self._handle(data)
        except OSError:
            self._transport.pause_reading()
            self._context.begin(self._handle_later(), "pilots")

    def _handle(self, data: bytes = b"") -> None:
        """Handle new messages, after those that waited.

        Raises:
            OSError: there is no descriptor for a log now; may be tried again.
        """
        try:
            self._unhandled.extend(self._frames.feed(data))
            while self._unhandled and not self.lost.is_set():
                self._pilot.receive(self, launching.decode_from_launcher(self._unhandled[0]))
                self._unhandled.popleft()
        except ProtocolError as error:
            log.warning("pilot %s: dropped its connection: %s", self._pilot.name, error)
            self._transport.abort()

    async def _handle_later(self) -> None:
        async def handle() -> None:
            self._handle()

        await self._context.retry(f"output of pilot {self._pilot.name} cannot be stored yet", handle)
        self._transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self.take_usage([])
        for number in list(self._questions):
            self.take_answer(number, None)
        self.lost.set()
