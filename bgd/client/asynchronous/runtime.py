"""The runtime: what waiting is on an event loop, and to whom a client belongs there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from bgd.errors import BgdError
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound=AsyncGenerator[Any, None])

Lock = asyncio.Lock


class Home:
    """The event loop that a client is used on, from its first use."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_here(self) -> bool:
        """Whether this is the client's process: what is closed in a forked child is its parent's too."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise BgdError if this is another process, or another loop."""
        if not self.is_here:
            raise BgdError("this process was forked from the AsyncClient's own: make a new one after fork")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise BgdError("this AsyncClient is at home on another event loop: make one for each loop")


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what reads files or waits for processes, where that holds up nobody."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def wait_for_descriptor(descriptor: int, seconds: float) -> None:
    """Return as soon as a descriptor can be read, or after so many seconds."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)


def closed_at_exit(steps: G) -> G:
    """Return the generator: its event loop closes it in the end."""
    return steps


def first_view(job_id: int, look: Callable[[int], Awaitable[JobView]]) -> JobView:
    """Raise BgdError: an attribute cannot be awaited, so it cannot look at the job."""
    del look
    raise BgdError(f"job {job_id} has not been looked at yet: `await job.refresh()` before its attributes")
