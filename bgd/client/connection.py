"""A connection to a daemon, with as many requests and streams at once as there are callers."""

from __future__ import annotations

import itertools
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from bgd.client.session import UNNUMBERED, Broken, NotSent, Session, framed
from bgd.client.transport import NO_WAY_IN, READ_SIZE, ClientSocket, check_server
from bgd.errors import BgdError, DaemonUnreachable, ProtocolError
from bgd.wire.replies import End, ErrorCode, Failed, Reply, error_of
from bgd.wire.requests import Forget, Request

if TYPE_CHECKING:
    from bgd.client.concurrency import Bell, Concurrency

_FORGET_SECONDS = 1.0  # to tell a busy daemon that the rest of a stream is not needed
_CLOSE_SECONDS = 1.0  # for others to leave a connection that is being closed


class Connection:
    """Requests and streams over one socket, which several threads or tasks may use at once.

    It has none of its own: of those that wait for a reply, the one that holds `_reading` reads for
    all. What is not waited for stays in the socket, so that the daemon stops sending a stream that is not
    read. Deadlines are on the monotonic clock; None: no limit.
    """

    def __init__(self, path: str, connection: socket.socket, io: Concurrency) -> None:
        self._path = path
        self._socket = connection
        self._io = io
        self._session = Session()
        self._ids = itertools.count(1)
        self._sending = io.new_lock()
        self._reading = io.new_lock()
        self._inboxes: dict[int, Inbox] = {}  # of all requests, by their ids
        self._waiting: dict[int, Inbox] = {}  # of those whose callers wait for a reply
        self._failure: Callable[[], BgdError] | None = None  # why this connection is broken

    @classmethod
    async def open(cls, place: ClientSocket, deadline: float | None, io: Concurrency) -> Self:
        """Connect to a daemon and exchange hellos.

        Raises:
            OSError: one of NO_WAY_IN: no daemon listens there, or the caller may not use it.
            NotAllowed: an unexpected user serves a socket that the caller did not name.
            DaemonUnreachable: a program listens, but does not answer as a daemon does.
            BgdError: the daemon refuses the connection.
        """
        try:
            return await cls._open(place, deadline, io)
        except NO_WAY_IN:
            raise
        except (BlockingIOError, TimeoutError) as error:
            raise DaemonUnreachable(
                f"the daemon at {place.path} does not answer: it is stopped or very busy"
            ) from error
        except OSError as error:
            raise DaemonUnreachable(f"{place.path} is not a daemon's socket: {error.strerror}") from error

    @classmethod
    async def _open(cls, place: ClientSocket, deadline: float | None, io: Concurrency) -> Self:
        connection = cls(place.path, await io.connected_socket(place.path, deadline), io)
        try:
            check_server(connection._socket, place)
            await connection._shake_hands(deadline)
        except BaseException:
            connection._socket.close()
            raise
        return connection

    @property
    def is_broken(self) -> bool:
        return self._failure is not None

    @property
    def newest(self) -> int:
        """The newest job that the daemon told of."""
        return self._session.newest

    async def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request and return its only reply. `frames` makes the request's frames, given its id.

        Raises:
            TimeoutError: the reply did not come in time.
            NotSent: the daemon has not taken the request.
            Broken: the daemon may or may not have taken it.
        """
        inbox = self._new_inbox()
        try:
            await self._send(frames(inbox.id), deadline)
            return await self._receive(inbox, deadline)
        finally:
            del self._inboxes[inbox.id]

    async def post(self, frames: Callable[[int], bytes], deadline: float | None) -> Inbox:
        """Send a request, whose only reply `reply_to` waits for. Raises as `exchange` does."""
        inbox = self._new_inbox()
        try:
            await self._send(frames(inbox.id), deadline)
        except BaseException:
            del self._inboxes[inbox.id]
            raise
        return inbox

    async def reply_to(self, inbox: Inbox, deadline: float | None) -> Reply:
        """Return the reply to a request that was posted. Raises as `exchange` does."""
        try:
            return await self._receive(inbox, deadline)
        finally:
            del self._inboxes[inbox.id]

    def drop(self, inbox: Inbox) -> None:
        """Ignore the reply to a request that was posted."""
        self._inboxes.pop(inbox.id, None)

    async def stream(self, request: Request, deadline: float | None) -> AsyncGenerator[Reply, None]:
        """Send a request and yield its replies up to the end mark. Closing the generator ends the stream."""
        inbox = self._new_inbox()
        try:
            await self._send(framed(request, inbox.id), deadline)
            while not isinstance(reply := await self._receive(inbox, deadline), End):
                yield reply
        except BgdError:
            raise  # the stream has ended
        except BaseException:
            forget = framed(Forget(UNNUMBERED, inbox.id), next(self._ids))
            with suppress(NotSent):  # the stream has ended with its connection
                await self._send(forget, time.monotonic() + _FORGET_SECONDS)
            raise
        finally:
            del self._inboxes[inbox.id]

    async def wait_for_end(self, deadline: float | None) -> None:
        """Wait until the daemon closes the connection.

        Raises:
            TimeoutError: it has not done so in time.
        """
        with suppress(BgdError):
            await self._receive(Inbox(next(self._ids), self._io.new_bell()), deadline)

    async def close(self) -> None:
        """Close the connection; callers that still wait get DaemonUnreachable."""
        self._break(partial(DaemonUnreachable, "the connection was closed"))
        deadline = time.monotonic() + _CLOSE_SECONDS
        # Others may be about to use the descriptor, whose number could belong to the next connection once it
        # is closed. They leave soon, and later callers find that the connection is broken. If this runs in a
        # signal handler, they may be in the same thread: then the socket is closed when its last reference
        # goes.
        with suppress(TimeoutError):
            for lock in (self._reading, self._sending):
                await self._io.acquire(lock, deadline)
                lock.release()
            self._socket.close()

    # --- sending ------------------------------------------------------------------------------------

    async def _send(self, data: bytes, deadline: float | None) -> None:
        try:
            await self._io.acquire(self._sending, deadline)
        except TimeoutError as error:
            raise NotSent(f"the daemon at {self._path} reads nothing") from error
        rest = memoryview(data)
        try:
            if self._failure is not None:
                raise NotSent(str(self._failure()))
            while rest:
                rest = rest[await self._write_some(rest, deadline) :]
        except OSError as error:
            self._break(partial(Broken, f"the connection to {self._path} broke: {error}"))
            problem = str(error) or "the daemon reads nothing"
            raise NotSent(f"no request could be sent to {self._path}: {problem}") from error
        finally:
            if rest:  # also after an interrupt: nothing can follow half a frame
                self._break(partial(Broken, f"a request to {self._path} was interrupted"))
            self._sending.release()

    async def _write_some(self, data: memoryview, deadline: float | None) -> int:
        """Send as many bytes as fit, at least one; return how many."""
        while True:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await self._io.wait_ready(self._socket, deadline, to_write=True)

    # --- receiving ----------------------------------------------------------------------------------

    def _new_inbox(self) -> Inbox:
        inbox = Inbox(next(self._ids), self._io.new_bell())
        self._inboxes[inbox.id] = inbox
        return inbox

    async def _receive(self, inbox: Inbox, deadline: float | None) -> Reply:
        """Return the next reply to a request. Until it arrives, read for all, or wait while another does."""
        self._waiting[inbox.id] = inbox
        try:
            while not inbox:
                if self._failure is not None:
                    raise self._failure()
                if await self._io.try_acquire(self._reading):
                    try:
                        # the previous reader may have filled this inbox, or found the end
                        if not inbox and self._failure is None:
                            self._sort(await self._read_some(deadline))
                    finally:
                        self._reading.release()
                else:
                    await inbox.bell.wait(deadline)
        finally:
            del self._waiting[inbox.id]
            self._let_another_read()
        reply = inbox.popleft()
        if isinstance(reply, Failed):
            raise _error_in(reply)
        return reply

    async def _read_some(self, deadline: float | None) -> bytes:
        """Return what arrives next; empty at the end of the connection."""
        while True:
            await self._io.wait_ready(self._socket, deadline, to_write=False)
            try:
                return self._socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:  # a daemon killed with our request unread resets the connection, an end as well
                return b""

    def _sort(self, data: bytes) -> None:
        """Put the replies that these bytes complete into the inboxes of their requests."""
        if not data:
            self._break(self._session.end(self._path))
            return
        try:
            for reply in self._session.feed(data):
                # None: the caller no longer waits for this answer or the rest of this stream
                if (inbox := self._inboxes.get(reply.id)) is not None:
                    inbox.append(reply)
                    inbox.bell.ring()
        except BgdError as error:
            self._break(partial(type(error), str(error)))

    def _let_another_read(self) -> None:
        """Wake one waiter for a reply if none is reading. Each reader calls this when it leaves."""
        if self._waiting and not self._reading.locked():
            for inbox in list(self._waiting.values()):
                if not inbox:
                    inbox.bell.ring()
                    return

    async def _shake_hands(self, deadline: float | None) -> None:
        try:
            await self._send(self._session.hello(), deadline)
        except NotSent:
            self._failure = None  # refused at once; the reason may be there to read
        while not self._session.is_greeted:
            if self._failure is not None:
                raise self._failure()
            self._sort(await self._read_some(deadline))

    def _break(self, failure: Callable[[], BgdError]) -> None:
        if self._failure is None:
            self._failure = failure
        with suppress(OSError):  # the daemon may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # ends reads and writes, which close() would not
        for inbox in list(self._waiting.values()):
            inbox.bell.ring()


class Inbox(deque[Reply]):
    """The replies to one request that its caller has not taken. The bell rings for new ones."""

    def __init__(self, request_id: int, bell: Bell) -> None:
        super().__init__()
        self.id = request_id
        self.bell = bell


def _error_in(failed: Failed) -> BgdError:
    """Return why a request failed; a daemon that cannot read a valid one is older."""
    if failed.code is ErrorCode.PROTOCOL and failed.message.startswith("not a message of"):
        _, _, field = failed.message.partition("unknown field ")
        unknown = field.partition(" ")[0] or "this request"
        return ProtocolError(
            f"the daemon is an older bgd, which does not know {unknown}: restart it with `bgctl shutdown`"
            " and then `bgd`, or with `systemctl restart bgd`; running jobs go on"
        )
    return error_of(failed.code, failed.message)
