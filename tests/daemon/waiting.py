"""Wait with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.support import DEADLINE

T = TypeVar("T")


async def soon(awaited: Awaitable[T]) -> T:
    """Await with a deadline; return the result."""
    return await asyncio.wait_for(awaited, DEADLINE)


async def until(condition: Callable[[], object]) -> None:
    """Poll a condition, with a deadline, that nothing announces: a thread has deleted files, for example."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
