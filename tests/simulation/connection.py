"""The connection between a simulated supervisor and launcher: bytes come late, in order, or never."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, FromLauncher, decode_to_launcher, encode
from tests.simulation.event_queue import EventQueue
from tests.simulation.launcher import SimulatedLauncher
from tests.simulation.loop import SimulatedLoop

DELAYS = (0.0, 0.0, 0.0, 0.0001, 0.002, 0.05)  # seconds


class SimulatedConnection(asyncio.Transport):
    """The supervisor's transport; `launcher` is at the other end as long as it lives."""

    def __init__(
        self,
        event_queue: EventQueue,
        dice: random.Random,
        loop: SimulatedLoop,
        launcher: SimulatedLauncher,
        protocol: asyncio.Protocol,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._launcher: SimulatedLauncher | None = launcher
        self._protocol = protocol
        self._reader = FrameReader(MAX_LAUNCHING_FRAME)
        self._down = _Direction(event_queue, dice)
        self._up = _Direction(event_queue, dice)
        self._is_closing = False

    def say(self, message: FromLauncher) -> None:
        """Send a message from the launcher to the supervisor."""
        data = frame(encode(message), MAX_LAUNCHING_FRAME)
        self._up.carry(lambda: self._loop.run(self._protocol.data_received, data))

    def lose_launcher(self) -> None:
        """Let the supervisor read what was sent, then EOF."""
        self._launcher = None
        self._up.carry(lambda: self._loop.run(self._lost))

    def lose_supervisor(self) -> None:
        """Let the launcher read what was sent, then EOF."""
        self._down.carry(self._hang_up)

    # --- the transport of the supervisor -----------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        held = bytes(data)
        self._down.carry(lambda: self._deliver(held))

    def write_eof(self) -> None:
        self._down.carry(self._hang_up)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Buffer nothing in any case: what is written is on its way."""

    def is_closing(self) -> bool:
        return self._is_closing

    def abort(self) -> None:
        self._is_closing = True
        self._hang_up()

    # --- the launcher's end ------------------------------------------------------------------------------

    def _deliver(self, data: bytes) -> None:
        for payload in self._reader.feed(data):
            if self._launcher is not None:
                self._launcher.receive(decode_to_launcher(payload), self.say)

    def _hang_up(self) -> None:
        if self._launcher is not None:
            self._launcher.lose(self.say)
            self.lose_launcher()

    def _lost(self) -> None:
        self._is_closing = True
        self._protocol.connection_lost(None)


class _Direction:
    """Delivers bytes in order, each write some time after it was sent."""

    def __init__(self, event_queue: EventQueue, dice: random.Random) -> None:
        self._event_queue = event_queue
        self._dice = dice
        self._in_transit: deque[Callable[[], None]] = deque()
        self._free_at = 0.0

    def carry(self, arrive: Callable[[], None]) -> None:
        self._free_at = max(self._free_at, self._event_queue.time + self._dice.choice(DELAYS))
        self._in_transit.append(arrive)
        self._event_queue.after(self._free_at - self._event_queue.time, self._in_transit.popleft())
