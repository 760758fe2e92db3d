"""Waiting with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from tests.support import DEADLINE

T = TypeVar("T")


async def soon(awaited: Awaitable[T]) -> T:
    """Await with a deadline."""
    return await asyncio.wait_for(awaited, DEADLINE)
