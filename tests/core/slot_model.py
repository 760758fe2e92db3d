"""Which job has which slot and which job is next, in the simplest way: look at every job, every time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from msgspec import Struct

from bgd.core.job import Job, JobId
from bgd.core.queues import QueueRule


class TakenSlot(Struct, frozen=True):
    """What an active job holds: a slot number, and `size` slots of its queue."""

    number: int
    size: int
    queue: str


class SlotModel:
    """The slots that active jobs hold, in `taken`."""

    def __init__(self, slots: int, rules: Mapping[str, QueueRule]) -> None:
        self.slots = slots
        self.rules = dict(rules)
        self.taken: dict[JobId, TakenSlot] = {}

    def __copy__(self) -> SlotModel:
        twin = SlotModel(self.slots, self.rules)
        twin.taken |= self.taken
        return twin

    def take(self, job: Job, number: int) -> None:
        """Let a job start in this slot."""
        assert job.id not in self.taken, "one attempt of a job at a time"
        if self._is_apart(job.queue):
            assert number == 0
            self.restore(job, number)
            return
        numbers = {seat.number for seat in self.taken.values()}
        assert number == next(free for free in itertools.count(1) if free not in numbers), "not the smallest"
        assert number <= self.slots
        self.restore(job, number)

    def restore(self, job: Job, number: int) -> None:
        """Give a job that was active before a restart its number again."""
        self.taken[job.id] = TakenSlot(number, self._size(job), job.queue)

    def leave(self, job_id: JobId) -> None:
        self.taken.pop(job_id, None)

    @property
    def taken_slots(self) -> int:
        return sum(seat.size for seat in self.taken.values() if not self._is_apart(seat.queue))

    def next_up(self, queued: Iterable[Job], *, is_paused: bool = False) -> Job | None:
        """Return the queued job whose turn it is; None if there is no room for it.

        With `is_paused` only queues that are apart have a turn.
        """
        first = {job.queue: job for job in sorted(queued, key=_urgency, reverse=True)}
        with_room = list(filter(self._has_room_in_queue, first.values()))
        apart = [job for job in with_room if self._is_apart(job.queue)]
        if apart or is_paused:
            return min(apart, key=_urgency, default=None)
        job = min(with_room, key=_urgency, default=None)
        if job is None or self._size(job) + self.taken_slots > self.slots:
            return None  # no less urgent job takes the slots for which a large one waits
        return job

    def _has_room_in_queue(self, job: Job) -> bool:
        rule = self.rules.get(job.queue, QueueRule())
        taken = sum(seat.size for seat in self.taken.values() if seat.queue == job.queue)
        has_room = rule.slots is None or taken == 0 or taken + self._size(job) <= rule.slots
        return has_room and not rule.paused

    def _is_apart(self, queue: str) -> bool:
        return queue in self.rules and self.rules[queue].apart

    def _size(self, job: Job) -> int:
        return min(job.conditions.slots, self.slots)


def _urgency(job: Job) -> tuple[int, JobId]:
    return -job.priority, job.id
