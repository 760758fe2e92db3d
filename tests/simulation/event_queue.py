"""The event queue of the simulation: simulated time, the two clocks that show it, and events to come."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from bgd.core.job import Now

EPOCH = 1_700_000_000.0
FIRST_BOOT = 50.0  # seconds since boot when a history begins

MAX_EVENTS = 50_000  # of one history; most have some hundred


class QueuedEvent:
    """An action at a time; it can be cancelled."""

    __slots__ = ("action", "at", "number")

    def __init__(self, at: float, number: int, action: Callable[[], object]) -> None:
        self.at = at
        self.number = number
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None

    def __lt__(self, other: QueuedEvent) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class EventQueue:
    """Runs events in the order of their times; events of one time in the order in which they were added.

    Attributes:
        time: seconds since the history began; it only grows, also when clocks are set.
        done: number of events so far.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self.done = 0
        self._entries: list[QueuedEvent] = []
        self._numbers = 0
        self._booted_at = -FIRST_BOOT
        self._wall_offset = EPOCH

    def now(self) -> Now:
        return Now(self.time - self._booted_at, self.time + self._wall_offset)

    def boot(self) -> None:
        """Restart the elapsed clock."""
        self._booted_at = self.time

    def set_wall_clock(self, jump: float) -> None:
        """Move the wall clock forward or back."""
        self._wall_offset += jump

    def after(self, delay: float, action: Callable[[], object]) -> QueuedEvent:
        """Add an event `delay` seconds from now."""
        self._numbers += 1
        entry = QueuedEvent(self.time + max(delay, 0.0), self._numbers, action)
        heapq.heappush(self._entries, entry)
        return entry

    def step(self) -> bool:
        """Run the next event; return False if there is none."""
        while self._entries:
            entry = heapq.heappop(self._entries)
            if entry.action is not None:
                self.time = max(self.time, entry.at)
                self.done += 1
                assert self.done < MAX_EVENTS, "the history does not end"
                entry.action()
                return True
        return False

    def step_before(self, time: float) -> bool:
        """Run the next event if it comes before `time`; else let time pass until then and return False."""
        while self._entries and self._entries[0].action is None:
            heapq.heappop(self._entries)
        if self._entries and self._entries[0].at <= time:
            return self.step()
        self.time = max(self.time, time)
        return False
