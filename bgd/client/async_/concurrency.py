"""The event loop's side of the client: locks, reads and writes with deadlines.

`bgd.client.blocking.concurrency` is the same for threads, and `bgd.client.concurrency` says what both have.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from bgd.client.blocking.concurrency import blocking_socket
from bgd.client.connection import Socket, seconds_left
from bgd.errors import BgdError
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")

new_lock = asyncio.Lock


async def acquire(lock: asyncio.Lock, deadline: float | None) -> None:
    """Take a lock; raise TimeoutError if it is not free before the deadline."""
    if not await try_acquire(lock):
        async with asyncio.timeout(seconds_left(deadline)):
            await lock.acquire()


async def try_acquire(lock: asyncio.Lock) -> bool:
    """Take a lock if it is free."""
    return not lock.locked() and await lock.acquire()


class Bell:
    """Wakes the task that waits for it, or that will wait for it next."""

    def __init__(self) -> None:
        self._wakeup = asyncio.get_running_loop().create_future()

    def ring(self) -> None:
        _complete(self._wakeup)

    async def wait(self, deadline: float | None) -> None:
        """Wait until it has rung since the last wait; raise TimeoutError at the deadline."""
        try:
            await _in_time(self._wakeup, deadline)
        finally:
            self._wakeup = asyncio.get_running_loop().create_future()


new_bell = Bell


# --- sockets ----------------------------------------------------------------------------------------------


async def connected_socket(path: str, deadline: float | None) -> socket.socket:
    """Return a connected socket that does not block.

    Raises:
        OSError: no daemon listens there, or the listener's queue was full until the deadline.
    """
    connection = Socket()
    try:
        connection.setblocking(False)
        connection.connect(path)  # of a Unix socket: done, refused, or the queue is full
    except BlockingIOError:
        connection.close()
        # only the kernel knows when the queue has room
        connection = await asyncio.to_thread(blocking_socket, path, deadline)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


async def wait_ready(file: socket.socket | int, deadline: float | None, *, to_write: bool = False) -> None:
    """Return when a socket or descriptor is readable or writable, or closed.

    Raises:
        TimeoutError: the deadline has passed.
    """
    loop = asyncio.get_running_loop()
    is_ready = loop.create_future()
    watch, unwatch = (
        (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    )
    watch(file, _complete, is_ready)
    try:
        await _in_time(is_ready, deadline)
    finally:
        unwatch(file)


async def _in_time(future: asyncio.Future[bool], deadline: float | None) -> None:
    """Wait for a future with no other waiters; asyncio.timeout() takes three times as long."""
    timer = None
    if (seconds := seconds_left(deadline)) is not None:
        timer = future.get_loop().call_later(seconds, _complete, future, False)
    try:
        if not await future:
            raise TimeoutError
    finally:
        if timer is not None:
            timer.cancel()


def _complete(future: asyncio.Future[bool], is_in_time: bool = True) -> None:  # noqa: FBT001, FBT002 - as above
    if not future.done():
        future.set_result(is_in_time)


# --- the event loop ---------------------------------------------------------------------------------------


CLIENT = "this AsyncClient"
running_loop = asyncio.get_running_loop
sleep = asyncio.sleep


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that reads files or waits for processes, without blocking the loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


def first_view(job_id: int, look_up: Callable[[int], Awaitable[JobView]]) -> JobView:
    """Raise BgdError, because an attribute cannot await a look at the job."""
    del look_up
    raise BgdError(f"nothing is known of job {job_id} yet: `await job.refresh()` before its attributes")
