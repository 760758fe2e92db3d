"""What the client needs of threads: locks, reads and writes with deadlines, and the like.

`bgd.client.async_.concurrency` is the same for event loops. Both are written by hand; the other modules here
are generated from `bgd.client.async_`.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any, ParamSpec, TypeVar

from bgd.client.transport import READ_SIZE, Socket, seconds_left
from bgd.errors import BgdError
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound=Generator[Any, None, None])

Lock = threading.Lock

_MIN_TIMEOUT = 0.001  # seconds; the kernel takes 0 for no timeout


def acquire(lock: threading.Lock, deadline: float | None) -> None:
    """Take a lock; raise TimeoutError if it is not free before the deadline."""
    seconds = seconds_left(deadline)
    if not lock.acquire(timeout=-1 if seconds is None else seconds):
        raise TimeoutError


def try_acquire(lock: threading.Lock) -> bool:
    """Take a lock if it is free."""
    return lock.acquire(blocking=False)


class Bell:
    """Wakes the thread that waits for it, or that will wait for it next."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        try:  # noqa: SIM105 - suppress() takes longer than everything else here
            self._silence.release()
        except RuntimeError:  # it is ringing
            pass

    def wait(self, deadline: float | None) -> None:
        """Return when it was rung since the last wait; raise TimeoutError at the deadline."""
        acquire(self._silence, deadline)


# --- sockets ----------------------------------------------------------------------------------------------


def connected_socket(path: str, deadline: float | None) -> Socket:
    """Return a connected socket; blocks while the listener's queue is full.

    Raises:
        OSError: nobody listens there, or the queue was full until the deadline.
    """
    connection = Socket()
    try:
        _connect(connection, path, deadline)
        while not _is_connected(connection):  # after a signal, Python takes connect() to be in progress
            _connect(connection, path, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def write_some(connection: socket.socket, data: memoryview, deadline: float | None) -> int:
    """Send as much as there is room for, at least one byte; return how much.

    Raises:
        TimeoutError: there was no room before the deadline.
        OSError: the connection broke.
    """
    while True:
        try:
            return connection.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            _wait_until(connection, select.POLLOUT, deadline)


def read_some(connection: socket.socket, deadline: float | None) -> bytes:
    """Return what arrives next; empty at the end of the connection.

    Raises:
        TimeoutError: nothing arrived before the deadline.
    """
    while True:
        _wait_until(connection, select.POLLIN, deadline)
        try:
            return connection.recv(READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        except OSError:  # a daemon killed with our request unread resets the connection, an end as well
            return b""


def _connect(connection: socket.socket, path: str, deadline: float | None) -> None:
    if (seconds := seconds_left(deadline)) is not None:
        # With a timeout of Python's, connect() to a busy Unix socket fails at once with EAGAIN.
        # The kernel's own timeout waits until the listener's queue has room.
        timeval = struct.pack("@ll", int(seconds), int(max(seconds % 1, _MIN_TIMEOUT) * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    connection.connect(path)


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def _wait_until(connection: socket.socket, event: int, deadline: float | None) -> None:
    """Return when the socket is readable or writable, or closed; raise TimeoutError at the deadline."""
    poller = select.poll()
    poller.register(connection, event)
    seconds = seconds_left(deadline)
    if not poller.poll(None if seconds is None else seconds * 1000):
        raise TimeoutError("the daemon reads nothing" if event == select.POLLOUT else "")


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
