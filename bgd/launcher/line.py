"""The line to the master: what is told while there is none is told by the next snapshot."""

from __future__ import annotations

import asyncio

from bgd.wire.framing import frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, FromLauncher, encode


class Line:
    """`is_slow`: the master does not read what it was told, so that only what must be said should be.

    Each time it is spoken to the master wakes up, which costs as much as a small part of a job.
    """

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._unsaid: list[bytes] = []
        self._is_due = False  # to speak, at the end of this turn of the loop
        self._moment: asyncio.TimerHandle | None = None
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
        self._unsaid.clear()
        self.is_slow = False

    def tell(self, message: FromLauncher) -> None:
        """Say it with all else that is to be said by the end of this turn of the loop."""
        if self._transport is not None:
            self._unsaid.append(framed(message))
            if not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self.speak)

    def tell_soon(self, message: FromLauncher) -> None:
        """Say it with the next thing that must be said, or in a moment: only people wait for it."""
        if self._transport is not None:
            self._unsaid.append(framed(message))
            if self._moment is None:
                self._moment = asyncio.get_running_loop().call_later(_MOMENT, self._pass_moment)

    def speak(self) -> None:
        """Say all that is unsaid."""
        self._is_due = False
        # to a master that has just died and is not yet known to be lost, asyncio logs every word
        if self._transport is not None and self._unsaid and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsaid))
        self._unsaid.clear()

    def _pass_moment(self) -> None:
        self._moment = None
        self.speak()


_MOMENT = 0.01  # seconds


def framed(message: FromLauncher) -> bytes:
    return frame(encode(message), MAX_LAUNCHING_FRAME)
