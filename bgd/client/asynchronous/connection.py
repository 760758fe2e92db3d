"""A connection to a daemon on an event loop, which several tasks may use at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Self

from bgd.client.session import Broken, NotSent, Session, framed
from bgd.client.sockets import Socket, check_server, connected, left
from bgd.errors import BgdError, DaemonUnreachable
from bgd.wire.replies import End, Failed, Reply, error_of
from bgd.wire.requests import Request

_PIECE = 256 * 1024  # bytes read at once
_PARTING_SECONDS = 1.0  # for telling a daemon that is busy that no more of a stream is wanted


class Connection:
    """Requests and streams over one socket.

    There is no task behind it: whoever waits for a reply while nobody reads, reads for all. What nobody
    waits for stays in the socket, which holds up a stream that is not taken. Deadlines are on the monotonic
    clock, None: wait for ever.
    """

    def __init__(self, path: str, connection: socket.socket) -> None:
        self._path = path
        self._socket = connection
        self._socket.setblocking(False)
        self._session = Session()
        self._sending = asyncio.Lock()
        self._reading: asyncio.Event | None = None  # some task waits at the socket; set when it has done
        self._failure: Callable[[], BgdError] | None = None  # why nothing goes over this connection any more

    @classmethod
    async def open(
        cls, path: str, deadline: float | None, trusted_uids: Collection[int] | None = None
    ) -> Self:
        """Connect and exchange hellos. `trusted_uids`: send nothing to a server of another user.

        Raises:
            OSError: nobody listens there.
            NotAllowed: the server belongs to another user.
            BgdError: whoever does will not speak with us.
        """
        connection = cls(path, await _connected(path, deadline))
        try:
            if trusted_uids is not None:
                check_server(connection._socket, path, trusted_uids)
            await connection._shake_hands(deadline)
        except BaseException:
            connection._socket.close()
            raise
        return connection

    @property
    def is_broken(self) -> bool:
        return self._failure is not None

    @property
    def newest(self) -> int | None:
        """The newest job that the daemon told of; None: it knows no request again."""
        return self._session.newest

    async def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request, given its id, and return its one reply.

        Raises:
            TimeoutError: it did not come in time.
            NotSent: the request was not taken.
            Broken: nobody knows whether it was.
        """
        request_id = self._session.open()
        try:
            await self._send(frames(request_id), deadline)
            return await self._receive(request_id, deadline)
        finally:
            self._session.close(request_id)

    async def stream(self, request: Request, deadline: float | None) -> AsyncGenerator[Reply, None]:
        """Send a request and yield its replies up to the end mark; who stops earlier ends the stream."""
        request_id = self._session.open()
        try:
            await self._send(framed(request, request_id), deadline)
            while not isinstance(reply := await self._receive(request_id, deadline), End):
                yield reply
        except (GeneratorExit, asyncio.CancelledError, TimeoutError):
            with suppress(NotSent):  # the stream is gone with its connection
                await self._send(self._session.forget(request_id), time.monotonic() + _PARTING_SECONDS)
            raise
        finally:
            self._session.close(request_id)

    async def wait_for_end(self, deadline: float | None) -> None:
        """Wait until the daemon closes the connection.

        Raises:
            TimeoutError: it did not in time.
        """
        async with asyncio.timeout(left(deadline)):
            while not self.is_broken:
                await self._read_or_wait()

    async def close(self) -> None:
        """Close the connection; who still waits at it gets DaemonUnreachable."""
        self._break(partial(DaemonUnreachable, "the connection was closed"))
        with suppress(OSError):  # the daemon may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # ends reading and writing
        if self._reading is not None:
            await self._reading.wait()
        async with self._sending:  # a loop must not watch a descriptor that is closed
            self._socket.close()

    # --- the two directions -------------------------------------------------------------------------

    async def _send(self, data: bytes, deadline: float | None) -> None:
        try:
            async with asyncio.timeout(left(deadline)), self._sending:
                await self._send_all(data)
        except TimeoutError as error:
            raise NotSent(f"the daemon at {self._path} takes nothing in") from error

    async def _send_all(self, data: bytes) -> None:
        if self._failure is not None:
            raise NotSent(str(self._failure()))
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[await self._send_some(rest) :]
        except OSError as error:
            self._break(partial(Broken, f"the connection to {self._path} broke: {error}"))
            raise NotSent(f"no request could be sent to {self._path}: {error}") from error
        finally:
            if rest:  # even if by a cancellation: after half a frame nothing can follow
                self._break(partial(Broken, f"a request to {self._path} was interrupted"))

    async def _send_some(self, data: memoryview) -> int:
        # not the loop's sock_sendall, which cannot tell how much was sent when it is cancelled
        while True:
            try:
                return self._socket.send(data)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _ready(self._socket, loop.add_writer, loop.remove_writer)

    async def _receive(self, request_id: int, deadline: float | None) -> Reply:
        async with asyncio.timeout(left(deadline)):
            while (reply := self._session.take(request_id)) is None:
                if self._failure is not None:
                    raise self._failure()
                await self._read_or_wait()
        if isinstance(reply, Failed):
            raise error_of(reply.code, reply.message)
        return reply

    async def _read_or_wait(self) -> None:
        """Take in what arrives, or wait while another task does."""
        if self._reading is not None:
            await self._reading.wait()
            return
        self._reading = done = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            await _ready(self._socket, loop.add_reader, loop.remove_reader)
        finally:
            self._reading = None
            done.set()  # one of those who wait reads on for the others
        self._take_in()

    def _take_in(self) -> None:
        try:
            data = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a daemon that was killed with our request unread resets: the same as an end
        if not data:
            self._break(self._session.end(self._path))
            return
        try:
            self._session.feed(data)
        except BgdError as error:
            self._break(partial(type(error), str(error)))

    async def _shake_hands(self, deadline: float | None) -> None:
        try:
            await self._send(self._session.hello(), deadline)
        except NotSent:
            self._failure = None  # turned away at once; the reason may be there to read
        async with asyncio.timeout(left(deadline)):
            while not self._session.is_greeted:
                if self._failure is not None:
                    raise self._failure()
                await self._read_or_wait()

    def _break(self, failure: Callable[[], BgdError]) -> None:
        if self._failure is None:
            self._failure = failure


async def _ready(
    connection: socket.socket,
    watch: Callable[[socket.socket, Callable[[], None]], object],
    unwatch: Callable[[socket.socket], object],
) -> None:
    is_ready = asyncio.Event()
    watch(connection, is_ready.set)
    try:
        await is_ready.wait()
    finally:
        unwatch(connection)


async def _connected(path: str, deadline: float | None) -> socket.socket:
    connection = Socket()
    try:
        connection.setblocking(False)
        connection.connect(path)  # of a Unix socket never under way: done, refused, or the queue is full
    except BlockingIOError:
        connection.close()
        return await asyncio.to_thread(connected, path, deadline)  # only the kernel knows when there is room
    except BaseException:
        connection.close()
        raise
    return connection
