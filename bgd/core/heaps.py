"""Heaps: which queued job is next, which job is due next, and which slot number is the smallest free one.

Heaps forget lazily. An entry whose job has moved on stays until it comes to the top, or until so many entries
died that a sweep is worth it. So no operation takes time in proportion to the number of jobs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

from bgd.core.job import JobId

_LOOKS_PER_JOB = 4  # entries that are looked at to count one job, on average at most
_WORTH_SWEEPING = 64  # dead entries; fewer are cheaper to keep than to sweep


class ReadyHeap:
    """Queued jobs, highest priority first; among equals lowest id first, which is the order of submission.

    `is_live(id, priority)` tells whether an entry still stands for a queued job of that priority.
    """

    def __init__(self, is_live: Callable[[JobId, int], bool]) -> None:
        self._is_live = is_live
        self._ids: dict[int, list[JobId]] = {}  # one small heap a priority: an entry costs 8 bytes
        self._priorities: list[int] = []  # a heap of the negated keys of _ids
        self._entries = 0
        self._dead = 0  # since the last sweep, including those that came to the top by themselves

    def push(self, job_id: JobId, priority: int) -> None:
        """Add a queued job."""
        ids = self._ids.get(priority)
        if ids is None:
            ids = self._ids[priority] = []
            heapq.heappush(self._priorities, -priority)
        heapq.heappush(ids, job_id)
        self._entries += 1

    def top(self) -> tuple[int, JobId] | None:
        """Return (-priority, id) of the next job, where smaller means sooner; None if there is none."""
        while self._priorities:
            priority = -self._priorities[0]
            ids = self._ids[priority]
            while ids:
                if self._is_live(ids[0], priority):
                    return -priority, ids[0]
                heapq.heappop(ids)
                self._entries -= 1
            heapq.heappop(self._priorities)
            del self._ids[priority]
        return None

    def pop(self) -> None:
        """Remove the top. Call this only after `top` returned one."""
        heapq.heappop(self._ids[-self._priorities[0]])
        self._entries -= 1

    def first_of(self, priority: int) -> JobId | None:
        """Return the first job of this priority; None if there is none."""
        ids = self._ids.get(priority, [])
        while ids and not self._is_live(ids[0], priority):
            heapq.heappop(ids)
            self._entries -= 1
        return ids[0] if ids else None

    def first_before(self, job_id: JobId, priority: int, most: int) -> set[JobId] | None:
        """Return up to `most` jobs that come before this one.

        None: so many entries are dead that looking at all of them would take long.
        """
        before: set[JobId] = set()  # a job may have two entries
        looks = _LOOKS_PER_JOB * most
        for other, ids in self._ids.items():
            places = [0] if other >= priority else []
            while places:
                place = places.pop()
                if place >= len(ids) or (other == priority and ids[place] >= job_id):
                    continue  # in a heap, all below this place come later as well
                looks -= 1
                if self._is_live(ids[place], other):
                    before.add(ids[place])
                if len(before) >= most:
                    return before
                if not looks:
                    return None
                places += (2 * place + 1, 2 * place + 2)
        return before

    def forget(self) -> None:
        """Note that an entry died; sweep when half of them may be dead."""
        self._dead += 1
        if self._dead > _WORTH_SWEEPING and self._dead * 2 > self._entries:
            self._sweep()

    def __len__(self) -> int:
        return self._entries

    def _sweep(self) -> None:
        for priority, ids in list(self._ids.items()):
            living = sorted({job_id for job_id in ids if self._is_live(job_id, priority)})
            self._ids[priority] = living  # a sorted list is a heap
        self._entries = sum(map(len, self._ids.values()))
        self._dead = 0


K = TypeVar("K", bound=int | str)


class DueHeap(Generic[K]):
    """Jobs or names by the time at which something happens to them, earliest first.

    `is_live(key, due)` tells whether that time is still the key's.
    """

    def __init__(self, is_live: Callable[[K, float], bool]) -> None:
        self._is_live = is_live
        self._heap: list[tuple[float, K]] = []
        self._dead = 0  # as in ReadyHeap

    def push(self, key: K, due: float) -> None:
        """Add a job or a name."""
        heapq.heappush(self._heap, (due, key))

    def next_at(self) -> float | None:
        """Return when the next one is due, None if there is none."""
        while self._heap:
            due, key = self._heap[0]
            if self._is_live(key, due):
                return due
            heapq.heappop(self._heap)
        return None

    def pop_due(self, time: float) -> K | None:
        """Remove and return the next one that is due at `time`, None if none is."""
        if not self._heap or self._heap[0][0] > time:
            return None
        due = self.next_at()
        if due is None or due > time:
            return None
        return heapq.heappop(self._heap)[1]

    def forget(self) -> None:
        """Note that an entry died; sweep when half of them may be dead."""
        self._dead += 1
        if self._dead > _WORTH_SWEEPING and self._dead * 2 > len(self._heap):
            self._heap = sorted({(due, key) for due, key in self._heap if self._is_live(key, due)})
            self._dead = 0

    def __len__(self) -> int:
        return len(self._heap)


class SlotPool:
    """Slot numbers, counted from 1: which are taken, and which is the smallest free one."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._returned: list[int] = []  # a heap; may hold numbers that `take` has taken since
        self._unused = 1

    def take_smallest(self) -> int:
        """Take the smallest free number and return it."""
        while self._returned:
            slot = heapq.heappop(self._returned)
            if slot not in self._taken:
                self._taken.add(slot)
                return slot
        while self._unused in self._taken:
            self._unused += 1
        slot = self._unused
        self._unused += 1
        self._taken.add(slot)
        return slot

    def take(self, slot: int) -> None:
        """Take a certain number, for example that of a restored job."""
        self._taken.add(slot)

    def give_back(self, slot: int) -> None:
        """Make a number free again."""
        self._taken.discard(slot)
        if slot < self._unused:
            heapq.heappush(self._returned, slot)

    def __len__(self) -> int:
        return len(self._taken)
