"""Queues: lanes of queued jobs, and the room that queues with a rule of their own have left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec import Struct

from bgd.core.heaps import ReadyHeap, SlotPool
from bgd.core.job import Job, JobId, State


class QueueRule(Struct, frozen=True, kw_only=True):
    """What holds for one queue: slots that its jobs may take at once, None: no limit; whether any starts."""

    slots: int | None = None
    paused: bool = False


class ReadyQueues:
    """Chooses among queued jobs, within the queues' rules.

    Queues without a rule share one lane, named None, so choosing costs one look per queue that has a rule, or
    had one and still has jobs that stand in its lane. A lane where nothing could start is not looked at again
    before something has changed in it: else each new job would cost a look at every queue that is full or
    paused. What was in the shared lane before its queue got one changes lanes when it comes up. So a rule may
    change at any time at the price of nothing, but a pause of what stands first in the shared lane moves all
    of it at once.

    Args:
        rules: of each queue that has one.
        job_of: returns the unfinished job of an id, None for any other.
    """

    def __init__(self, rules: Mapping[str, QueueRule], job_of: Callable[[JobId], Job | None]) -> None:
        self._job_of = job_of
        self._lanes: dict[str | None, ReadyHeap] = {None: ReadyHeap(partial(self._is_live, None))}
        self._promising: set[str | None] = set()  # lanes out of which a job might be taken
        self._taken: dict[str, int] = {}  # slots of active jobs by queue
        self.set_rules(rules)

    def set_rules(self, rules: Mapping[str, QueueRule]) -> None:
        self._rules = dict(rules)
        for queue in self._lanes.keys() - rules.keys() - {None}:
            if self._top(queue) is None:
                del self._lanes[queue]
        for queue in rules.keys() - self._lanes.keys():
            self._lanes[queue] = ReadyHeap(partial(self._is_live, queue))
        self._promising = set(self._lanes)

    def push(self, job: Job) -> None:
        """Let a queued job stand in line."""
        name = self._name_of_lane(job.queue)
        self._lanes[name].push(job.id, job.priority)
        self._promising.add(name)

    def forget(self, job: Job) -> None:
        """Note that a job left the line without its turn."""
        for name in {None, job.queue} & self._lanes.keys():  # it may have come before its queue got a lane
            self._lanes[name].forget()
            self._promising.add(name)  # a smaller one may have stood behind it

    def take_next(self, size_of: Callable[[Job], int], free: int) -> Job | None:
        """Take the most urgent queued job whose queue has room for it; None if there is none.

        `size_of` tells how many slots a job takes. A job that is larger than its queue may run alone in it.
        One that takes more than the `free` slots there are is waited for, not overtaken: else it might wait
        for ever.
        """
        best: tuple[int, JobId] | None = None
        chosen: Job | None = None
        self._top(None)  # what it sends on makes other lanes promising
        for name in list(self._promising):
            top = self._top(name)
            if top is not None and best is not None and top >= best:
                continue
            job = None if top is None else self._job_of(top[1])
            if job is not None and self._has_room(job, size_of(job)):
                best, chosen = top, job
            else:
                self._promising.remove(name)
        if chosen is None or size_of(chosen) > free:
            return None
        self._lanes[self._name_of_lane(chosen.queue)].pop()
        return chosen

    def occupy(self, job: Job, size: int) -> None:
        """Count an attempt of this job's queue that has begun, and takes `size` slots."""
        self._taken[job.queue] = self._taken.get(job.queue, 0) + size

    def vacate(self, job: Job, size: int) -> None:
        """Count it no longer."""
        left = self._taken[job.queue] - size
        if left:
            self._taken[job.queue] = left
        else:
            del self._taken[job.queue]
        self._promising.add(self._name_of_lane(job.queue))

    def __len__(self) -> int:
        """Return how many entries the lanes hold, the dead ones that are not yet swept too."""
        return sum(map(len, self._lanes.values()))

    def _name_of_lane(self, queue: str) -> str | None:
        return queue if queue in self._lanes else None

    def _top(self, name: str | None) -> tuple[int, JobId] | None:
        """Return the top of a lane, after sending on what stands in the shared one and has its own."""
        lane = self._lanes[name]
        while (top := lane.top()) is not None and name is None:
            job = self._job_of(top[1])
            if job is None or job.queue not in self._lanes:
                break
            lane.pop()
            self.push(job)
        return top

    def _has_room(self, job: Job, size: int) -> bool:
        rule = self._rules.get(job.queue)
        if rule is None or rule.paused:
            return rule is None
        taken = self._taken.get(job.queue, 0)
        return rule.slots is None or taken == 0 or taken + size <= rule.slots

    def _is_live(self, lane: str | None, job_id: JobId, priority: int) -> bool:
        """Tell whether an entry still stands for a queued job; one that changed queues stands elsewhere."""
        job = self._job_of(job_id)
        return (
            job is not None
            and job.state is State.QUEUED
            and job.priority == priority
            and lane in {None, job.queue}
        )


# --- Slots


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
        self._queues = ReadyQueues(rules, job_of)
        self._numbers = SlotPool()
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
        return min(job.conditions.slots, self._slots)
