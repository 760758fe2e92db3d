"""Slots: which numbers are taken, and how many slots jobs take together."""

from __future__ import annotations

import heapq


class Slots:
    """Slots by number, counted from 1. A job that takes several has the number of one.

    Attributes:
        total: how many slots jobs may take together.
        taken: how many they have taken.
    """

    def __init__(self) -> None:
        self.total = self.taken = 0
        self._numbers: set[int] = set()  # those that are taken
        self._returned: list[int] = []  # a heap of free numbers; some may be taken since
        self._unused = 1

    def take(self, size: int) -> int:
        """Take slots for a job; return their number, the smallest free one."""
        number = self._smallest()
        self.retake(number, size)
        return number

    def retake(self, number: int, size: int) -> None:
        """Take slots by their number, for example those of a restored job."""
        self._numbers.add(number)
        self.taken += size

    def give_back(self, number: int, size: int) -> None:
        """Release the slots of a job."""
        self._numbers.discard(number)
        self.taken -= size
        if number < self._unused:
            heapq.heappush(self._returned, number)

    def _smallest(self) -> int:
        while self._returned:
            number = heapq.heappop(self._returned)
            if number not in self._numbers:
                return number
        while self._unused in self._numbers:
            self._unused += 1
        self._unused += 1
        return self._unused - 1
