"""One client's connection: frames become requests, requests become replies, within a stranger's limits."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING

import bgd
from bgd.daemon.access import may_connect, peer_of
from bgd.daemon.control.flow import Flow
from bgd.daemon.control.requests import Requests
from bgd.errors import ProtocolError
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_request, encode, request_id_of
from bgd.wire.replies import ErrorCode, Failed, Reply

if TYPE_CHECKING:
    from bgd.daemon.control.listener import Control

HELLO_SECONDS = 5.0  # a connection says who it is within this
FRAME_SECONDS = 10.0  # and sends a frame it began within this
STILL_SECONDS = 1.0  # nor may it send nothing for so long while others wait for its room
MOMENT = 0.1  # seconds in which who had to wait for room shows that it has more to send
HIGH_WATER = 64 * 1024  # bytes waiting for a slow reader before its streams pause, and its requests
MOST_AT_ONCE = 256 * 1024  # bytes that are read at once

_landing = memoryview(bytearray(MOST_AT_ONCE))  # of all connections: what is read into it is taken at once


class ClientConnection(asyncio.BufferedProtocol):
    """One client: Hello each way, then requests, several at a time."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self._is_greeted = False
        self._deadline: asyncio.TimerHandle | None = None
        self._heard_at = 0.0  # on the clock of the loop
        self._look: asyncio.TimerHandle | None = None  # whether others wait for a client that stands still
        self._flow = Flow(control.rooms, self._serve_or_not)
        self._requests: Requests
        self._is_ended = False  # by this side; what the other sent before it hung up is taken all the same
        self._payloads: Iterator[bytes] = iter(())  # arrived, and not yet taken
        self._held_back: bytes | None = None  # the first of these, for which there was no room

    # --- what the loop tells ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._control.connections.add(self)
        actor = peer_of(transport)
        self._requests = Requests(self._control, actor, self._flow, self, self.close)
        most = self._control.most_connections
        if len(self._control.connections) > most:
            told = f"too many connections: the daemon serves {most}: close some, or try again later"
            self._refuse(ErrorCode.FULL, told)
            return
        if not may_connect(actor, self._control.uid):
            self._refuse(ErrorCode.NOT_ALLOWED, f"this daemon serves uid {self._control.uid} and root only")
            return
        self._expect(HELLO_SECONDS, "no hello came")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._control.connections.discard(self)
        self._expect_nothing()
        self._requests.cancel()
        self._requests.drop_batch()
        self._flow.end()
        self._reader = FrameReader()  # the rest of a frame that has begun does not come any more

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _landing[: self._flow.at_once(self._reader.missing)]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._payloads = self._reader.feed(bytes(_landing[:nbytes]))
        self._take_payloads()

    def pause_writing(self) -> None:
        self._flow.pause()
        if self._flow.holds_room:  # which is not for ever, only because its client reads nothing
            self._expect(FRAME_SECONDS, "a request has begun, and its client does not read what it was sent")

    def resume_writing(self) -> None:
        self._expect_nothing()
        self._flow.resume()

    # --- what the verbs use -------------------------------------------------------------------------

    def send(self, reply: Reply) -> None:
        """Send one reply; nothing happens if the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(frame(encode(reply)))

    async def send_in_step(self, reply: Reply) -> None:
        """Send one of many replies, no faster than the client reads."""
        self.send(reply)
        await self._flow.writable.wait()

    def in_turn(self) -> AbstractAsyncContextManager[None]:
        """Give a turn to read something and send it: one of a client's many requests has it at a time."""
        return self._flow.in_turn()

    def close(self) -> None:
        """Hang up once what was sent is out; a client that does not read keeps no stream alive by that."""
        self._is_ended = True
        self._requests.cancel()
        self._transport.close()

    # --- requests -------------------------------------------------------------------------------------

    def _take_payloads(self) -> None:
        """Take what has arrived, as far as the client may be served now."""
        try:
            while self._flow.is_serving and not self._is_ended:
                payload = self._held_back if self._held_back is not None else next(self._payloads, None)
                self._held_back = None
                if payload is None:
                    self._expect_rest()
                    return
                if not self._flow.admits(len(payload)):
                    self._held_back = payload
                    return
                self._expect_nothing()
                self._take(payload)
                self._flow.take()
        except ProtocolError as error:
            self._refuse(ErrorCode.PROTOCOL, str(error))

    def _take(self, payload: bytes) -> None:
        if not self._is_greeted:
            self._greet(decode_hello(payload))
            return
        try:
            request = decode_request(payload)
        except ProtocolError as error:
            request_id = request_id_of(payload)
            if request_id is None:
                raise
            self._requests.refuse_unreadable(request_id, error)  # framing still holds, so all else goes on
        else:
            self._requests.take(request, len(payload))

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise ProtocolError(
                f"this daemon (bgd {bgd.__version__}) speaks protocol {PROTOCOL}, "
                f"{hello.program or 'the client'} {hello.version} speaks {hello.protocol}: "
                "install the same version of both"
            )
        self._is_greeted = True
        self._transport.write(
            frame(encode(Hello(PROTOCOL, bgd.__version__, "bgd", self._control.verbs.newest)))
        )

    # --- backpressure ---------------------------------------------------------------------------------

    def _serve_or_not(self) -> None:
        """Go on to serve the client, or leave what it sends where it is, as the flow says."""
        if self._transport.is_closing():
            return
        if self._flow.is_serving:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._transport.pause_reading()
            if self._is_greeted:
                self._expect_nothing()

    def _go_on(self) -> None:
        """Take what had arrived before the pause, then read on."""
        self._take_payloads()
        if self._flow.is_serving and not self._transport.is_closing():
            self._transport.resume_reading()
        self._flow.pass_on()

    # --- refusals ---------------------------------------------------------------------------------------

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """Say why and hang up. Id 0: it answers no request in particular."""
        self._expect_nothing()
        self.send(Failed(0, code, message))
        self._is_ended = True
        self._drop_unread()
        # a socket that is closed with something unread resets, and to many that hides what they were told
        with suppress(OSError):
            os.read(self._transport.get_extra_info("socket").fileno(), MOST_AT_ONCE)
        if self._flow.writable.is_set():
            self._transport.close()
        else:  # who reads nothing would never let it end
            self._transport.abort()

    def _drop_unread(self) -> None:
        """Let go of what will not be taken: it may be large, and a dead connection is not freed at once."""
        self._reader, self._payloads, self._held_back = FrameReader(), iter(()), None

    def _expect_rest(self) -> None:
        """Give a frame that has begun some time to end."""
        reader = self._reader
        if reader.is_mid_frame and self._flow.expects(reader.announced, reader.missing):
            self._expect(FRAME_SECONDS, "half a frame, and the rest did not come")
            self._look_later()

    def _look_later(self) -> None:
        if self._look is None and self._flow.holds_room:
            loop = asyncio.get_running_loop()
            look_at = max(self._heard_at + STILL_SECONDS, loop.time() + MOMENT)
            self._look = loop.call_at(look_at, self._go_if_still)

    def _go_if_still(self) -> None:
        """Hang up if others wait for the room of a client from which nothing comes."""
        self._look = None
        if self._transport.is_closing():
            return
        if self._flow.keeps_others_waiting and self._stands_still():
            told = f"nothing came of a large request for {STILL_SECONDS:g} s, and others wait: send it again"
            self._refuse(ErrorCode.FULL, told)
        else:
            self._look_later()

    def _stands_still(self) -> bool:
        if asyncio.get_running_loop().time() - self._heard_at < STILL_SECONDS:
            return False
        if not self._flow.is_serving:
            return not self._flow.writable.is_set()  # or else it is the daemon that does not read
        socket = self._transport.get_extra_info("socket")
        return not int.from_bytes(ioctl(socket.fileno(), FIONREAD, bytes(4)), sys.byteorder)

    def _expect(self, seconds: float, otherwise: str) -> None:
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(seconds, self._refuse, ErrorCode.PROTOCOL, otherwise)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
