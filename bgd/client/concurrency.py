"""What a channel needs from threads or an event loop.

`bgd.client.blocking.concurrency` and `bgd.client.async_.concurrency` provide it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lock(Protocol):
    """A lock; `Concurrency.acquire` takes it."""

    def locked(self) -> bool: ...
    def release(self) -> None: ...


class Bell(Protocol):
    """Wakes the caller that waits for it, or the next one that does."""

    def ring(self) -> None: ...
    async def wait(self, deadline: float | None) -> None:
        """Wait until it has rung since the last wait; raise TimeoutError at the deadline."""


class Concurrency(Protocol):
    """Locks, and reads and writes with deadlines on the monotonic clock; None: no limit."""

    CLIENT: str  # "this Client" in messages

    @property
    def running_loop(self) -> Callable[[], object] | None:
        """Return the event loop of the caller. None: threads have none."""

    def new_lock(self) -> Lock: ...
    def new_bell(self) -> Bell: ...

    async def acquire(self, lock: Any, deadline: float | None) -> None:
        """Take a lock; raise TimeoutError if it is not free before the deadline."""

    async def try_acquire(self, lock: Any) -> bool:
        """Take a lock if it is free."""

    async def connected_socket(self, path: str, deadline: float | None) -> socket.socket:
        """Return a connected socket.

        Raises:
            OSError: no daemon listens there, or the listener's queue was full until the deadline.
        """

    async def wait_ready(
        self, file: socket.socket | int, deadline: float | None, *, to_write: bool = False
    ) -> None:
        """Return when a socket or descriptor is readable or writable, or closed.

        Raises:
            TimeoutError: the deadline has passed.
        """

    async def sleep(self, seconds: float) -> None: ...

    async def run_blocking(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that reads files or waits for processes."""
