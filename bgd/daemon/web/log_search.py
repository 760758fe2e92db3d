"""Search the whole log of an attempt, a step at a time, so that nobody else waits for it."""

from __future__ import annotations

import asyncio
import string
from collections.abc import AsyncGenerator

from msgspec import Struct

from bgd.daemon.logs import LogReader

STEP = 16 * 1024 * 1024  # bytes that one call on a thread searches: some hundredths of a second


class SearchProgress(Struct, frozen=True):
    """What a search has found so far: how often the text occurs, and the offsets that are new.

    `at` and `size`: the bytes of the log that are searched, and all of them.
    """

    count: int
    hits: list[int]
    at: int
    size: int


class Needle(Struct, frozen=True):
    """A text to search for, which has no newline.

    Upper and lower case differ only if the text has a capital; of letters beyond A to Z they always do.
    """

    text: str
    data: bytes
    ignores_case: bool

    @classmethod
    def of(cls, text: str) -> Needle:
        return cls(text, text.encode(errors="replace"), text == text.lower())

    def comparable(self, data: bytes) -> bytes:
        """Return data in which `self.data` stands wherever the text occurs."""
        return data.lower() if self.ignores_case else data

    def find_in(self, text: str) -> list[tuple[int, int]]:
        """Return where the text begins and ends in a decoded line."""
        found: list[tuple[int, int]] = []
        compared = text.translate(_LOWER) if self.ignores_case else text
        end = 0
        while (begin := compared.find(self.text, end)) >= 0:
            end = begin + len(self.text)
            found.append((begin, end))
        return found


_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}  # as bytes.lower does


async def search_log(log: LogReader, text: str, most: int) -> AsyncGenerator[SearchProgress, None]:
    """Yield what is found of a text up to the present end of a log, with the first `most` offsets."""
    search = LogSearch(log, Needle.of(text), most)
    while progress := await asyncio.to_thread(search.step):
        yield progress


class LogSearch:
    """Counts a text and notes where it occurs."""

    def __init__(self, log: LogReader, needle: Needle, most: int) -> None:
        self._log = log
        self._needle = needle
        self._text = needle.data
        self._most = most
        self._found = 0  # offsets returned
        self._count = 0
        self._at = 0
        self._size: int | None = None
        self._rest = b""  # the bytes before `_at` that may belong to an occurrence

    def step(self) -> SearchProgress | None:
        """Search the next STEP bytes; return None after the end. Blocks: call it on a thread."""
        if self._size is None:
            self._size = self._log.size()
        elif self._at >= self._size:
            return None
        hits: list[int] = []
        stop = min(self._at + STEP, self._size)
        for offset, block in self._log.blocks(self._at, stop):
            if offset != self._at:  # behind a gap
                self._go_on_at(offset, hits)
            self._add(block, hits)
        if self._at < stop or stop == self._size:
            self._go_on_at(stop, hits)
        return SearchProgress(self._count, hits, self._at, self._size)

    def _go_on_at(self, offset: int, hits: list[int]) -> None:
        hits += self._search(self._rest, len(self._rest))
        self._rest, self._at = b"", offset

    def _add(self, block: bytes, hits: list[int]) -> None:
        """Search a block up to its last newline; an occurrence ends before that, or begins behind it."""
        data = self._rest + self._needle.comparable(block)
        self._at += len(block)
        cut = data.rfind(b"\n") + 1
        if not cut:
            # the line is longer than a block: search all, and keep what may begin an occurrence
            behind_last = len(data.split(self._text)[-1])
            cut = len(data) - min(behind_last, len(self._text) - 1)
        self._rest = data[cut:]
        hits += self._search(data[:cut], len(data))

    def _search(self, data: bytes, length: int) -> list[int]:
        """Count occurrences; return the offsets of the first. `data` begins `length` bytes before `_at`."""
        self._count += data.count(self._text)
        hits: list[int] = []
        index = 0
        while self._found < self._most and (index := data.find(self._text, index)) >= 0:
            hits.append(self._at - length + index)
            index += len(self._text)
            self._found += 1
        return hits
