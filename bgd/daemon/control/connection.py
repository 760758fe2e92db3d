"""One client's connection: frames become requests, requests become replies, within a stranger's limits."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from fcntl import ioctl
from functools import partial
from termios import FIONREAD
from typing import Any

from msgspec import Struct

import bgd
from bgd.core.spec import JobSpec
from bgd.daemon.access import Actor, may_connect, peer_of
from bgd.daemon.control.handlers import RequestHandler
from bgd.daemon.control.reads import ReplySender
from bgd.errors import BgdError, Full, ProtocolError, Refused
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_request, encode, request_id_of
from bgd.wire.replies import End, ErrorCode, Failed, Reply, code_of
from bgd.wire.requests import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    Forget,
    GetEvents,
    Logs,
    Request,
    SetProgress,
    Submit,
    SubmitMany,
    Wait,
)

# --- Budgets: memory that all clients share, so that what they send has a bound, however many they are.


class Budget:
    """Memory, `size` bytes of it, that is refused to whoever finds none; `refusal` says so."""

    def __init__(self, size: int, refusal: str) -> None:
        self._size = size
        self._refusal = refusal
        self._taken = 0

    def take(self, count: int) -> None:
        """Take so many bytes.

        Raises:
            Full: there are not so many left.
        """
        if self._taken + count > self._size:
            raise Full(self._refusal)
        self._taken += count

    def give_back(self, count: int) -> None:
        self._taken -= count


class FairBudget:
    """Memory, about `size` bytes of it, for which clients wait in line: it is for what ends by itself."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._line: deque[tuple[int, Callable[[], None]]] = deque()

    def has_room(self, count: int) -> bool:
        """Tell whether so many bytes are left, or all of them, which has to do for anybody."""
        return self._taken == 0 or self._taken + count <= self._size

    @property
    def has_line(self) -> bool:
        """Whether others have come first."""
        return bool(self._line)

    def take(self, count: int) -> None:
        self._taken += count

    def give_back(self, count: int) -> None:
        self._taken -= count
        self.call()

    def line_up(self, count: int, called: Callable[[], None], *, first: bool) -> None:
        """Call back when so many bytes are left; who was called in vain comes first the next time."""
        if first:
            self._line.appendleft((count, called))
        else:
            self._line.append((count, called))

    def call(self) -> None:
        """Call the next in line if there is room for it; once served it does this for the one behind it."""
        if self._line and self.has_room(self._line[0][0]):
            _, called = self._line.popleft()
            asyncio.get_running_loop().call_soon(called)


# --- Batches that are not yet on disk, or of which not every part has come.


SPEC_BYTES = 512  # about what a spec takes in memory beyond its bytes on the wire, which may be a single one
WORD_BYTES = 64  # likewise one of its words, or of the jobs it waits for


class PartialBatch:
    """The parts of one submit_many that have come so far. Whoever is done with it calls `drop`."""

    def __init__(self, request_id: int, room: Budget) -> None:
        self.request_id = request_id
        self.parts: list[SubmitMany] = []
        self._room = room
        self._taken = 0
        self._jobs = 0

    def add(self, part: SubmitMany, size: int) -> None:
        """Take a part of `size` bytes.

        Raises:
            ProtocolError: it belongs to another batch.
            Full: the batch is over a limit, or all batches together are.
        """
        if part.id != self.request_id:
            raise ProtocolError(f"submit_many {self.request_id} is not complete: one at a time")
        self._jobs += len(part.specs)
        if self._jobs > MAX_BATCH:
            raise Full(f"a batch holds at most {MAX_BATCH} jobs: split it")
        words = sum(len(spec.argv or ()) + len(spec.after) + len(spec.after_any) for spec in part.specs)
        count = size + SPEC_BYTES * len(part.specs) + WORD_BYTES * words
        self._room.take(count)
        self._taken += count
        self.parts.append(part)

    def drop(self) -> None:
        """Give back the room it took."""
        self._room.give_back(self._taken)
        self._taken = 0
        self.parts = []


# --- The flow of one connection: when its client is served, and when what it sends is left in the socket.


MAX_IN_FLIGHT = 1024  # requests of one connection; more are left unread in the socket until some are done
MAX_QUESTIONS = 64  # of these, such as take a turn or more of the loop and then end
SMALL = 8 * 1024  # bytes of a request that is taken in without asking for room
MODEST = (
    64 * 1024
)  # bytes of one connection that are not yet on disk, up to which small ones are always taken
MAX_UNSAVED_BYTES = 16 << 20  # of new jobs of all clients that are not yet on disk
MAX_UNREAD_BYTES = 4 << 20  # of requests of all clients, larger than small, of which a part has come
MAX_STREAM_BYTES = 128 << 20  # that all streams take, about
STREAM_BYTES = 4096  # about what one takes
FOLLOWED_BYTES = 512  # and each job that it waits for


class Budgets(Struct, frozen=True):
    """What all connections share."""

    batches: Budget
    streams: Budget
    unsaved: FairBudget
    unread: FairBudget


def new_budgets() -> Budgets:
    """Return rooms with nobody in them."""
    return Budgets(
        batches=Budget(
            MAX_BATCH_BYTES, "the unfinished batches of all clients are too large together: try again later"
        ),
        streams=Budget(
            MAX_STREAM_BYTES,
            "clients wait for too many jobs at once, or follow too much: end some of it, or try again later",
        ),
        unsaved=FairBudget(MAX_UNSAVED_BYTES),
        unread=FairBudget(MAX_UNREAD_BYTES),
    )


class FlowControl:
    """Counts what the daemon holds for one client, and owes it.

    Args:
        changed: called whenever the client is served from now on, or is not.
    """

    def __init__(self, rooms: Budgets, changed: Callable[[], None]) -> None:
        self._rooms = rooms
        self._changed = changed
        self._in_flight = 0
        self._questions = 0
        self._unsaved = 0
        self._reserved = 0  # of the hall of what is unread
        self._line: FairBudget | None = None  # in which it stands
        self._was_called = False
        self._is_over = False
        self.is_serving = True
        self.writable = asyncio.Event()
        self.writable.set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def in_turn(self) -> AsyncGenerator[None, None]:
        """Give a turn to read something and send it, once the client has read what others sent in theirs."""
        async with self._turn:
            await self.writable.wait()
            yield

    def pause(self) -> None:
        """Note that the client reads too slowly."""
        self.writable.clear()
        self._regulate()

    def resume(self) -> None:
        self.writable.set()
        self._regulate()

    # --- requests in flight -----------------------------------------------------------------------------

    def begin(self, unsaved: int = 0, *, question: bool = False) -> None:
        """Note a request in flight; `unsaved`: bytes of new jobs that wait for the disk."""
        self._in_flight += 1
        self._questions += question
        self._unsaved += unsaved
        self._rooms.unsaved.take(unsaved)
        self._regulate()

    def finish(self, unsaved: int = 0, *, question: bool = False) -> None:
        """Note that such a request has been answered."""
        self._in_flight -= 1
        self._questions -= question
        self._unsaved -= unsaved
        self._rooms.unsaved.give_back(unsaved)
        self._regulate()

    # --- requests that come -----------------------------------------------------------------------------

    def admits(self, size: int) -> bool:
        """Tell whether a request of this size is taken now; if not it is to wait until served again."""
        is_small = size <= SMALL and self._unsaved < MODEST
        return is_small or self._may_enter(self._rooms.unsaved, size)

    def expects(self, announced: int, missing: int) -> bool:
        """Tell whether the rest of a request may come now; if not, likewise."""
        if announced <= SMALL or self._reserved:
            return True
        if not self._may_enter(self._rooms.unread, missing):
            return False
        self._reserved = missing
        self._rooms.unread.take(missing)
        return True

    def at_once(self, missing: int) -> int:
        """Return how many bytes may be read at once, where the request that has begun lacks so many."""
        return missing if self._reserved and missing else SMALL

    @property
    def holds_room(self) -> bool:
        """Whether others may wait for room that this client has, as it has begun a request."""
        return self._reserved > 0

    @property
    def keeps_others_waiting(self) -> bool:
        """Whether it does."""
        return self.holds_room and self._rooms.unread.has_line

    def take(self) -> None:
        """Note that the request that came was taken in hand."""
        if self._reserved:
            reserved, self._reserved = self._reserved, 0
            self._rooms.unread.give_back(reserved)

    def end(self) -> None:
        """Note that the client is gone."""
        self._is_over = True
        self.take()

    def pass_on(self) -> None:
        """Let the next in line come, after this client was served as far as it can be now."""
        self._rooms.unsaved.call()
        self._rooms.unread.call()

    def _may_enter(self, hall: FairBudget, size: int) -> bool:
        if hall.has_room(size) and (self._was_called or not hall.has_line):
            self._was_called = False
            return True
        self._line = hall
        hall.line_up(size, self._be_called, first=self._was_called)
        self._regulate()
        return False

    def _be_called(self) -> None:
        self._line = None
        self._was_called = True
        self._regulate()
        if self._is_over or not self.is_serving:
            self.pass_on()

    def _regulate(self) -> None:
        """Leave what the client sends where it is while it is owed too much, reads nothing, or is in line."""
        is_serving = (
            self._in_flight < MAX_IN_FLIGHT
            and self._questions < MAX_QUESTIONS
            and self._line is None
            and self.writable.is_set()
        )
        if is_serving is not self.is_serving:
            self.is_serving = is_serving
            self._changed()


# --- The requests of one client: each is taken, answered, and counted in the flow until it is.


logger = logging.getLogger(__name__)


class RequestDispatcher:
    """Several at a time, each by its id.

    Args:
        control: what all clients share.
        actor: who asks.
        flow: of the client's connection.
        replies: the way back to the client.
        hang_up: ends the connection, once what was sent is out.
    """

    def __init__(
        self,
        control: ControlServer,
        actor: Actor,
        flow: FlowControl,
        replies: ReplySender,
        hang_up: Callable[[], None],
    ) -> None:
        self._verbs = control.verbs
        self._rooms = control.rooms
        self._spawn = control.spawn
        self._actor = actor
        self._flow = flow
        self._replies = replies
        self._hang_up = hang_up
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._batch: PartialBatch | None = None
        self._unreadable_id = -1  # of the last request that could not be read

    def refuse_unreadable(self, request_id: int, error: ProtocolError) -> None:
        """Say that a request of this id cannot be read, nor a batch of which it was a part."""
        self.fail(request_id, error)
        self._unreadable_id = request_id
        if self._batch is not None and self._batch.request_id == request_id:
            self.drop_batch()

    def fail(self, request_id: int, error: BgdError) -> None:
        """Say why a request is not answered otherwise."""
        self._replies.send(Failed(request_id, code_of(error), str(error)))

    def take(self, request: Request, size: int) -> None:
        """Begin to answer a request that took `size` bytes.

        Raises:
            ProtocolError: it cannot come now; nothing after it can be understood.
        """
        match request:
            case Submit() if not _waits(request.spec) and not self._verbs.may_be_duplicate(request):
                self._submit(request, size)
            case SubmitMany():
                self._gather(request, size)
            case SetProgress():
                self._report(request)
            case Forget():
                task = self._streams.get(request.request)
                if task is not None and task.cancel():
                    self._replies.send(End(request.request))
            case _:
                self._answer_in_time(request, size)

    def _submit(self, request: Submit, size: int) -> None:
        """Answer without a task: this is the path that thousands a second take."""
        try:
            self._verbs.submit(request, self._actor, partial(self._send_and_finish, size))
        except BgdError as error:
            self.fail(request.id, error)
        else:
            self._flow.begin(size)

    def _report(self, request: SetProgress) -> None:
        self._flow.begin()
        try:
            self._verbs.report(request, partial(self._send_and_finish, 0))
        except BgdError as error:
            self.fail(request.id, error)
            self._flow.finish()

    def _gather(self, request: SubmitMany, size: int) -> None:
        """Take a part of a batch; with the last one submit them all."""
        if request.id == self._unreadable_id:
            raise ProtocolError(f"a part of submit_many {request.id} could not be read: none of it is taken")
        if self._batch is None:
            self._batch = PartialBatch(request.id, self._rooms.batches)
        try:
            self._batch.add(request, size)
        except BgdError as error:
            self.fail(request.id, error)
            self._hang_up()  # the parts still to come would be taken for another batch
            return
        if not request.more:
            batch, self._batch = self._batch, None
            try:
                self._submit_batch(request, batch)
            except BaseException:
                batch.drop()
                raise

    def _submit_batch(self, request: SubmitMany, batch: PartialBatch) -> None:
        """Take all parts of a batch, which keeps its room until they are on disk."""
        if self._verbs.may_be_duplicate(batch.parts[0]) or any(
            _waits(spec) for part in batch.parts for spec in part.specs
        ):
            self._start(request, partial(self._answer_batch, batch.parts), batch.drop)
            return

        def answer(reply: Reply) -> None:
            batch.drop()
            self._send_and_finish(0, reply)

        try:
            self._verbs.submit_many(request.id, batch.parts, self._actor, answer)
        except BgdError as error:
            self.fail(request.id, error)
            batch.drop()
        else:
            self._flow.begin()

    def drop_batch(self) -> None:
        """Forget the parts of a batch that have come."""
        if self._batch is not None:
            self._batch.drop()
            self._batch = None

    async def _answer_batch(self, parts: list[SubmitMany]) -> None:
        self._replies.send(await self._verbs.submit_after(parts, self._actor))

    def _answer_in_time(self, request: Request, size: int) -> None:
        """Begin what takes more than one turn of the loop: new jobs, a stream, or one question of a few."""
        work = partial(self._verbs.answer, request, self._actor, self._replies)
        match request:
            case Submit():
                self._start(request, work, lambda: None, unsaved=size)
            case Wait() | Logs() | GetEvents():
                taken = STREAM_BYTES + (
                    FOLLOWED_BYTES * len(request.jobs) if isinstance(request, Wait) else 0
                )
                try:
                    self._rooms.streams.take(taken)
                except BgdError as error:
                    self.fail(request.id, error)
                    return
                self._start(request, work, partial(self._rooms.streams.give_back, taken))
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
        task = self._spawn(self._answer(request, work))
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
            self.fail(request.id, error)
        except OSError as error:  # a log that cannot be read, descriptors that have run out
            self.fail(request.id, Refused(f"this cannot be done now: {error}"))
        except Exception:  # one request must not take down what serves all others
            logger.exception("a bug, in the answer to a request of type %s", type(request).__name__)
            self.fail(request.id, BgdError("a bug in bgd: the daemon's log has the details"))
        finally:
            # in the same turn as the last reply: whoever has read it may use the id again
            self._streams.pop(request.id, None)

    def cancel(self) -> None:
        """Answer no request any further."""
        for task in self._streams.values():
            task.cancel()

    def _send_and_finish(self, unsaved: int, reply: Reply) -> None:
        self._replies.send(reply)
        self._flow.finish(unsaved)


def _waits(spec: JobSpec) -> bool:
    """Whether a job waits for others, which may have to be looked up on disk."""
    return bool(spec.after or spec.after_any)


HELLO_SECONDS = 5.0  # a connection says who it is within this
FRAME_SECONDS = 10.0  # and sends a frame it began within this
STILL_SECONDS = 1.0  # nor may it send nothing for so long while others wait for its room
MOMENT = 0.1  # seconds in which who had to wait for room shows that it has more to send
HIGH_WATER = 64 * 1024  # bytes waiting for a slow reader before its streams pause, and its requests
MOST_AT_ONCE = 256 * 1024  # bytes that are read at once

_landing = memoryview(bytearray(MOST_AT_ONCE))  # of all connections: what is read into it is taken at once


class ClientConnection(asyncio.BufferedProtocol):
    """One client: Hello each way, then requests, several at a time."""

    def __init__(self, control: ControlServer) -> None:
        self._control = control
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self._is_greeted = False
        self._deadline: asyncio.TimerHandle | None = None
        self._heard_at = 0.0  # on the clock of the loop
        self._look: asyncio.TimerHandle | None = None  # whether others wait for a client that stands still
        self._flow = FlowControl(control.rooms, self._serve_or_not)
        self._requests: RequestDispatcher
        self._is_ended = False  # by this side; what the other sent before it hung up is taken all the same
        self._payloads: Iterator[bytes] = iter(())  # arrived, and not yet taken
        self._held_back: bytes | None = None  # the first of these, for which there was no room

    # --- what the loop tells ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._control.connections.add(self)
        actor = peer_of(transport)
        self._requests = RequestDispatcher(self._control, actor, self._flow, self, self.close)
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


# --- The control socket: what all connections of clients share, and how many there may be.


MAX_CONNECTIONS = 1000
SPARE_DESCRIPTORS = 64  # for files, logs that are read, the launcher, and for refusing one connection more


class ControlServer:
    """Everything the connections share.

    Args:
        verbs: what requests do.
        uid: the daemon's own user.
        tasks: owns the streams and slower requests.
    """

    def __init__(self, verbs: RequestHandler, uid: int, tasks: asyncio.TaskGroup) -> None:
        self.verbs = verbs
        self.uid = uid
        self.connections: set[ClientConnection] = set()
        self.most_connections = _most_connections()
        self.rooms = new_budgets()
        self._tasks = tasks

    def connection(self) -> ClientConnection:
        return ClientConnection(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    def close(self) -> None:
        for connection in list(self.connections):
            connection.close()


def _most_connections() -> int:
    """Return how many connections leave room for the daemon's other descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(descriptors - SPARE_DESCRIPTORS, descriptors // 4))
