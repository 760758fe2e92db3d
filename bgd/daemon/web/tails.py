"""Tails: the end of an attempt's log, for a page to show; and the log in full, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from msgspec import Struct

from bgd.daemon.logfiles import MAX_PIECE, LogFile, Piece


class Tail(Struct, frozen=True):
    """The last output of an attempt. `before`: bytes that it wrote before that, and are not here."""

    text: str
    before: int


def tail_of(log: LogFile, most: int) -> Tail:
    """Return about so many bytes of a log's end, from the beginning of a line on. Reads files."""
    end = log.size()
    begin = max(end - most, 0)
    data = bytearray()
    offset = begin
    while offset < end:
        piece = log.read(offset, end - offset)
        if not piece.data:
            break
        if piece.left_out:  # only what follows the gap is one text
            data, begin = bytearray(), piece.offset
        data += piece.data
        offset = piece.offset + len(piece.data)
    if begin:
        line = data.find(b"\n") + 1
        data, begin = data[line:], begin + line
    return Tail(data.decode(errors="replace"), begin)


async def pieces_of(log: LogFile, last: int | None, written: int = 0) -> AsyncGenerator[bytes, None]:
    """Yield a log from its beginning, or its last bytes, to its present end.

    `written`: bytes that the attempt wrote; what the log does not reach to is told as missing.
    """
    end = await asyncio.to_thread(log.size)
    offset = 0 if last is None else max(end - last, 0)
    while offset < end:
        piece = await asyncio.to_thread(log.read, offset, min(end - offset, MAX_PIECE))
        if not piece.data:
            break
        if piece.left_out:
            yield _gap(piece)
        yield piece.data
        offset = piece.offset + len(piece.data)
    missing = await asyncio.to_thread(log.missing, end, written)
    if missing is not None:
        yield _gap(missing)


def _gap(piece: Piece) -> bytes:
    why = f"missing: {piece.missing}" if piece.missing else "left out, over the log's limit"
    return f"\n==> {piece.left_out} bytes {why} <==\n".encode(errors="backslashreplace")
