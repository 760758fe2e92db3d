"""The threads' side of the client: locks, reads and writes with deadlines.

`bgd.client.async_.concurrency` is the same for event loops. None of the coroutines here ever suspends: they
block their thread. So the channel of AsyncClient runs in it without an event loop.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import GeneratorType
from typing import Any, ParamSpec, TypeVar

from bgd.client.connection import Socket, seconds_left
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound=Generator[Any, None, None])

new_lock = threading.Lock

_MIN_TIMEOUT = 0.001  # seconds; the kernel takes 0 for no timeout


async def acquire(lock: threading.Lock, deadline: float | None) -> None:
    """Take a lock; raise TimeoutError if it is not free before the deadline."""
    if not lock.acquire(blocking=False):
        seconds = seconds_left(deadline)
        if not lock.acquire(timeout=-1 if seconds is None else seconds):
            raise TimeoutError


async def try_acquire(lock: threading.Lock) -> bool:
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

    async def wait(self, deadline: float | None) -> None:
        """Wait until it has rung since the last wait; raise TimeoutError at the deadline."""
        await acquire(self._silence, deadline)


new_bell = Bell


# --- sockets ----------------------------------------------------------------------------------------------


async def connected_socket(path: str, deadline: float | None) -> Socket:
    return blocking_socket(path, deadline)


def blocking_socket(path: str, deadline: float | None) -> Socket:
    """Return a connected socket; blocks while the listener's queue is full.

    Raises:
        OSError: no daemon listens there, or the queue was full until the deadline.
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


async def wait_ready(file: socket.socket | int, deadline: float | None, *, to_write: bool = False) -> None:
    """Return when a socket or descriptor is readable or writable, or closed.

    Raises:
        TimeoutError: the deadline has passed.
    """
    poller = select.poll()
    poller.register(file, select.POLLOUT if to_write else select.POLLIN)
    seconds = seconds_left(deadline)
    if not poller.poll(None if seconds is None else seconds * 1000):
        raise TimeoutError


# --- threads and processes --------------------------------------------------------------------------------


CLIENT = "this Client"
running_loop = None


async def sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; it may block this thread."""
    return function(*args, **kwargs)


def closed_at_exit(generator: G) -> G:
    """Return a generator that is closed when the interpreter exits, while closing it still works."""
    import atexit  # noqa: PLC0415 - most programs have no such generator

    if isinstance(generator, GeneratorType):
        atexit.unregister(_close_all)  # if it is not the first
        atexit.register(_close_all)
        _open_generators.add(generator)
    return generator


# --- coroutines without an event loop ---------------------------------------------------------------------


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError(f"{coroutine} waits for an event loop")


def iterate(values: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over a generator that never suspends; close it at the end."""
    step = values.__anext__
    try:
        while True:
            try:
                value = run(step())
            except StopAsyncIteration:
                return
            yield value
    finally:
        run(values.aclose())


def first_view(job_id: int, look_up: Callable[[int], JobView]) -> JobView:
    """Look a job up because an attribute was read."""
    return look_up(job_id)


def _close_all() -> None:
    for generator in list(_open_generators):
        if not generator.gi_running:  # one that another thread runs cannot be closed from here
            generator.close()


_open_generators: weakref.WeakSet[GeneratorType[Any, None, None]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_open_generators.clear)  # they are the parent's
