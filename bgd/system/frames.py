"""Frames of a connection: all frames of one turn of the event loop are one write."""

from __future__ import annotations

import asyncio

from bgd.wire.framing import frame


class FrameWriter:
    """Writes frames in few writes: each write wakes the other end, which is expensive.

    Attributes:
        transport: what is written to; None: there is no connection, and what is sent is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes of a payload
        self._loop = asyncio.get_running_loop()  # kept, because finding it takes a system call
        self.transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []
        self._is_flush_due = False  # at the end of this turn of the loop

    def send(self, payload: bytes) -> None:
        """Write a payload at the end of this turn of the loop, together with others."""
        self.add(payload)
        self.flush_soon()

    def add(self, payload: bytes) -> None:
        """Write a payload with the next one that `send` takes, or with the next flush."""
        if self.transport is not None:
            self._unsent.append(frame(payload, self._limit))

    def flush_soon(self) -> None:
        """Write everything unsent when everything has run that is ready to run now."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything unsent now."""
        self._is_flush_due = False
        # the other end may be gone already: uvloop raises on such a write, and asyncio logs it
        if self.transport is not None and self._unsent and not self.transport.is_closing():
            self.transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def abort(self) -> None:
        """Close the connection at once; drop everything unread and unsent."""
        if self.transport is not None:
            self.transport.abort()
        self.transport = None
        self._unsent.clear()
