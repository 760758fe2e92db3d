"""Heaps: the next queued job, and the next due job.

Heaps forget lazily. An entry whose job has moved on stays until it reaches the top, or until enough entries
are dead for a sweep. So on average no operation takes time proportional to the number of jobs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from bgd.core.job import JobId

_LOOKS_PER_JOB = 4  # entries to visit per counted job, at most, on average
_WORTH_SWEEPING = 64  # dead entries; fewer are cheaper to keep than to sweep


class ReadyHeap:
    """Queued jobs, highest priority first; among equals lowest id first, which is the order of submission.

    `is_live(id, priority)` tells whether an entry still stands for a queued job of that priority.
    """

    def __init__(self, is_live: Callable[[JobId, int], bool]) -> None:
        self.is_live = is_live
        self._runs: dict[int, _Runs] = {}  # of each priority
        self._priorities: list[int] = []  # a heap of the negated keys of _runs
        self._entries = 0
        self._dead = 0  # entries, about

    def push(self, job_id: JobId, priority: int, count: int = 1) -> None:
        """Add a queued job; with `count`, that many jobs with consecutive ids from this one on."""
        runs = self._runs.get(priority)
        if runs is None:
            runs = self._runs[priority] = _Runs()
            heapq.heappush(self._priorities, -priority)
        runs.push(job_id, count)
        self._entries += count

    def top(self) -> tuple[int, JobId] | None:
        """Return (-priority, id) of the next job (smaller is sooner); None if there is none."""
        while self._priorities:
            priority = -self._priorities[0]
            first = self.first_of(priority)
            if first is not None:
                return -priority, first
            heapq.heappop(self._priorities)
            del self._runs[priority]
        return None

    def pop(self, most: int = 1) -> int:
        """Remove the top, and ids that follow it, `most` in all; return how many those are.

        Call this only after `top` returned one.
        """
        count, entries = self._runs[-self._priorities[0]].pop(most)
        self._entries -= entries
        return count

    def first_of(self, priority: int) -> JobId | None:
        """Return the first job of this priority; None if there is none."""
        runs = self._runs.get(priority)
        if runs is None:
            return None
        while runs.firsts:
            if self.is_live(runs.firsts[0], priority):
                return runs.firsts[0]
            _, entries = runs.pop()
            self._entries -= entries
            self._dead = max(self._dead - entries, 0)
        return None

    def first(self, most: int) -> list[tuple[int, JobId]]:
        """Return (-priority, id) of up to `most` jobs, in their order; fewer if many entries are dead."""
        found: dict[tuple[int, JobId], None] = {}  # a job may have two entries
        looks = _LOOKS_PER_JOB * most
        for priority in sorted(self._runs, reverse=True):
            for job_id in islice(self._runs[priority].in_order(), looks):
                looks -= 1
                if self.is_live(job_id, priority):
                    found[-priority, job_id] = None
                if len(found) == most:
                    return list(found)
        return list(found)

    def first_before(self, job_id: JobId, priority: int, most: int) -> set[JobId] | None:
        """Return up to `most` jobs that come before this one.

        None: there are too many dead entries to visit.
        """
        before: set[JobId] = set()  # a job may have two entries
        looks = _LOOKS_PER_JOB * most
        for other, runs in self._runs.items():
            for each in runs.up_to(None if other > priority else job_id) if other >= priority else ():
                looks -= 1
                if self.is_live(each, other):
                    before.add(each)
                if len(before) >= most:
                    return before
                if not looks:
                    return None
        return before

    def forget(self) -> None:
        """Note that an entry died. Sweep once dead entries take most of the memory."""
        self._dead += 1
        if (
            self._dead > _WORTH_SWEEPING
            and self._dead * 2 > self._entries
            and len(self) - _WORTH_SWEEPING > 2 * (self._entries - self._dead)
        ):
            self._sweep()

    def ids(self) -> Iterator[JobId]:
        """Yield all queued jobs, in no order; one may come twice."""
        for priority, runs in self._runs.items():
            yield from (job_id for job_id in runs.up_to(None) if self.is_live(job_id, priority))

    def __len__(self) -> int:
        """Return the number of entries in memory; consecutive ids count once."""
        return sum(len(runs.firsts) for runs in self._runs.values())

    def _sweep(self) -> None:
        self._entries = self._dead = 0
        for priority, runs in self._runs.items():
            living = sorted({job_id for job_id in runs.up_to(None) if self.is_live(job_id, priority)})
            self._runs[priority] = swept = _Runs()
            for job_id in living:
                swept.push(job_id)
            self._entries += len(living)


class _Runs:
    """Ids, lowest first. Consecutive ids, for example of a batch, take the memory of one.

    Attributes:
        firsts: a heap of the first ids of all runs; runs may overlap.
    """

    def __init__(self) -> None:
        self.firsts: list[JobId] = []
        self._lasts: dict[JobId, JobId] = {}  # of runs longer than one id, by their first
        self._newest: JobId | None = None  # the first id of the run that was pushed to most recently

    def push(self, job_id: JobId, count: int = 1) -> None:
        """Add an id; with `count`, that many consecutive ids from it on."""
        newest = self._newest
        if newest is None or self._lasts.get(newest, newest) + 1 != job_id:
            heapq.heappush(self.firsts, job_id)
            self._newest = newest = job_id
        if count > 1 or newest != job_id:
            last = JobId(job_id + count - 1)
            self._lasts[newest] = last if newest != job_id else max(last, self._lasts.get(newest, newest))

    def pop(self, most: int = 1) -> tuple[int, int]:
        """Remove the lowest id, and those that follow it in its run, `most` in all.

        Return how many ids, and how many entries: those are more if runs overlap.
        """
        first = self.firsts[0]
        last = self._lasts.pop(first, first)
        if last < first + most:
            heapq.heappop(self.firsts)
            if self._newest == first:
                self._newest = None
            count = last - first + 1
            return count, count
        rest = JobId(first + most)
        heapq.heapreplace(self.firsts, rest)
        if self._newest == first:
            self._newest = rest
        other_last = self._lasts.get(rest, rest)
        if max(last, other_last) > rest:
            self._lasts[rest] = max(last, other_last)
        return most, most + min(last, other_last) - rest

    def up_to(self, end: JobId | None) -> Iterator[JobId]:
        """Yield the ids below `end`, in no order; None: all."""
        places = [0]
        while places:
            place = places.pop()
            if place >= len(self.firsts) or (end is not None and self.firsts[place] >= end):
                continue  # in a heap, all below this place come later as well
            first = self.firsts[place]
            last = self._lasts.get(first, first)
            yield from map(JobId, range(first, last + 1 if end is None else min(last + 1, end)))
            places += (2 * place + 1, 2 * place + 2)

    def in_order(self) -> Iterator[JobId]:
        """Yield the ids, lowest first as far as runs do not overlap."""
        places = [(first, 0) for first in self.firsts[:1]]
        while places:
            first, place = heapq.heappop(places)
            yield from map(JobId, range(first, self._lasts.get(first, first) + 1))
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(self.firsts):
                    heapq.heappush(places, (self.firsts[below], below))


K = TypeVar("K", bound=int | str)


class DueHeap(Generic[K]):
    """Jobs or names by the time at which something happens to them, earliest first.

    `is_live(key, due)` tells whether that time is still the key's.
    """

    def __init__(self, is_live: Callable[[K, float], bool]) -> None:
        self._is_live = is_live
        self._heap: list[tuple[float, K]] = []
        self._dead = 0  # since the last sweep, including those that reached the top

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
