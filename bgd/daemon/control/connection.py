"""One client's connection: frames become requests, requests become replies, within a stranger's limits."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING

import bgd
from bgd.core.spec import JobSpec
from bgd.daemon.access import Actor, may_connect, peer_of
from bgd.daemon.control.batches import Batch
from bgd.daemon.control.flow import FOLLOWED_BYTES, STREAM_BYTES, Flow
from bgd.errors import BgdError, ProtocolError, Refused
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_request, encode, request_id_of
from bgd.wire.replies import End, ErrorCode, Failed, Reply, code_of
from bgd.wire.requests import Forget, GetEvents, Logs, Request, SetProgress, Submit, SubmitMany, Wait

if TYPE_CHECKING:
    from bgd.daemon.control.listener import Control

logger = logging.getLogger(__name__)

HELLO_SECONDS = 5.0  # a connection says who it is within this
FRAME_SECONDS = 10.0  # and sends a frame it began within this
HIGH_WATER = 64 * 1024  # bytes waiting for a slow reader before its streams pause, and its requests
MAX_MESSAGE = 2000  # characters; a refusal may quote what a stranger sent
MOST_AT_ONCE = 256 * 1024  # bytes that are read at once

_landing = memoryview(bytearray(MOST_AT_ONCE))  # of all connections: what is read into it is taken at once


class ClientConnection(asyncio.BufferedProtocol):
    """One client: Hello each way, then requests, several at a time."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self._actor = Actor(uid=-1)
        self._is_greeted = False
        self._deadline: asyncio.TimerHandle | None = None
        self._flow = Flow(control.rooms, self._serve_or_not)
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._batch: Batch | None = None
        self._unreadable_id = -1  # of the last request that could not be read
        self._is_ended = False  # by this side; what the other sent before it hung up is taken all the same
        self._payloads: Iterator[bytes] = iter(())  # arrived, and not yet taken
        self._held_back: bytes | None = None  # the first of these, for which there was no room

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
        self._flow.end()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _landing[: self._flow.at_once(self._reader.missing)]

    def buffer_updated(self, nbytes: int) -> None:
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
        self._cancel_streams()
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
                self._submit(request, size)
            case SubmitMany():
                self._gather(request, size)
            case SetProgress():
                self._report(request)
            case Forget():
                task = self._streams.get(request.request)
                if task is not None and task.cancel():
                    self.send(End(request.request))
            case _:
                self._answer_in_time(request, size)

    def _submit(self, request: Submit, size: int) -> None:
        """Answer without a task: this is the path that thousands a second take."""
        try:
            self._control.verbs.submit(request, self._actor, partial(self._send_and_finish, size))
        except BgdError as error:
            self._fail(request.id, error)
        else:
            self._flow.begin(size)

    def _report(self, request: SetProgress) -> None:
        self._flow.begin()
        try:
            self._control.verbs.report(request, partial(self._send_and_finish, 0))
        except BgdError as error:
            self._fail(request.id, error)
            self._flow.finish()

    def _gather(self, request: SubmitMany, size: int) -> None:
        """Take a part of a batch; with the last one submit them all."""
        if request.id == self._unreadable_id:
            raise ProtocolError(f"a part of submit_many {request.id} could not be read: none of it is taken")
        if self._batch is None:
            self._batch = Batch(request.id, self._control.rooms.batches)
        try:
            self._batch.add(request, size)
        except BgdError as error:
            self._fail(request.id, error)
            self._is_ended = True
            self._transport.close()  # the parts still to come would be taken for another batch
            return
        if not request.more:
            batch, self._batch = self._batch, None
            try:
                self._submit_batch(request, batch)
            except BaseException:
                batch.drop()
                raise

    def _submit_batch(self, request: SubmitMany, batch: Batch) -> None:
        """Take all parts of a batch, which keeps its room until they are on disk."""
        if self._control.verbs.may_have_come(batch.parts[0]) or any(
            _waits(spec) for part in batch.parts for spec in part.specs
        ):
            self._start(request, partial(self._answer_batch, batch.parts), batch.drop)
            return

        def answer(reply: Reply) -> None:
            batch.drop()
            self._send_and_finish(0, reply)

        try:
            self._control.verbs.submit_many(request.id, batch.parts, self._actor, answer)
        except BgdError as error:
            self._fail(request.id, error)
            batch.drop()
        else:
            self._flow.begin()

    def _drop_batch(self) -> None:
        if self._batch is not None:
            self._batch.drop()
            self._batch = None

    async def _answer_batch(self, parts: list[SubmitMany]) -> None:
        self.send(await self._control.verbs.submit_after(parts, self._actor))

    def _answer_in_time(self, request: Request, size: int) -> None:
        """Begin what takes more than one turn of the loop: new jobs, a stream, or one question of a few."""
        work = partial(self._control.verbs.answer, request, self._actor, self)
        match request:
            case Submit():
                self._start(request, work, lambda: None, unsaved=size)
            case Wait() | Logs() | GetEvents():
                taken = STREAM_BYTES + (
                    FOLLOWED_BYTES * len(request.jobs) if isinstance(request, Wait) else 0
                )
                try:
                    self._control.rooms.streams.take(taken)
                except BgdError as error:
                    self._fail(request.id, error)
                    return
                self._start(request, work, partial(self._control.rooms.streams.give_back, taken))
            case _:
                self._start(request, work, lambda: None, question=True)

    def _start(
        self,
        request: Request,
        work: Callable[[], Awaitable[None]],
        done: Callable[[], None],
        *,
        unsaved: int = 0,
        question: bool = False,
    ) -> None:
        """Begin it as a task; `done` is called when that has ended, however it has."""
        if request.id in self._streams:
            done()
            raise ProtocolError(f"request id {request.id} is in use")
        self._flow.begin(unsaved, question=question)
        task = self._control.spawn(self._answer(request, work))
        self._streams[request.id] = task

        def end(_: object) -> None:
            """Clear up, also after one that was cancelled before its first step."""
            if self._streams.get(request.id) is task:
                del self._streams[request.id]
            done()
            self._flow.finish(unsaved, question=question)

        task.add_done_callback(end)

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

    def _cancel_streams(self) -> None:
        for task in self._streams.values():
            task.cancel()

    def _send_and_finish(self, unsaved: int, reply: Reply) -> None:
        self.send(reply)
        self._flow.finish(unsaved)

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

    def _fail(self, request_id: int, error: BgdError) -> None:
        self.send(Failed(request_id, code_of(error), str(error)[:MAX_MESSAGE]))

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """Say why and hang up. Id 0: it answers no request in particular."""
        self._expect_nothing()
        self.send(Failed(0, code, message))
        self._is_ended = True
        # a socket that is closed with something unread resets, and to many that hides what they were told
        with suppress(OSError):
            os.read(self._transport.get_extra_info("socket").fileno(), MOST_AT_ONCE)
        if self._flow.writable.is_set():
            self._transport.close()
        else:  # who reads nothing would never let it end
            self._transport.abort()

    def _expect_rest(self) -> None:
        """Give a frame that has begun some time to end."""
        reader = self._reader
        if reader.is_mid_frame and self._flow.expects(reader.announced, reader.missing):
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
