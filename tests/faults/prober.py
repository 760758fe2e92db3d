"""Connect to a daemon's socket all the time, and count how often it answers."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Self

from bgd.wire.replies import Info
from bgd.wire.requests import GetInfo
from tests.end_to_end.chaos import Caller, Gone
from tests.support import DEADLINE

PAUSE = 0.01  # seconds between two connections


class Prober:
    """A client that connects and asks again and again.

    Attributes:
        answered, refused: number of connections.
        longest_gap: seconds between two answers with a refusal in between.
    """

    def __init__(self, socket: Path) -> None:
        self.answered = self.refused = 0
        self.longest_gap = 0.0
        self._socket = socket
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _probe(self) -> None:
        answered_at, was_refused = time.monotonic(), False
        # goes on until the daemon answers again, so that the last gap counts too
        while not self._stop.wait(PAUSE) or (was_refused and time.monotonic() < answered_at + DEADLINE):
            try:
                with closing(Caller(self._socket)) as caller:
                    assert isinstance(caller.ask(GetInfo(1)), Info)
            except Gone:
                self.refused += 1
                was_refused = True
                continue
            self.answered += 1
            if was_refused:
                self.longest_gap = max(self.longest_gap, time.monotonic() - answered_at)
            answered_at, was_refused = time.monotonic(), False
