"""The line to the master: what is told while there is none is told by the next snapshot."""

from __future__ import annotations

import asyncio

from bgd.wire.framing import frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, FromLauncher, encode


class Line:
    """`is_slow`: the master does not read what it was told, so that only what must be said should be."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self.is_slow = False

    @property
    def is_attended(self) -> bool:
        return self._transport is not None

    def connect(self, transport: asyncio.WriteTransport) -> None:
        """Talk to this one from now on; an older one is dropped with all it has not yet said or heard."""
        self.disconnect()
        self._transport = transport

    def disconnect(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._transport = None
        self.is_slow = False

    def tell(self, message: FromLauncher) -> None:
        if self._transport is not None:
            self._transport.write(framed(message))


def framed(message: FromLauncher) -> bytes:
    return frame(encode(message), MAX_LAUNCHING_FRAME)
