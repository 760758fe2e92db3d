"""A blocking connection to a daemon, which several threads may use at once."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from functools import partial
from typing import Self

from bgd.client.session import Broken, NotSent, Session, framed
from bgd.client.sockets import check_server, connected, left
from bgd.errors import BgdError, DaemonUnreachable
from bgd.wire.replies import End, Failed, Reply, error_of
from bgd.wire.requests import Request

_PIECE = 256 * 1024  # bytes read at once
_PARTING_SECONDS = 1.0  # for telling a daemon that is busy that no more of a stream is wanted


class Connection:
    """Requests and streams over one socket.

    There is no thread behind it: whoever waits for a reply while nobody reads, reads for all.
    Deadlines are on the monotonic clock, None: wait for ever.
    """

    def __init__(self, path: str, connection: socket.socket) -> None:
        self._path = path
        self._socket = connection
        self._session = Session()
        self._sending = threading.Lock()
        self._arrived = threading.Condition()
        self._is_read = False  # some thread waits at the socket
        self._failure: Callable[[], BgdError] | None = None  # why nothing goes over this connection any more

    @classmethod
    def open(cls, path: str, deadline: float | None, trusted_uids: Collection[int] | None = None) -> Self:
        """Connect and exchange hellos. `trusted_uids`: send nothing to a server of another user.

        Raises:
            OSError: nobody listens there.
            NotAllowed: the server belongs to another user.
            BgdError: whoever does will not speak with us.
        """
        connection = cls(path, connected(path, deadline))
        try:
            if trusted_uids is not None:
                check_server(connection._socket, path, trusted_uids)
            connection._shake_hands(deadline)
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

    def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request, given its id, and return its one reply.

        Raises:
            TimeoutError: it did not come in time.
            NotSent: the request was not taken.
            Broken: nobody knows whether it was.
        """
        request_id = self._session.open()
        try:
            self._send(frames(request_id), deadline)
            return self._receive(request_id, deadline)
        finally:
            self._session.close(request_id)

    def stream(self, request: Request, deadline: float | None) -> Generator[Reply, None, None]:
        """Send a request and yield its replies up to the end mark; who stops earlier ends the stream."""
        request_id = self._session.open()
        try:
            self._send(framed(request, request_id), deadline)
            while not isinstance(reply := self._receive(request_id, deadline), End):
                yield reply
        except (GeneratorExit, KeyboardInterrupt, TimeoutError):
            with suppress(NotSent):  # the stream is gone with its connection
                self._send(self._session.forget(request_id), time.monotonic() + _PARTING_SECONDS)
            raise
        finally:
            self._session.close(request_id)

    def wait_for_end(self, deadline: float | None) -> None:
        """Wait until the daemon closes the connection.

        Raises:
            TimeoutError: it did not in time.
        """
        with self._arrived:
            while not self.is_broken:
                self._read_or_wait(deadline)

    def close(self) -> None:
        """Close the connection; threads that still wait at it get DaemonUnreachable."""
        self._break(partial(DaemonUnreachable, "the connection was closed"))
        with suppress(OSError):  # the daemon may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits, as close() would not
        # Another thread may be about to poll the descriptor. Closed now, its number could belong to the next
        # connection by then. If that thread is this one, below a signal handler, its end closes the socket.
        with self._arrived:
            is_free = self._arrived.wait_for(lambda: not self._is_read, _PARTING_SECONDS)
        if is_free and self._sending.acquire(timeout=_PARTING_SECONDS):
            self._socket.close()
            self._sending.release()

    # --- the two directions -------------------------------------------------------------------------

    def _send(self, data: bytes, deadline: float | None) -> None:
        seconds = left(deadline)
        if not self._sending.acquire(timeout=-1 if seconds is None else seconds):
            raise NotSent(f"the daemon at {self._path} takes nothing in")
        rest = memoryview(data)
        try:
            if self._failure is not None:
                raise NotSent(str(self._failure()))
            while rest:
                rest = rest[self._send_some(rest, deadline) :]
        except OSError as error:
            self._break(partial(Broken, f"the connection to {self._path} broke: {error}"))
            raise NotSent(f"no request could be sent to {self._path}: {error}") from error
        finally:
            if rest:  # even if by an interrupt: after half a frame nothing can follow
                self._break(partial(Broken, f"a request to {self._path} was interrupted"))
            self._sending.release()

    def _send_some(self, data: memoryview, deadline: float | None) -> int:
        while True:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not _poll(self._socket, select.POLLOUT, deadline):
                    raise TimeoutError("the daemon takes nothing in") from None

    def _receive(self, request_id: int, deadline: float | None) -> Reply:
        with self._arrived:
            while (reply := self._session.take(request_id)) is None:
                if self._failure is not None:
                    raise self._failure()
                self._read_or_wait(deadline)
        if isinstance(reply, Failed):
            raise error_of(reply.code, reply.message)
        return reply

    def _read_or_wait(self, deadline: float | None) -> None:
        """Take in what arrives, or wait while another thread does. Holds the lock but while it waits."""
        if self._is_read:
            if not self._arrived.wait(left(deadline)):
                raise TimeoutError
            return
        self._is_read = True
        self._arrived.release()
        try:
            is_readable = _poll(self._socket, select.POLLIN, deadline)
        finally:
            self._arrived.acquire()
            self._is_read = False
            self._arrived.notify_all()  # one of those who wait reads on for the others
        if not is_readable:
            raise TimeoutError
        self._take_in()

    def _take_in(self) -> None:
        try:
            data = self._socket.recv(_PIECE, socket.MSG_DONTWAIT)
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

    def _shake_hands(self, deadline: float | None) -> None:
        try:
            self._send(self._session.hello(), deadline)
        except NotSent:
            self._failure = None  # turned away at once; the reason may be there to read
        with self._arrived:
            while not self._session.is_greeted:
                if self._failure is not None:
                    raise self._failure()
                self._read_or_wait(deadline)

    def _break(self, failure: Callable[[], BgdError]) -> None:
        if self._failure is None:
            self._failure = failure


def _poll(connection: socket.socket, event: int, deadline: float | None) -> bool:
    """Wait until the socket can be read or written without waiting, or has ended; False: not in time."""
    poller = select.poll()
    poller.register(connection, event)
    seconds = left(deadline)
    return bool(poller.poll(None if seconds is None else seconds * 1000))
