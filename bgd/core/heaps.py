"""Orders: what runs next, what is due next, which slot is free.

Heaps forget lazily: an entry whose job has moved on stays until it comes up, or until so many died that a
sweep is worth it, so that no operation is linear in the number of jobs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from bgd.core.job import JobId

_WORTH_SWEEPING = 64  # dead entries below this are cheaper to keep than to sweep


class ReadyHeap:
    """Queued jobs by priority, the highest first, and by id (that is, in submit order) among equals.

    `is_live(id, priority)` says whether an entry still stands for a queued job of that priority.
    """

    def __init__(self, is_live: Callable[[JobId, int], bool]) -> None:
        self._is_live = is_live
        self._ids: dict[int, list[JobId]] = {}  # one small heap a priority: an entry costs 8 bytes
        self._priorities: list[int] = []  # heap of the negated keys of _ids
        self._entries = 0
        self._dead = 0  # since the last sweep, those that came up by themselves included

    def push(self, job_id: JobId, priority: int) -> None:
        ids = self._ids.get(priority)
        if ids is None:
            ids = self._ids[priority] = []
            heapq.heappush(self._priorities, -priority)
        heapq.heappush(ids, job_id)
        self._entries += 1

    def top(self) -> tuple[int, JobId] | None:
        """Return (-priority, id) of the job that runs next, smaller is sooner; None when empty."""
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
        """Take the top away; only after `top` returned one."""
        heapq.heappop(self._ids[-self._priorities[0]])
        self._entries -= 1

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
            self._ids[priority] = living  # sorted is a heap
        self._entries = sum(map(len, self._ids.values()))
        self._dead = 0


class DueHeap:
    """Scheduled jobs by the time they are due on the elapsed clock.

    `is_live(id, due)` says whether the job is still scheduled for just that time.
    """

    def __init__(self, is_live: Callable[[JobId, float], bool]) -> None:
        self._is_live = is_live
        self._heap: list[tuple[float, JobId]] = []
        self._dead = 0  # as above

    def push(self, job_id: JobId, due: float) -> None:
        heapq.heappush(self._heap, (due, job_id))

    def next_at(self) -> float | None:
        """Return when the next job is due, None when none waits."""
        while self._heap:
            due, job_id = self._heap[0]
            if self._is_live(job_id, due):
                return due
            heapq.heappop(self._heap)
        return None

    def pop_due(self, elapsed: float) -> JobId | None:
        """Take the next job that is due at `elapsed`, None when none is."""
        if not self._heap or self._heap[0][0] > elapsed:
            return None
        due = self.next_at()
        if due is None or due > elapsed:
            return None
        return heapq.heappop(self._heap)[1]

    def forget(self) -> None:
        self._dead += 1
        if self._dead > _WORTH_SWEEPING and self._dead * 2 > len(self._heap):
            self._heap = sorted({(due, job_id) for due, job_id in self._heap if self._is_live(job_id, due)})
            self._dead = 0

    def __len__(self) -> int:
        return len(self._heap)


class SlotPool:
    """Which numbers from 1 up are taken; hands out the smallest free one."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._returned: list[int] = []  # heap; may name numbers that `take` has taken since
        self._unused = 1

    def take_smallest(self) -> int:
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
        """Take a certain number, as one that a restored job holds."""
        self._taken.add(slot)

    def give_back(self, slot: int) -> None:
        self._taken.discard(slot)
        if slot < self._unused:
            heapq.heappush(self._returned, slot)

    def __len__(self) -> int:
        return len(self._taken)
