"""One client's connection: frames become requests, requests become replies, within a stranger's limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import bgd
from bgd.core.spec import JobSpec
from bgd.daemon.access import Actor, may_connect, peer_of
from bgd.daemon.control.batches import Batch
from bgd.errors import BgdError, ProtocolError, Refused
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_request, encode, request_id_of
from bgd.wire.replies import End, ErrorCode, Failed, Reply, code_of
from bgd.wire.requests import Forget, Request, SetProgress, Submit, SubmitMany

if TYPE_CHECKING:
    from bgd.daemon.control.listener import Control

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1024  # requests of one connection; more are left unread in the socket until some are done
HELLO_SECONDS = 5.0  # a connection says who it is within this
FRAME_SECONDS = 10.0  # and sends a frame it began within this
HIGH_WATER = 64 * 1024  # bytes waiting for a slow reader before its streams pause, and its requests
MAX_MESSAGE = 2000  # characters; a refusal may quote what a stranger sent


class ClientConnection(asyncio.Protocol):
    """One client: Hello each way, then requests, several at a time."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self._actor = Actor(uid=-1)
        self._is_greeted = False
        self._deadline: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._batch: Batch | None = None
        self._unreadable_id = -1  # of the last request that could not be read
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_serving = True
        self._is_ended = False  # by this side; what the other sent before it hung up is taken all the same
        self._payloads: Iterator[bytes] = iter(())  # arrived, and not yet taken

    # --- what the loop tells ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._control.connections.add(self)
        most = self._control.most_connections
        if len(self._control.connections) > most:
            self._refuse(ErrorCode.FULL, f"too many connections: the daemon serves {most}")
            return
        self._actor = peer_of(transport)
        if not may_connect(self._actor, self._control.uid):
            self._refuse(ErrorCode.NOT_ALLOWED, f"this daemon serves uid {self._control.uid} and root only")
            return
        self._expect(HELLO_SECONDS, "no hello came")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._control.connections.discard(self)
        self._expect_nothing()
        self._cancel_streams()
        self._drop_batch()

    def data_received(self, data: bytes) -> None:
        self._payloads = self._reader.feed(data)
        self._take_payloads()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._regulate()

    def resume_writing(self) -> None:
        self._writable.set()
        self._regulate()

    # --- what the verbs use -------------------------------------------------------------------------

    def send(self, reply: Reply) -> None:
        """Send one reply; nothing happens if the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(frame(encode(reply)))

    async def send_in_step(self, reply: Reply) -> None:
        """Send one of many replies, no faster than the client reads."""
        self.send(reply)
        await self._writable.wait()

    def close(self) -> None:
        """Hang up once what was sent is out; a client that does not read keeps no stream alive by that."""
        self._is_ended = True
        self._cancel_streams()
        self._transport.close()

    # --- requests -------------------------------------------------------------------------------------

    def _take_payloads(self) -> None:
        """Take what has arrived, as far as the client may be served now."""
        try:
            while self._is_serving and not self._is_ended:
                payload = next(self._payloads, None)
                if payload is None:
                    self._expect_rest()
                    return
                self._expect_nothing()
                self._take(payload)
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
            self._fail(request_id, error)  # framing still holds, so the connection goes on
            self._unreadable_id = request_id
            if self._batch is not None and self._batch.request_id == request_id:
                self._drop_batch()
            return
        self._dispatch(request, len(payload))

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

    def _dispatch(self, request: Request, size: int) -> None:
        match request:
            case Submit() if not _waits(request.spec) and not self._control.verbs.may_have_come(request):
                self._submit(request)
            case SubmitMany():
                self._gather(request, size)
            case SetProgress():
                self._report(request)
            case Forget():
                task = self._streams.get(request.request)
                if task is not None and task.cancel():
                    self.send(End(request.request))
            case _:
                self._start(request, partial(self._control.verbs.answer, request, self._actor, self))

    def _submit(self, request: Submit) -> None:
        """Answer without a task: this is the path that thousands a second take."""
        try:
            self._control.verbs.submit(request, self._actor, self._send_and_finish)
        except BgdError as error:
            self._fail(request.id, error)
        else:
            self._begin()

    def _report(self, request: SetProgress) -> None:
        self._begin()
        try:
            self._control.verbs.report(request, self._send_and_finish)
        except BgdError as error:
            self._fail(request.id, error)
            self._finish()

    def _gather(self, request: SubmitMany, size: int) -> None:
        """Take a part of a batch; with the last one submit them all."""
        if request.id == self._unreadable_id:
            raise ProtocolError(f"a part of submit_many {request.id} could not be read: none of it is taken")
        if self._batch is None:
            self._batch = Batch(request.id, self._control.room)
        try:
            self._batch.add(request, size)
        except BgdError as error:
            self._fail(request.id, error)
            self._is_ended = True
            self._transport.close()  # the parts still to come would be taken for another batch
            return
        if request.more:
            return
        if self._control.verbs.may_have_come(self._batch.parts[0]) or any(
            _waits(spec) for part in self._batch.parts for spec in part.specs
        ):
            self._start(request, partial(self._answer_batch, self._batch.parts))
            self._drop_batch()
            return
        try:
            self._control.verbs.submit_many(request.id, self._batch.parts, self._actor, self._send_and_finish)
        except BgdError as error:
            self._fail(request.id, error)
        else:
            self._begin()
        finally:
            self._drop_batch()

    def _drop_batch(self) -> None:
        if self._batch is not None:
            self._batch.drop()
            self._batch = None

    async def _answer_batch(self, parts: list[SubmitMany]) -> None:
        self.send(await self._control.verbs.submit_after(parts, self._actor))

    def _start(self, request: Request, work: Callable[[], Awaitable[None]]) -> None:
        """Begin what takes more than one turn."""
        if request.id in self._streams:
            raise ProtocolError(f"request id {request.id} is in use")
        self._begin()
        task = self._control.spawn(self._answer(request, work))
        self._streams[request.id] = task
        task.add_done_callback(lambda _: self._end_stream(request.id, task))

    async def _answer(self, request: Request, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BgdError as error:
            self._fail(request.id, error)
        except OSError as error:  # a log that cannot be read, descriptors that have run out
            self._fail(request.id, Refused(f"this cannot be done now: {error}"))
        except Exception:  # one request must not take down what serves all others
            logger.exception("a bug, in the answer to a request of type %s", type(request).__name__)
            self._fail(request.id, BgdError("a bug in bgd: the daemon's log has the details"))
        finally:
            # in the same turn as the last reply: whoever has read it may use the id again
            self._streams.pop(request.id, None)

    def _end_stream(self, request_id: int, task: asyncio.Task[None]) -> None:
        """Clear up after a stream, also one that was cancelled before its first step."""
        if self._streams.get(request_id) is task:
            del self._streams[request_id]
        self._finish()

    def _cancel_streams(self) -> None:
        for task in self._streams.values():
            task.cancel()

    def _send_and_finish(self, reply: Reply) -> None:
        self.send(reply)
        self._finish()

    # --- backpressure ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._in_flight += 1
        self._regulate()

    def _finish(self) -> None:
        self._in_flight -= 1
        self._regulate()

    def _regulate(self) -> None:
        """Leave what the client sends where it is while it is owed too many replies, or reads none."""
        may_serve = self._in_flight < MAX_IN_FLIGHT and self._writable.is_set()
        if may_serve == self._is_serving or self._transport.is_closing():
            return
        self._is_serving = may_serve
        if may_serve:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._transport.pause_reading()
            self._expect_nothing()

    def _go_on(self) -> None:
        """Take what had arrived before the pause, then read on."""
        self._take_payloads()
        if self._is_serving and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- refusals ---------------------------------------------------------------------------------------

    def _fail(self, request_id: int, error: BgdError) -> None:
        self.send(Failed(request_id, code_of(error), str(error)[:MAX_MESSAGE]))

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """Say why and hang up. Id 0: it answers no request in particular."""
        self._expect_nothing()
        self.send(Failed(0, code, message))
        self._is_ended = True
        self._transport.close()

    def _expect_rest(self) -> None:
        """Give a frame that has begun some time to end."""
        if self._reader.is_mid_frame:
            self._expect(FRAME_SECONDS, "half a frame, and the rest did not come")

    def _expect(self, seconds: float, otherwise: str) -> None:
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(seconds, self._refuse, ErrorCode.PROTOCOL, otherwise)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _waits(spec: JobSpec) -> bool:
    """Whether a job waits for others, which may have to be looked up on disk."""
    return bool(spec.after or spec.after_any)
