"""Queues: which queued job starts next, within the slots of the daemon and the rules of its queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec import Struct

from bgd.core.explain import MAX_AHEAD, Place
from bgd.core.heaps import ReadyHeap, SlotPool
from bgd.core.job import Job, JobId, State


class QueueRule(Struct, frozen=True, kw_only=True):
    """What holds for one queue.

    `slots`: how many its jobs may take at once, None: no limit. `paused`: none of its jobs start. `apart`:
    its jobs take none of the daemon's slots, and start while all queues are paused; their slot has number 0.
    A queue never changes from one to the other.
    """

    slots: int | None = None
    paused: bool = False
    apart: bool = False


class ReadyQueues:
    """Queued jobs, and the slots of active ones.

    Each queue with a rule has a heap of its own; all others share one heap, named None. So choosing a job
    looks once at each heap. A heap from which nothing could start is skipped until something in it changes:
    otherwise each new job would cost a look at every queue that is full or paused.

    A rule may change at any time at no cost. Jobs that were in the shared heap before their queue got a rule
    move to its own heap when they come to the top. Only a pause of what is first in the shared heap moves all
    of it at once.

    Args:
        slots: how many slots active jobs may take together.
        rules: of each queue that has one.
        job_of: returns the unfinished job with an id, None if there is none.

    Attributes:
        taken: how many of the slots active jobs take.
    """

    def __init__(
        self, slots: int, rules: Mapping[str, QueueRule], job_of: Callable[[JobId], Job | None]
    ) -> None:
        self.taken = 0
        self._job_of = job_of
        self._heaps: dict[str | None, ReadyHeap] = {None: ReadyHeap(partial(self._is_live, None))}
        self._promising: set[str | None] = set()  # heaps from which a job might start
        self._taken_in: dict[str, int] = {}  # slots that active jobs take, by queue
        self._numbers = SlotPool()
        self._active: dict[JobId, tuple[int, int]] = {}  # slot number, and how many slots the job takes
        self.resize(slots, rules)

    def resize(self, slots: int, rules: Mapping[str, QueueRule]) -> None:
        """Take another number of slots and other rules. Active jobs beyond them stay active."""
        self._slots = slots
        self._rules = dict(rules)
        self._apart = {queue for queue, rule in rules.items() if rule.apart}
        for queue in self._heaps.keys() - rules.keys() - {None}:
            if self._top(queue) is None:
                del self._heaps[queue]
        for queue in rules.keys() - self._heaps.keys():
            self._heaps[queue] = ReadyHeap(partial(self._is_live, queue))
        self._promising = set(self._heaps)

    def push(self, job: Job) -> None:
        """Add a queued job."""
        name = self._heap_name(job.queue)
        self._heaps[name].push(job.id, job.priority)
        self._promising.add(name)

    def forget(self, job: Job) -> None:
        """Note that a job stopped being queued without having been taken."""
        for name in {None, job.queue} & self._heaps.keys():  # it may be older than its queue's own heap
            self._heaps[name].forget()
            self._promising.add(name)  # a smaller job may have been behind it

    def take_next(self, *, is_paused: bool = False) -> Job | None:
        """Take the most urgent queued job whose queue has room for it; None if there is none.

        Jobs of queues that are apart come first; with `is_paused` no others come.

        A job that is larger than its queue may run alone in it. If the most urgent job takes more slots than
        are free, it is waited for, not overtaken: otherwise it might wait for ever.
        """
        if self._apart & self._promising and (job := self._take_apart()) is not None:
            return job
        free = self._slots - self.taken
        if free <= 0 or is_paused:
            return None
        best: tuple[int, JobId] | None = None
        chosen: Job | None = None
        self._top(None)  # moves jobs to other heaps, which makes those promising
        for name in self._promising - self._apart:
            top = self._top(name)
            if top is not None and best is not None and top >= best:
                continue
            job = None if top is None else self._job_of(top[1])
            if job is not None and self._has_room(job):
                best, chosen = top, job
            else:
                self._promising.remove(name)
        if chosen is None or self._size_of(chosen) > free:
            return None
        self._heaps[self._heap_name(chosen.queue)].pop()
        return chosen

    def _take_apart(self) -> Job | None:
        """Take a job of a queue that is apart and has room for it; None if there is none."""
        for name in self._apart & self._promising:
            top = self._top(name)
            job = None if top is None else self._job_of(top[1])
            if job is not None and self._has_room(job):
                self._heaps[name].pop()
                return job
            self._promising.remove(name)
        return None

    def place_of(self, job: Job) -> Place:
        """Return where a waiting job stands, or would stand if it were queued."""
        rule = self._rules.get(job.queue, QueueRule())
        return Place(
            size=self._size_of(job),
            slots=self._slots,
            taken=self.taken,
            queue_slots=rule.slots,
            queue_taken=self._taken_in.get(job.queue, 0),
            has_room=self._has_slots(job, rule),
            is_paused=rule.paused,
            is_apart=rule.apart,
            ahead=self._count_before(job),
        )

    def _count_before(self, job: Job) -> int | None:
        """Return how many queued jobs start before this one, up to MAX_AHEAD; None: too many to look at.

        Those of another queue count if it has room for its first one, which takes the next slots.
        """
        self._top(None)  # moves jobs to other heaps
        own = self._heap_name(job.queue)
        before: set[JobId] = set()  # a job may have an entry in two heaps
        for name, heap in self._heaps.items():
            top = self._top(name)
            first = None if top is None or top >= (-job.priority, job.id) else self._job_of(top[1])
            is_rival = own not in self._apart and name not in self._apart
            if first is not None and (name == own or (is_rival and self._has_room(first))):
                found = heap.first_before(job.id, job.priority, MAX_AHEAD)
                if found is None:
                    return None
                before |= found
                if len(before) >= MAX_AHEAD:
                    return MAX_AHEAD
        return len(before)

    def occupy(self, job: Job) -> int:
        """Give an active job the smallest free slot number, or 0 if its queue is apart, and return it."""
        number = 0 if job.queue in self._apart else self._numbers.take_smallest()
        self._occupy(job, number)
        return number

    def reoccupy(self, job: Job, number: int) -> None:
        """Give an active job the slot number that it had before."""
        if number:
            self._numbers.take(number)
        self._occupy(job, number)

    def vacate(self, job: Job) -> None:
        """Take back the slots of a job that is no longer active."""
        number, size = self._active.pop(job.id)
        if number:
            self._numbers.give_back(number)
            self.taken -= size
        left = self._taken_in[job.queue] - size
        if left:
            self._taken_in[job.queue] = left
        else:
            del self._taken_in[job.queue]
        self._promising.add(self._heap_name(job.queue))

    @property
    def active(self) -> Iterable[JobId]:
        """The jobs that hold a slot."""
        return self._active.keys()

    @property
    def running(self) -> int:
        """How many jobs hold a slot."""
        return len(self._active)

    def __len__(self) -> int:
        """Return how many entries the heaps hold, including dead ones that are not swept yet."""
        return sum(map(len, self._heaps.values()))

    def _occupy(self, job: Job, number: int) -> None:
        size = self._size_of(job)
        self._active[job.id] = number, size
        self._taken_in[job.queue] = self._taken_in.get(job.queue, 0) + size
        if number:
            self.taken += size

    def _top(self, name: str | None) -> tuple[int, JobId] | None:
        """Return the top of a heap, after moving jobs from the shared heap to their queue's own."""
        heap = self._heaps[name]
        while (top := heap.top()) is not None and name is None:
            job = self._job_of(top[1])
            if job is None or job.queue not in self._heaps:
                break
            heap.pop()
            self.push(job)
        return top

    def _has_room(self, job: Job) -> bool:
        rule = self._rules.get(job.queue)
        return rule is None or (not rule.paused and self._has_slots(job, rule))

    def _has_slots(self, job: Job, rule: QueueRule) -> bool:
        taken = self._taken_in.get(job.queue, 0)
        return rule.slots is None or taken == 0 or taken + self._size_of(job) <= rule.slots

    def _size_of(self, job: Job) -> int:
        """Return how many slots a job takes: all there are, if it asks for more."""
        return min(job.conditions.slots, self._slots)

    def _heap_name(self, queue: str) -> str | None:
        return queue if queue in self._heaps else None

    def _is_live(self, heap: str | None, job_id: JobId, priority: int) -> bool:
        """Tell whether an entry still stands for a queued job; a job that changed queues is elsewhere."""
        job = self._job_of(job_id)
        return (
            job is not None
            and job.state is State.QUEUED
            and job.priority == priority
            and heap in {None, job.queue}
        )
