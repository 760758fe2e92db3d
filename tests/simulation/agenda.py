"""The agenda: simulated time, the two clocks that show it, and what happens when."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from bgd.core.job import Now

EPOCH = 1_700_000_000.0
FIRST_BOOT = 50.0  # seconds that the machine has been up when a history begins

MOST = 50_000  # things that happen in one history; most have some hundred


class Entry:
    """Something that is to happen; `cancel` it and it does not."""

    __slots__ = ("action", "at", "number")

    def __init__(self, at: float, number: int, action: Callable[[], object]) -> None:
        self.at = at
        self.number = number
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None

    def __lt__(self, other: Entry) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Agenda:
    """Does one thing after the other, by its time, and equal times in the order in which they came.

    Attributes:
        time: seconds since the history began; whatever is set or lost, it only grows.
        done: how many things have happened.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self.done = 0
        self._entries: list[Entry] = []
        self._numbers = 0
        self._booted_at = -FIRST_BOOT
        self._wall_offset = EPOCH

    def now(self) -> Now:
        return Now(self.time - self._booted_at, self.time + self._wall_offset)

    def boot(self) -> None:
        """Let the elapsed clock begin again."""
        self._booted_at = self.time

    def set_wall_clock(self, jump: float) -> None:
        """Set the wall clock forward, or back."""
        self._wall_offset += jump

    def after(self, delay: float, action: Callable[[], object]) -> Entry:
        """Put something on the agenda, `delay` seconds from now."""
        self._numbers += 1
        entry = Entry(self.time + max(delay, 0.0), self._numbers, action)
        heapq.heappush(self._entries, entry)
        return entry

    def step(self) -> bool:
        """Do the next thing; False: there is none."""
        while self._entries:
            entry = heapq.heappop(self._entries)
            if entry.action is not None:
                self.time = max(self.time, entry.at)
                self.done += 1
                assert self.done < MOST, "it goes round in circles"
                entry.action()
                return True
        return False

    def step_before(self, time: float) -> bool:
        """Do the next thing if it comes before that time; else let time pass until then."""
        while self._entries and self._entries[0].action is None:
            heapq.heappop(self._entries)
        if self._entries and self._entries[0].at <= time:
            return self.step()
        self.time = max(self.time, time)
        return False
