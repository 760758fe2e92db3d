"""Waiting with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.support import DEADLINE

T = TypeVar("T")


async def soon(awaited: Awaitable[T]) -> T:
    """Await with a deadline."""
    return await asyncio.wait_for(awaited, DEADLINE)


async def until(condition: Callable[[], object]) -> None:
    """Wait with a deadline for what tells nobody that it has happened, as a thread that deletes files."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
