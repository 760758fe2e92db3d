"""A blocking connection to a daemon, and what else the client needs of threads.

`bgd.client.async_.connection` is the same for event loops. Both are written by hand; the other modules here
are generated from `bgd.client.async_`.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from functools import partial
from types import GeneratorType
from typing import Any, ParamSpec, Self, TypeVar

from bgd.client.session import Broken, NotSent, Session, framed
from bgd.client.transport import check_server, connected_socket, seconds_left
from bgd.errors import BgdError, DaemonUnreachable
from bgd.wire.replies import End, Failed, Reply, error_of
from bgd.wire.requests import Request
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound=Generator[Any, None, None])

Lock = threading.Lock

_READ_SIZE = 64 * 1024  # bytes; malloc maps and unmaps much larger ones each time
_FORGET_SECONDS = 1.0  # for telling a busy daemon that the rest of a stream is not wanted
_CLOSE_SECONDS = 1.0  # for other threads to leave a connection that is being closed


class Connection:
    """Requests and streams over one socket, which several threads may use at once.

    It has no thread of its own: a thread that waits for a reply while no other one reads, reads for all.
    Deadlines are on the monotonic clock; None: no limit.
    """

    def __init__(self, path: str, connection: socket.socket) -> None:
        self._path = path
        self._socket = connection
        self._session = Session()
        self._sending = threading.Lock()
        self._arrived = threading.Condition()
        self._is_read = False  # a thread reads the socket
        self._failure: Callable[[], BgdError] | None = None  # why this connection is broken

    @classmethod
    def open(cls, path: str, deadline: float | None, trusted_uids: Collection[int] | None = None) -> Self:
        """Connect and exchange hellos. `trusted_uids`: send nothing to a server of any other user.

        Raises:
            OSError: nobody listens there.
            NotAllowed: the server runs as another user.
            BgdError: the server refuses the connection.
        """
        connection = cls(path, connected_socket(path, deadline))
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
        """The newest job that the daemon told of; None: it recognises no repeated request."""
        return self._session.newest

    def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request and return its only reply. `frames` makes the request's frames, given its id.

        Raises:
            TimeoutError: the reply did not come in time.
            NotSent: the daemon has not taken the request.
            Broken: the daemon may or may not have taken it.
        """
        request_id = self._session.open()
        try:
            self._send(frames(request_id), deadline)
            return self._receive(request_id, deadline)
        finally:
            self._session.close(request_id)

    def stream(self, request: Request, deadline: float | None) -> Generator[Reply, None, None]:
        """Send a request and yield its replies up to the end mark. Closing the generator ends the stream."""
        request_id = self._session.open()
        try:
            self._send(framed(request, request_id), deadline)
            while not isinstance(reply := self._receive(request_id, deadline), End):
                yield reply
        except (GeneratorExit, KeyboardInterrupt, TimeoutError):
            with suppress(NotSent):  # the stream has ended with its connection
                self._send(self._session.forget(request_id), time.monotonic() + _FORGET_SECONDS)
            raise
        finally:
            self._session.close(request_id)

    def wait_for_end(self, deadline: float | None) -> None:
        """Wait until the daemon closes the connection.

        Raises:
            TimeoutError: it has not done so in time.
        """
        with self._arrived:
            while not self.is_broken:
                self._read_or_wait(deadline)

    def close(self) -> None:
        """Close the connection; threads that still wait for it get DaemonUnreachable."""
        self._break(partial(DaemonUnreachable, "the connection was closed"))
        with suppress(OSError):  # the daemon may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a waiting thread, which close() would not
        # Another thread may be about to poll the descriptor. If it were closed now, its number could belong
        # to the next connection by then. If that thread is this one, because this runs in a signal handler,
        # the socket is closed when its last reference goes.
        with self._arrived:
            is_free = self._arrived.wait_for(lambda: not self._is_read, _CLOSE_SECONDS)
        if is_free and self._sending.acquire(timeout=_CLOSE_SECONDS):
            self._socket.close()
            self._sending.release()

    # --- sending and receiving ----------------------------------------------------------------------

    def _send(self, data: bytes, deadline: float | None) -> None:
        seconds = seconds_left(deadline)
        if not self._sending.acquire(timeout=-1 if seconds is None else seconds):
            raise NotSent(f"the daemon at {self._path} reads nothing")
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
            if rest:  # also after an interrupt: nothing can follow half a frame
                self._break(partial(Broken, f"a request to {self._path} was interrupted"))
            self._sending.release()

    def _send_some(self, data: memoryview, deadline: float | None) -> int:
        while True:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not _poll(self._socket, select.POLLOUT, deadline):
                    raise TimeoutError("the daemon reads nothing") from None

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
        """Read what arrives, or wait while another thread does. Holds the lock except while it waits."""
        if self._is_read:
            if not self._arrived.wait(seconds_left(deadline)):
                raise TimeoutError
            return
        self._is_read = True
        self._arrived.release()
        try:
            is_readable = _poll(self._socket, select.POLLIN, deadline)
        finally:
            self._arrived.acquire()
            self._is_read = False
            self._arrived.notify_all()  # one of the waiting threads reads next
        if not is_readable:
            raise TimeoutError
        self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE, socket.MSG_DONTWAIT)
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

    def _shake_hands(self, deadline: float | None) -> None:
        try:
            self._send(self._session.hello(), deadline)
        except NotSent:
            self._failure = None  # refused at once; the reason may be there to read
        with self._arrived:
            while not self._session.is_greeted:
                if self._failure is not None:
                    raise self._failure()
                self._read_or_wait(deadline)

    def _break(self, failure: Callable[[], BgdError]) -> None:
        if self._failure is None:
            self._failure = failure


def _poll(connection: socket.socket, event: int, deadline: float | None) -> bool:
    """Wait until the socket is readable or writable, or closed; False: not before the deadline."""
    poller = select.poll()
    poller.register(connection, event)
    seconds = seconds_left(deadline)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


# --- threads and processes --------------------------------------------------------------------------------


class Affinity:
    """The process that a client belongs to."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_same_process(self) -> bool:
        """Whether this is the client's process. What a forked child closes is closed for its parent too."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise BgdError in another process."""
        if not self.is_same_process:
            raise BgdError("this Client belongs to the parent process: make a new Client after fork")


def sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; it may block this thread."""
    return function(*args, **kwargs)


def wait_readable(descriptor: int, seconds: float) -> None:
    """Return as soon as a descriptor is readable, or after `seconds`."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll(seconds * 1000)


def closed_at_exit(generator: G) -> G:
    """Return a generator that is closed when the interpreter exits, while closing it still works."""
    import atexit  # noqa: PLC0415 - most programs have no such generator

    if isinstance(generator, GeneratorType):
        atexit.unregister(_close_all)  # if it is not the first
        atexit.register(_close_all)
        _open_generators.add(generator)
    return generator


def first_view(job_id: int, look_up: Callable[[int], JobView]) -> JobView:
    """Look a job up because an attribute was read."""
    return look_up(job_id)


def _close_all() -> None:
    for generator in list(_open_generators):
        if not generator.gi_running:  # one that another thread runs cannot be closed from here
            generator.close()


_open_generators: weakref.WeakSet[GeneratorType[Any, None, None]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_open_generators.clear)  # they are the parent's
