"""Slots: which are taken, and for which of them jobs may be prefetched."""

from __future__ import annotations

import heapq
from math import inf

from msgspec import Struct

from bgd.core.job import SHORT_RUN

NONE = -inf, 0  # more urgent than any job
MAX_PREFETCHED = 7  # jobs that wait behind the one that runs in a slot


class Recall(Struct, frozen=True):
    """Let the launcher return the prefetched attempts that have not begun."""


class Slots:
    """Slots by number, counted from 1. A job that takes several has the number of one.

    While the jobs of a slot are short, more jobs may be *prefetched* for it: they get its number as well,
    wait at the launcher, and begin one after the other, so that no slot waits for bgd.

    Attributes:
        total: how many slots jobs may take together.
        taken: how many they have taken; prefetched jobs take none.
        prefetched: how many jobs have a number that another job had before.
        prefetches: whether the launcher can hold jobs back until their slot is free.
        tells_starts: whether somebody is told when a job starts. Then none may come back.
        recalls: whether the prefetched jobs that have not begun have to come back.
        last: no prefetched job is less urgent, as (-priority, id), except recalled ones; NONE: there is none.
        short: how many jobs may be prefetched for each slot whose latest job was short.
    """

    def __init__(self) -> None:
        self.total = self.taken = self.prefetched = 0
        self.prefetches = self.tells_starts = self.recalls = False
        self.last: tuple[float, int] = NONE
        self.short: dict[int, int] = {}
        self._users: dict[int, int] = {}  # how many jobs have each number that is not free
        self._sizes: dict[int, int] = {}  # how many slots these take together
        self._returned: list[int] = []  # a heap of free numbers; some may be taken since
        self._unused = 1
        self._ended = 0, -inf  # the slot of the job that ended last, and when

    def take(self, size: int, urgency: tuple[int, int]) -> int:
        """Take slots for a job; return their number: the smallest free one, or else that of another job."""
        number = self._ended[0] if self.taken >= self.total else self._smallest()
        self.retake(number, size, urgency)
        return number

    def retake(self, number: int, size: int, urgency: tuple[int, int]) -> None:
        """Take slots by their number, for example those of a restored job."""
        if number not in self._users:
            self._users[number] = self._sizes[number] = 0
        else:
            self.prefetched += 1
            self.last = max(self.last, urgency)
        self._users[number] += 1
        if size > 1 and number in self.short:  # those that are prefetched take one
            del self.short[number]
        if size > self._sizes[number]:
            self.taken += size - self._sizes[number]
            self._sizes[number] = size

    def give_back(self, number: int, size: int, seconds: float | None, now: float) -> None:
        """Release the slots of a job. `seconds`: how long it ran; None: unknown, or it has not begun."""
        self._ended = number, now
        is_first = size == self._sizes[number]  # not behind a larger one
        if is_first and seconds is not None and seconds < SHORT_RUN:
            self.short[number] = min(2 * self.short.get(number, 0) + 1, MAX_PREFETCHED)
        elif number in self.short:
            del self.short[number]
        self._users[number] -= 1
        if self._users[number]:
            self.prefetched -= 1
            self.last = self.last if self.prefetched else NONE
            if size > 1:  # those behind it take one
                self.taken -= self._sizes[number] - 1
                self._sizes[number] = 1
            return
        self.taken -= self._sizes[number]
        del self._users[number], self._sizes[number]
        if number < self._unused:
            heapq.heappush(self._returned, number)

    def may_prefetch(self, now: float) -> bool:
        """Return whether `take` may be called while no slot is free.

        Jobs are prefetched only for a slot whose job ends now: a job that runs already may take long.
        """
        number, ended_at = self._ended
        may = ended_at == now and 0 < self._users.get(number, 0) <= self.short.get(number, 0)
        return may and self.prefetches and self.taken == self.total

    def recall(self) -> None:
        """Ask for the prefetched jobs, because others may have to start before them."""
        self.recalls = self.recalls or self.prefetched > 0
        self.last = NONE

    def spare_equal_ones(self) -> None:
        """Let a job that comes back recall no later ones of its priority."""
        self.last = self.last[0], 0

    def _smallest(self) -> int:
        while self._returned:
            number = heapq.heappop(self._returned)
            if number not in self._users:
                return number
        while self._unused in self._users:
            self._unused += 1
        self._unused += 1
        return self._unused - 1
