"""A connection to a daemon on an event loop, and what else the client needs of the loop.

`bgd.client.blocking.connection` is the same for threads. Both are written by hand; the other modules of the
blocking client are generated from those here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from bgd.client.session import Broken, NotSent, Session, framed
from bgd.client.transport import Socket, check_server, connected_socket, seconds_left
from bgd.errors import BgdError, DaemonUnreachable
from bgd.wire.replies import End, Failed, Reply, error_of
from bgd.wire.requests import Request
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound=AsyncGenerator[Any, None])

Lock = asyncio.Lock

_READ_SIZE = 64 * 1024  # bytes; malloc maps and unmaps much larger ones each time
_FORGET_SECONDS = 1.0  # for telling a busy daemon that the rest of a stream is not wanted


class Connection:
    """Requests and streams over one socket, which several tasks may use at once.

    It has no task of its own: a task that waits for a reply while no other one reads, reads for all. What
    nobody waits for stays in the socket, so that the daemon stops sending a stream that is not read.
    Deadlines are on the monotonic clock; None: no limit.
    """

    def __init__(self, path: str, connection: socket.socket) -> None:
        self._path = path
        self._socket = connection
        self._socket.setblocking(False)
        self._session = Session()
        self._sending = asyncio.Lock()
        self._reading: asyncio.Event | None = None  # a task reads the socket; set when it is done
        self._failure: Callable[[], BgdError] | None = None  # why this connection is broken

    @classmethod
    async def open(
        cls, path: str, deadline: float | None, trusted_uids: Collection[int] | None = None
    ) -> Self:
        """Connect and exchange hellos. `trusted_uids`: send nothing to a server of any other user.

        Raises:
            OSError: nobody listens there.
            NotAllowed: the server runs as another user.
            BgdError: the server refuses the connection.
        """
        connection = cls(path, await _connected_socket(path, deadline))
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
        """The newest job that the daemon told of; None: it recognises no repeated request."""
        return self._session.newest

    async def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request and return its only reply. `frames` makes the request's frames, given its id.

        Raises:
            TimeoutError: the reply did not come in time.
            NotSent: the daemon has not taken the request.
            Broken: the daemon may or may not have taken it.
        """
        request_id = self._session.open()
        try:
            await self._send(frames(request_id), deadline)
            return await self._receive(request_id, deadline)
        finally:
            self._session.close(request_id)

    async def stream(self, request: Request, deadline: float | None) -> AsyncGenerator[Reply, None]:
        """Send a request and yield its replies up to the end mark. Closing the generator ends the stream."""
        request_id = self._session.open()
        try:
            await self._send(framed(request, request_id), deadline)
            while not isinstance(reply := await self._receive(request_id, deadline), End):
                yield reply
        except (GeneratorExit, asyncio.CancelledError, TimeoutError):
            with suppress(NotSent):  # the stream has ended with its connection
                await self._send(self._session.forget(request_id), time.monotonic() + _FORGET_SECONDS)
            raise
        finally:
            self._session.close(request_id)

    async def wait_for_end(self, deadline: float | None) -> None:
        """Wait until the daemon closes the connection.

        Raises:
            TimeoutError: it has not done so in time.
        """
        async with asyncio.timeout(seconds_left(deadline)):
            while not self.is_broken:
                await self._read_or_wait()

    async def close(self) -> None:
        """Close the connection; tasks that still wait for it get DaemonUnreachable."""
        self._break(partial(DaemonUnreachable, "the connection was closed"))
        with suppress(OSError):  # the daemon may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # ends reading and writing
        if self._reading is not None:
            await self._reading.wait()
        async with self._sending:  # a loop must not watch a closed descriptor
            self._socket.close()

    # --- sending and receiving ----------------------------------------------------------------------

    async def _send(self, data: bytes, deadline: float | None) -> None:
        try:
            async with asyncio.timeout(seconds_left(deadline)), self._sending:
                await self._send_all(data)
        except TimeoutError as error:
            raise NotSent(f"the daemon at {self._path} reads nothing") from error

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
            if rest:  # also after a cancellation: nothing can follow half a frame
                self._break(partial(Broken, f"a request to {self._path} was interrupted"))

    async def _send_some(self, data: memoryview) -> int:
        # sock_sendall of the loop does not tell how much it has sent when it is cancelled
        while True:
            try:
                return self._socket.send(data)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _ready(self._socket, loop.add_writer, loop.remove_writer)

    async def _receive(self, request_id: int, deadline: float | None) -> Reply:
        async with asyncio.timeout(seconds_left(deadline)):
            while (reply := self._session.take(request_id)) is None:
                if self._failure is not None:
                    raise self._failure()
                await self._read_or_wait()
        if isinstance(reply, Failed):
            raise error_of(reply.code, reply.message)
        return reply

    async def _read_or_wait(self) -> None:
        """Read what arrives, or wait while another task does."""
        if self._reading is not None:
            await self._reading.wait()
            return
        self._reading = done = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            await _ready(self._socket, loop.add_reader, loop.remove_reader)
        finally:
            self._reading = None
            done.set()  # one of the waiting tasks reads next
        self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a daemon killed with our request unread resets the connection, which is an end too
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
            self._failure = None  # refused at once; the reason may be there to read
        async with asyncio.timeout(seconds_left(deadline)):
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


async def _connected_socket(path: str, deadline: float | None) -> socket.socket:
    connection = Socket()
    try:
        connection.setblocking(False)
        connection.connect(path)  # of a Unix socket: done, refused, or the queue is full
    except BlockingIOError:
        connection.close()
        # only the kernel knows when the queue has room
        return await asyncio.to_thread(connected_socket, path, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


# --- the event loop ---------------------------------------------------------------------------------------


class Affinity:
    """The process and the event loop that a client belongs to, from its first use."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_same_process(self) -> bool:
        """Whether this is the client's process. What a forked child closes is closed for its parent too."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise BgdError in another process or on another loop."""
        if not self.is_same_process:
            raise BgdError("this AsyncClient belongs to the parent process: make a new one after fork")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise BgdError("this AsyncClient belongs to another event loop: make one for each loop")


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that reads files or waits for processes, without blocking the loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def wait_readable(descriptor: int, seconds: float) -> None:
    """Return as soon as a descriptor is readable, or after `seconds`."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)


def closed_at_exit(generator: G) -> G:
    """Return the generator, which its event loop closes when it shuts down."""
    return generator


def first_view(job_id: int, look_up: Callable[[int], Awaitable[JobView]]) -> JobView:
    """Raise BgdError, because an attribute cannot await a look at the job."""
    del look_up
    raise BgdError(f"nothing is known of job {job_id} yet: `await job.refresh()` before its attributes")
