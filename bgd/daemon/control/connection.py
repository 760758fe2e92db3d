"""The control socket: frames from clients become requests, and replies become frames."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import bgd
from bgd.core.spec import JobSpec
from bgd.daemon.access import may_connect, peer_of
from bgd.daemon.control.handlers import RequestHandler
from bgd.daemon.control.limits import (
    FOLLOWED_BYTES,
    SMALL_BYTES,
    STREAM_BYTES,
    Budget,
    FlowControl,
    SharedMemory,
)
from bgd.errors import BgdError, Full, ProtocolError, Refused
from bgd.settings.startup import described
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_request, encode, request_id_of
from bgd.wire.replies import End, ErrorCode, Failed, Reply, code_of
from bgd.wire.requests import (
    MAX_BATCH,
    Forget,
    GetBatches,
    GetEvents,
    GetInbox,
    GetKeyboard,
    Logs,
    Request,
    SaveStep,
    SetProgress,
    Submit,
    SubmitMany,
    Wait,
)

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 1000
SPARE_DESCRIPTORS = 64  # for files, logs that are read, the launcher, and for refusing one connection more
HELLO_SECONDS = 5.0  # from connecting to a complete hello
FRAME_SECONDS = 10.0  # from the first to the last byte of a frame
HIGH_WATER = 64 * 1024  # bytes that wait for a slow reader, above which it is paused
MAX_READ_BYTES = 256 * 1024  # in one call
SPEC_BYTES = 512  # estimate for the memory of a spec beyond its bytes on the wire, which may be a single one
WORD_BYTES = 64  # likewise for one of its words, and for each job that it waits for

# One buffer for all connections: whatever is read into it is copied at once
_read_buffer = memoryview(bytearray(MAX_READ_BYTES))


class ControlServer:
    """What all connections of clients share.

    Args:
        handler: answers the requests.
        uid: the daemon's own user.
        tasks: owns the tasks of streams and slower requests.
    """

    def __init__(self, handler: RequestHandler, uid: int, tasks: asyncio.TaskGroup) -> None:
        self.handler = handler
        self.uid = uid
        self.connections: set[ClientConnection] = set()
        self.max_connections = _max_connections()
        self.memory = SharedMemory()
        self.tasks = tasks

    def new_connection(self) -> ClientConnection:
        """Return the protocol for a connection that a client has just made."""
        return ClientConnection(self)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self.connections):
            connection.close()


def _max_connections() -> int:
    """Return how many connections leave enough descriptors for the rest of the daemon."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(descriptors - SPARE_DESCRIPTORS, descriptors // 4))


class ClientConnection(asyncio.BufferedProtocol):
    """One client: a hello each way, then requests, several at a time.

    Handlers use `send` for a single reply, and `send_and_drain` for one of many, so that they do not pile up
    while the client reads slowly. They load and send what is large inside `in_turn`.

    Attributes:
        pid, uid: of the process of the client, and of its user.
        when_lost: called when the connection is lost.
    """

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self.pid = self.uid = -1
        self._is_greeted = False
        self._deadline: asyncio.TimerHandle | None = None
        self._flow = FlowControl(server.memory, self._pause, self._resume)
        self._is_ended = False  # by the daemon; requests from before a client hung up are still handled
        self._payloads: Iterator[bytes] = iter(())  # that have arrived and are not handled yet
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by request id
        self._batch: PartialBatch | None = None
        self.when_lost: list[Callable[[], None]] = []
        self._unreadable_id = -1  # of the last request that could not be decoded

    # --- called by the loop -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        """Admit the client, or refuse it."""
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._server.connections.add(self)
        self.pid, self.uid = peer_of(transport)
        limit = self._server.max_connections
        if len(self._server.connections) > limit:
            message = f"too many connections: the daemon serves {limit}: close some, or try again later"
            self._refuse(ErrorCode.FULL, message)
            return
        if not may_connect(self.uid, self._server.uid):
            self._refuse(ErrorCode.NOT_ALLOWED, f"this daemon serves uid {self._server.uid} and root only")
            return
        self._set_deadline(HELLO_SECONDS, "no hello arrived in time")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        del exc
        self._server.connections.discard(self)
        self._clear_deadline()
        self._cancel()
        self._drop_batch()
        for callback in self.when_lost:
            callback()
        self._flow.end_frame()
        self._reader = FrameReader()  # the rest of a partial frame will never come

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes, which limits how many to read."""
        del sizehint
        rest = self._reader.missing if self._flow.large_frame else 0
        return _read_buffer[: rest or SMALL_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle bytes that have arrived."""
        self._payloads = self._reader.feed(bytes(_read_buffer[:nbytes]))
        self._handle_payloads()

    def pause_writing(self) -> None:
        """Record that too many bytes wait for the client."""
        self._flow.writable.clear()
        self._flow.may_read()

    def resume_writing(self) -> None:
        """Record that the client has read enough of them."""
        self._flow.writable.set()
        self._flow.resume_if_allowed()

    # --- called by the handlers ---------------------------------------------------------------------

    def send(self, reply: Reply) -> None:
        """Send one reply; do nothing if the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(frame(encode(reply)))

    async def send_and_drain(self, reply: Reply) -> None:
        """Send one of many replies, no faster than the client reads."""
        self.send(reply)
        await self._flow.writable.wait()

    def send_descriptor(self, reply: Reply, descriptor: int) -> None:
        """Send a reply together with a descriptor.

        Raises:
            Full: the client has not read earlier replies, and both must go into the socket at once.
        """
        if self._transport.is_closing():
            return
        unread = Full("read the replies to earlier requests, or ask over another connection")
        if self._transport.get_write_buffer_size():
            raise unread
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as own:
            try:
                socket.send_fds(own, [frame(encode(reply))], [descriptor])
            except BlockingIOError:
                raise unread from None
            except ConnectionError:
                pass  # the client is gone

    def in_turn(self) -> AbstractAsyncContextManager[None]:
        """Let one request of the client at a time hold something large, and none while it reads slowly."""
        return self._flow.in_turn()

    def close(self) -> None:
        """Hang up once everything is sent; cancel streams, as a slow reader must not keep them alive."""
        self._is_ended = True
        self._cancel()
        self._transport.close()

    # --- requests -----------------------------------------------------------------------------------

    def _handle_payloads(self) -> None:
        """Handle arrived frames, as far as flow control allows."""
        try:
            while not self._is_ended and self._flow.may_read():
                payload = next(self._payloads, None)
                if payload is None:
                    if self._reader.is_mid_frame and self._flow.begin_frame(self._reader.announced):
                        message = "half a frame arrived, and the rest did not follow in time"
                        self._set_deadline(FRAME_SECONDS, message)
                    return
                self._clear_deadline()
                self._flow.end_frame()
                self._handle(payload)
        except ProtocolError as error:
            self._refuse(ErrorCode.PROTOCOL, str(error))

    def _handle(self, payload: bytes) -> None:
        if not self._is_greeted:
            self._greet(decode_hello(payload))
            return
        try:
            request = decode_request(payload)
        except ProtocolError as error:
            request_id = request_id_of(payload)
            if request_id is None:
                raise
            self._refuse_unreadable(request_id, error)  # the frames are intact, so continue
        else:
            self._dispatch(request, len(payload))

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise ProtocolError(
                f"this daemon (bgd {bgd.__version__}) speaks protocol {PROTOCOL}, "
                f"{hello.program or 'the client'} {hello.version} speaks {hello.protocol}: "
                "install the same version of both"
            )
        self._is_greeted = True
        newest = self._server.handler.newest
        self._transport.write(frame(encode(Hello(PROTOCOL, bgd.__version__, "bgd", newest))))

    # --- backpressure -------------------------------------------------------------------------------

    def _pause(self) -> None:
        """Leave what the client sends in the socket."""
        if self._transport.is_closing():
            return
        self._transport.pause_reading()
        if self._is_greeted:
            self._clear_deadline()

    def _resume(self) -> None:
        """Handle frames from before the pause, then continue reading."""
        if self._transport.is_closing():
            return
        self._handle_payloads()
        if self._flow.is_reading and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- refusals and deadlines ---------------------------------------------------------------------

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """Say why, and hang up. Id 0: the message answers no particular request."""
        self._clear_deadline()
        self.send(Failed(0, code, message))
        self._is_ended = True
        # free unhandled data: it may be large, and Python frees a dead connection late
        self._reader, self._payloads = FrameReader(), iter(())
        self._flow.end_frame()
        # closing a socket with unread bytes resets it, which keeps many clients from reading the message
        with suppress(OSError):
            os.read(self._transport.get_extra_info("socket").fileno(), MAX_READ_BYTES)
        if self._flow.writable.is_set():
            self._transport.close()
        else:  # closing would wait forever for a client that reads nothing
            self._transport.abort()

    def _set_deadline(self, seconds: float, message: str) -> None:
        """Refuse the client with this message after `seconds`, unless a deadline is set already."""
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(seconds, self._refuse, ErrorCode.PROTOCOL, message)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # --- requests that can be read ------------------------------------------------------------------

    def _dispatch(self, request: Request, size: int) -> None:
        """Begin to answer a request of `size` bytes.

        Raises:
            ProtocolError: it is not allowed at this point; nothing after it can be understood.
        """
        handler = self._server.handler
        match request:
            case Submit() if not (_has_dependencies(request.spec) or handler.may_be_duplicate(request)):
                self._answer_now(request, size, partial(handler.submit, request, self.uid))
            case SubmitMany():
                self._add_to_batch(request, size)
            case SetProgress():
                self._answer_now(request, 0, partial(handler.report, request))
            case SaveStep():
                self._answer_now(request, size, partial(handler.save_step, request, self.pid))
            case Forget():
                task = self._tasks.get(request.request)
                if task is not None and task.cancel():
                    self.send(End(request.request))
            case _:
                self._start_task(request, size)

    def _refuse_unreadable(self, request_id: int, error: ProtocolError) -> None:
        """Refuse a request that cannot be decoded, and with it the batch that it is a part of."""
        found = _UNKNOWN.search(str(error))
        unknown = None if found is None else found[1] or found[2]
        self.send(Failed(request_id, ErrorCode.PROTOCOL, str(error), unknown))
        self._unreadable_id = request_id
        if self._batch is not None and self._batch.request_id == request_id:
            self._drop_batch()

    def _drop_batch(self) -> None:
        """Forget the parts of an unfinished batch."""
        if self._batch is not None:
            self._batch.drop()
            self._batch = None

    def _cancel(self) -> None:
        """Cancel all requests that are answered by tasks."""
        for task in self._tasks.values():
            task.cancel()

    # --- without a task -----------------------------------------------------------------------------

    def _answer_now(
        self, request: Request, unsaved: int, answer: Callable[[Callable[[Reply], None]], None]
    ) -> None:
        """Answer without a task: thousands of requests a second come this way.

        `answer` is given what sends the reply. `unsaved`: bytes that wait for the disk until then.
        """
        self._flow.begin(unsaved)
        try:
            answer(partial(self._send_and_finish, unsaved))
        except BgdError as error:
            self._fail(request.id, error)
            self._flow.finish(unsaved)

    def _add_to_batch(self, request: SubmitMany, size: int) -> None:
        """Take a part of a batch; submit all of it with the last part."""
        if request.id == self._unreadable_id:
            raise ProtocolError(f"a part of submit_many {request.id} could not be read: none of it is queued")
        if self._batch is None:
            self._batch = PartialBatch(request.id, self._server.memory.batches)
        try:
            self._batch.add(request, size)
        except BgdError as error:
            self._fail(request.id, error)
            self.close()  # otherwise the parts still to come would be taken for another batch
            return
        if not request.more:
            batch, self._batch = self._batch, None
            try:
                self._submit_batch(request, batch)
            except BaseException:
                batch.drop()
                raise

    def _submit_batch(self, request: SubmitMany, batch: PartialBatch) -> None:
        """Submit a complete batch, which keeps its memory until it is on disk."""
        handler, parts = self._server.handler, batch.parts
        if (
            handler.may_be_duplicate(parts[0])
            or any(_has_dependencies(spec) for part in parts for spec in part.specs)
            or handler.may_follow_finished(parts)
        ):

            async def submit_once() -> None:
                self.send(await handler.submit_once(parts, self.uid))

            self._start(request, submit_once, batch.drop)
            return

        def finish(reply: Reply) -> None:
            batch.drop()
            self._send_and_finish(0, reply)

        try:
            handler.submit_many(parts, self.uid, finish)
        except BgdError as error:
            self._fail(request.id, error)
            batch.drop()
        else:
            self._flow.begin()

    def _send_and_finish(self, unsaved: int, reply: Reply) -> None:
        self.send(reply)
        self._flow.finish(unsaved)

    def _fail(self, request_id: int, error: BgdError) -> None:
        self.send(Failed(request_id, code_of(error), str(error)))

    # --- by a task ----------------------------------------------------------------------------------

    def _start_task(self, request: Request, size: int) -> None:
        """Start a request that takes more than one turn of the loop."""
        work = partial(self._server.handler.answer, request, self)
        match request:
            case Submit():
                self._start(request, work, lambda: None, unsaved=size)
            case Wait() | Logs() | GetEvents() | GetKeyboard() | GetBatches(wait=True) | GetInbox(wait=True):
                memory = STREAM_BYTES
                if isinstance(request, Wait):
                    memory += FOLLOWED_BYTES * len(request.jobs)
                try:
                    self._server.memory.streams.acquire(memory)
                except BgdError as error:
                    self._fail(request.id, error)
                    return
                self._start(request, work, partial(self._server.memory.streams.release, memory))
            case _:
                self._start(request, work, lambda: None, short_task=True)

    def _start(
        self,
        request: Request,
        work: Callable[[], Awaitable[None]],
        done: Callable[[], None],
        *,
        unsaved: int = 0,
        short_task: bool = False,
    ) -> None:
        """Begin it as a task; call `done` when the task ends, however it ends."""
        if request.id in self._tasks:
            done()
            raise ProtocolError(f"request id {request.id} is in use")
        self._flow.begin(unsaved, short_task=short_task)
        task = self._server.tasks.create_task(self._answer(request, work))
        self._tasks[request.id] = task

        def end(_: object) -> None:
            """Clean up, also after a task that was cancelled before its first step."""
            if self._tasks.get(request.id) is task:
                del self._tasks[request.id]
            done()
            self._flow.finish(unsaved, short_task=short_task)

        task.add_done_callback(end)

    async def _answer(self, request: Request, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BgdError as error:
            self._fail(request.id, error)
        except OSError as error:  # a log cannot be read, or no descriptor is left
            self._fail(request.id, Refused(f"this cannot be done now: {described(error)}"))
        except Exception:  # one request must not end the daemon that serves all others
            logger.exception("a bug in the answer to a request of type %s", type(request).__name__)
            self._fail(request.id, BgdError("a bug in bgd: the daemon's log has the details"))
        finally:
            # in the same turn as the last reply: a client that has read it may use the id again
            self._tasks.pop(request.id, None)


class PartialBatch:
    """The parts of one submit_many that have arrived; its owner calls `drop` in the end."""

    def __init__(self, request_id: int, budget: Budget) -> None:
        self.request_id = request_id
        self.parts: list[SubmitMany] = []
        self._budget = budget
        self._acquired = 0
        self._jobs = 0

    def add(self, part: SubmitMany, size: int) -> None:
        """Add a part of `size` bytes.

        Raises:
            ProtocolError: it belongs to another batch.
            Full: this batch is over a limit, or all batches together are.
        """
        if part.id != self.request_id:
            raise ProtocolError(f"submit_many {self.request_id} is not complete: one at a time")
        self._jobs += len(part.specs)
        if self._jobs > MAX_BATCH:
            raise Full(f"a batch holds at most {MAX_BATCH} jobs: split it")
        words = sum(len(spec.argv or ()) + len(spec.after) + len(spec.after_any) for spec in part.specs)
        memory = size + SPEC_BYTES * len(part.specs) + WORD_BYTES * words
        self._budget.acquire(memory)
        self._acquired += memory
        self.parts.append(part)

    def drop(self) -> None:
        """Forget the parts and give back their memory."""
        self._budget.release(self._acquired)
        self._acquired = 0
        self.parts = []


_UNKNOWN = re.compile(r"unknown field `(\w{1,100})`|Invalid value '(\w{1,100})' - at `\$\.type`$")
"""The field, or the type of a request, in msgspec's message about one that this daemon does not know."""


def _has_dependencies(spec: JobSpec) -> bool:
    """Return whether a job waits for others, which may have to be looked up on disk."""
    return bool(spec.after or spec.after_any)
