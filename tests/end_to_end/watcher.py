"""A watcher that reads every event, whoever is killed meanwhile."""

from __future__ import annotations

import threading
from contextlib import closing

from bgd.wire.replies import EventsPart
from bgd.wire.requests import GetEvents
from bgd.wire.views import EventView
from tests.end_to_end.chaos import Caller, Gone, Rig

PAUSE = 0.05  # seconds between two reads, so that the watcher is no load


class Watcher:
    """Reads all events, across all deaths of the daemon."""

    def __init__(self, rig: Rig) -> None:
        self.events: list[EventView] = []
        self._rig = rig
        self._finishing = threading.Event()
        self._until: int | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)  # a failing test leaves it behind
        self._thread.start()

    def finish(self, last: int) -> None:
        """Return when the event `last` was read; call this when nothing is killed any more."""
        self._until = last
        self._finishing.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), f"event {last} has not come"

    def _watch(self) -> None:
        last = 0
        while self._until is None or last < self._until:
            try:
                with closing(Caller(self._rig.socket)) as caller:
                    reply = caller.ask(GetEvents(id=1, since=last))
                    while isinstance(reply, EventsPart):
                        assert not reply.lost
                        self.events += reply.events
                        last = reply.last
                        reply = caller.next()
            except Gone:
                pass
            self._finishing.wait(PAUSE)
