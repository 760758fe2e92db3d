"""Threads: pools for blocking calls, whose threads all start with the daemon."""

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
from bgd.text.units import format_size

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 8  # for reading and writing files; further calls wait


@contextmanager
def thread_pool(loop: asyncio.AbstractEventLoop, count: int = THREADS) -> Iterator[None]:
    """Give `asyncio.to_thread` a pool while the block lasts; see `start_pool`."""
    pool = start_pool(count)
    loop.set_default_executor(pool)
    try:
        yield
    finally:
        pool.shutdown()
        loop.set_default_executor(None)  # type: ignore[arg-type]  # else the loop starts a thread to shut the pool down


async def run_to_completion(
    discard: Callable[[R], object] | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a function on a thread; if the caller is cancelled, still wait until the function has returned.

    Use it for a function that returns or uses a descriptor: `asyncio.to_thread` would drop the result, or let
    the caller close the descriptor while the thread still reads it. `discard` is called with the result that
    a cancelled caller cannot take.
    """
    running = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):  # raised once, below
                await asyncio.wait([running])
        if running.exception() is None and discard is not None:
            discard(running.result())
        raise


def cannot_start_thread(error: Exception) -> Full:
    """Return the error to raise when Python says "can't start new thread"."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    remedy = "let the user have more processes (ulimit -u, TasksMax=)"
    if soft != resource.RLIM_INFINITY:
        remedy += f" or bgd more than {format_size(soft)} of address space (ulimit -v)"
    return Full(f"no thread can be started ({error}): try again later, or {remedy}")


def start_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool whose threads all run already.

    A pool that starts threads on demand fails in the middle of a request once the user has as many processes
    as the system allows.

    Raises:
        Full: the threads cannot be started now.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="beside")
    all_started = Barrier(count)  # each thread waits here, so the pool starts another for each call
    try:
        for _ in range(count):
            pool.submit(all_started.wait)
    except RuntimeError as error:
        all_started.abort()
        pool.shutdown()
        raise cannot_start_thread(error) from error
    return pool
