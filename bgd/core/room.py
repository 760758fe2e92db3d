"""Room: the slots there are, which of them are taken, and which queued job comes next into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bgd.core.heaps import SlotNumbers
from bgd.core.job import Job, JobId
from bgd.core.queues import QueueRule, Queues


class Room:
    """Queued jobs and active ones.

    Args:
        slots: how many active jobs may take at once.
        rules: of the queues that have any.
        job_of: returns the unfinished job of an id, None for any other.
    """

    def __init__(
        self, slots: int, rules: Mapping[str, QueueRule], job_of: Callable[[JobId], Job | None]
    ) -> None:
        self.taken = 0  # slots
        self._slots = slots
        self._queues = Queues(rules, job_of)
        self._numbers = SlotNumbers()
        self._held: dict[JobId, tuple[int, int]] = {}  # of active jobs: slot number, slots they take

    def resize(self, slots: int, rules: Mapping[str, QueueRule]) -> None:
        """Take another number of slots and other rules. What is active beyond them stays so."""
        self._slots = slots
        self._queues.set_rules(rules)

    def push(self, job: Job) -> None:
        """Let a queued job stand in line."""
        self._queues.push(job)

    def forget(self, job: Job) -> None:
        """Note that a job left the line without its turn."""
        self._queues.forget(job)

    def take_next(self) -> Job | None:
        """Take the most urgent queued job out of the line, if there is room for it."""
        free = self._slots - self.taken
        return self._queues.take_next(self._size_of, free) if free > 0 else None

    def seat(self, job: Job) -> int:
        """Give an active job the smallest free slot number; return it."""
        number = self._numbers.take_smallest()
        self._occupy(job, number)
        return number

    def reseat(self, job: Job, number: int) -> None:
        """Give an active job a certain slot number, the one it had."""
        self._numbers.take(number)
        self._occupy(job, number)

    def vacate(self, job: Job) -> None:
        """Take back what an active job had."""
        number, size = self._held.pop(job.id)
        self._numbers.give_back(number)
        self._queues.vacate(job, size)
        self.taken -= size

    @property
    def active(self) -> Iterable[JobId]:
        return self._held.keys()

    def __len__(self) -> int:
        """Return how many jobs are active."""
        return len(self._held)

    def _occupy(self, job: Job, number: int) -> None:
        size = self._size_of(job)
        self._held[job.id] = number, size
        self._queues.occupy(job, size)
        self.taken += size

    def _size_of(self, job: Job) -> int:
        """Return how many slots a job takes: all there are, if it asks for more."""
        return min(job.terms.slots, self._slots)
