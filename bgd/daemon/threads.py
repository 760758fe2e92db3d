"""Threads: what works beside the loop. All are there from the start, so that none can be missing later."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from threading import Barrier
from typing import ParamSpec, TypeVar

from bgd.errors import Full
from bgd.units import format_size

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 8  # of the daemon, for files: what is asked of more waits


@contextmanager
def thread_pool(loop: asyncio.AbstractEventLoop, count: int = THREADS) -> Iterator[None]:
    """Have `asyncio.to_thread` served by threads that run already, for the time of the block.

    A pool that starts them when they are needed fails then, where the user has as many processes as may be:
    in the midst of an answer, or of the daemon's own work.

    Raises:
        Full: they cannot be started now.
    """
    pool = _started(count)
    loop.set_default_executor(pool)
    try:
        yield
    finally:
        pool.shutdown()
        loop.set_default_executor(None)  # type: ignore[arg-type]  # or the loop starts a thread to end the pool


async def run_to_completion(
    discard: Callable[[R], object] | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a function on a thread; if the caller is cancelled, wait until the function has returned.

    For a function that returns or uses a descriptor: `asyncio.to_thread` would drop the result, or let the
    caller close the descriptor while the thread still reads it. `discard` gets the result that a cancelled
    caller cannot take.
    """
    running = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):  # it is raised below, once
                await asyncio.wait([running])
        if running.exception() is None and discard is not None:
            discard(running.result())
        raise


def cannot_start_thread(error: Exception) -> Full:
    """Return what is to be said where Python says "can't start new thread"."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    remedy = "let the user have more processes (ulimit -u, TasksMax=)"
    if soft != resource.RLIM_INFINITY:
        remedy += f" or bgd more than {format_size(soft)} of addresses (ulimit -v)"
    return Full(f"no thread can be started ({error}): try again later, or {remedy}")


def _started(count: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(count, thread_name_prefix="beside")
    all_there = Barrier(count)  # a thread that waits here is not idle, so each one is started
    try:
        for _ in range(count):
            pool.submit(all_there.wait)
    except RuntimeError as error:
        all_there.abort()
        pool.shutdown()
        raise cannot_start_thread(error) from error
    return pool
