"""Queues: lanes of queued jobs, and the room that queues with a limit of their own have left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bgd.core.heaps import ReadyLane
from bgd.core.job import Job, JobId


class Queues:
    """Chooses among queued jobs, within the queues' limits.

    Queues without a limit share one lane, named None, so choosing costs one look per *limited* queue.

    Args:
        limits: attempts that may run at once, of each queue that has a limit.
        is_ready: says whether a job is still queued, with that priority.
    """

    def __init__(self, limits: Mapping[str, int], is_ready: Callable[[JobId, int], bool]) -> None:
        self.limits = dict(limits)
        self._is_ready = is_ready
        self._lanes: dict[str | None, ReadyLane] = {}
        self._running: dict[str, int] = {}  # active attempts of each queue with a limit

    def push(self, job: Job) -> None:
        """Let a queued job stand in line."""
        self._lane(job.queue).push(job.id, job.priority)

    def forget(self, job: Job) -> None:
        """Note that a job left the line without its turn."""
        self._lane(job.queue).forget()

    def take_next(self) -> JobId | None:
        """Take the most urgent queued job whose queue has room; None if there is none."""
        best: tuple[int, JobId] | None = None
        best_lane: ReadyLane | None = None
        for queue, lane in self._lanes.items():
            if queue is not None and self._running.get(queue, 0) >= self.limits[queue]:
                continue
            top = lane.top()
            if top is not None and (best is None or top < best):
                best, best_lane = top, lane
        if best is None or best_lane is None:
            return None
        best_lane.pop()
        return best[1]

    def occupy(self, job: Job) -> None:
        """Count an attempt of this job's queue that has begun."""
        self._count(job.queue, +1)

    def vacate(self, job: Job) -> None:
        """Count it no longer."""
        self._count(job.queue, -1)

    def __len__(self) -> int:
        """Return how many entries the lanes hold, the dead ones that are not yet swept too."""
        return sum(map(len, self._lanes.values()))

    def _lane(self, queue: str) -> ReadyLane:
        key = queue if queue in self.limits else None
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = ReadyLane(self._is_ready)
        return lane

    def _count(self, queue: str, change: int) -> None:
        if queue in self.limits:
            self._running[queue] = self._running.get(queue, 0) + change
