"""A visitor who knocks at a daemon's socket all the time, and counts how often somebody opens."""

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

PAUSE = 0.01  # s between two visits


class Visitor:
    """Connects and asks something, again and again.

    Attributes:
        answered, refused: how often.
        longest_gap: seconds between two answers with a refusal in between.
    """

    def __init__(self, socket: Path) -> None:
        self.answered = self.refused = 0
        self.longest_gap = 0.0
        self._socket = socket
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _visit(self) -> None:
        answered_at, was_refused = time.monotonic(), False
        # he stays until somebody opens again, so that the last gap counts too
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
