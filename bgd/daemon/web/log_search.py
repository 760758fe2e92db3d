"""Search the whole log of an attempt, a step at a time, so that nobody else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from bgd.logfiles import LogReader
from bgd.logsearch import LogSearch, Needle, SearchProgress


async def search_log(log: LogReader, text: str, most: int) -> AsyncGenerator[SearchProgress, None]:
    """Yield what is found of a text up to the present end of a log, with the first `most` offsets."""
    search = LogSearch(log, Needle.of(text), most)
    while progress := await asyncio.to_thread(search.step):
        yield progress
