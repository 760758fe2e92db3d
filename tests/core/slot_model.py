"""Which job has which slot and tokens, and which is next: look at every job, every time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from msgspec import Struct

from bgd.core.job import Job, JobId, KeyLimit
from bgd.core.limits import NO_TOKENS, QueueRule, Resources, Tokens


class TakenSlot(Struct, frozen=True):
    """What an active job holds: a slot number, `size` slots of its queue or target, and tokens."""

    number: int
    size: int
    queue: str
    target: str | None
    tokens: Tokens
    urgency: tuple[int, JobId]
    limit: KeyLimit | None = None


class SlotModel:
    """The slots and tokens that active jobs hold, in `taken`."""

    def __init__(self, slots: int, rules: Mapping[str, QueueRule], resources: Resources = NO_TOKENS) -> None:
        self.slots = slots
        self.rules = dict(rules)
        self.resources = dict(resources)
        self.taken: dict[JobId, TakenSlot] = {}
        self.used: dict[str | None, float] = {}  # of the slots, by weight
        self.latest = 0.0
        self.starts: list[tuple[str, float]] = []  # of all queues, on the elapsed clock

    def __copy__(self) -> SlotModel:
        twin = SlotModel(self.slots, self.rules, self.resources)
        twin.taken |= self.taken
        twin.starts += self.starts
        twin.used |= self.used
        twin.latest = self.latest
        return twin

    def take(self, job: Job, number: int, tokens: Tokens, now: float) -> None:
        """Let a job start in this slot with these tokens."""
        assert job.id not in self.taken, "one attempt of a job at a time"
        if self._is_outside(job.queue):
            assert number == 0
        else:
            numbers = {seat.number for seat in self.taken.values()}
            smallest = next(free for free in itertools.count(1) if free not in numbers)
            assert number == smallest <= self.slots
        assert {name: len(held) for name, held in tokens.items()} == dict(job.conditions.resources)
        for name, held in tokens.items():
            assert set(held) <= self._free(name), "a token is held twice, or there is none of this name"
        assert self.opens_at(job.queue, now) is None, "the rate of its queue is exceeded"
        assert not self.is_full(job), "its key is taken"
        self.starts.append((job.queue, now))
        if not self._is_outside(job.queue):
            self.latest = self._used(job)
            weight = self.rules.get(job.queue, QueueRule()).weight or 1
            self.used[self._share(job)] = self.latest + self._size(job) / weight
        self.restore(job, number, tokens)

    def opens_at(self, queue: str, now: float) -> float | None:
        """Return when the rate of a queue lets another job start; None: now."""
        rate = self.rules.get(queue, QueueRule()).rate
        if rate is None:
            return None
        latest = sorted(at for other, at in self.starts if other == queue and at + rate.seconds > now)
        return latest[-rate.count] + rate.seconds if len(latest) >= rate.count else None

    def restore(self, job: Job, number: int, tokens: Tokens) -> None:
        """Give a job that was active before a restart its number and tokens again."""
        self.taken[job.id] = TakenSlot(
            number,
            self._size(job),
            job.queue,
            job.conditions.target,
            tokens,
            _urgency(job),
            job.conditions.limit,
        )

    def is_full(self, job: Job) -> bool:
        """Return whether all places of the key of a job are taken; here all jobs say the same number."""
        limit = job.conditions.limit
        keys = [seat.limit.key for seat in self.taken.values() if seat.limit is not None]
        return limit is not None and keys.count(limit.key) >= limit.places

    def leave(self, job_id: JobId) -> None:
        self.taken.pop(job_id, None)

    @property
    def taken_slots(self) -> int:
        return sum(seat.size for seat in self.taken.values() if seat.number)

    def next_up(self, queued: Iterable[Job], now: float, *, is_paused: bool = False) -> Job | None:
        """Return the queued job whose turn it is; None if there is no room for it.

        Jobs that take none of the slots come first. With `is_paused` only queues that are apart have a turn.
        """
        ready = self._ready(queued, now)
        comes_first = self._is_apart if is_paused else self._is_outside
        first = [job for job in ready if comes_first(job.queue)]
        if first or is_paused:
            return min(first, key=_urgency, default=None)
        has_weights = any(rule.weight is not None for rule in self.rules.values())
        job = min(ready, key=self._turn if has_weights else _urgency, default=None)
        free = self.slots - self.taken_slots
        if job is None or (self._size(job) > free and not (free > 0 and self.is_full(job))):
            return None  # no less urgent job takes the slots for which a large one waits
        return job

    def _ready(self, queued: Iterable[Job], now: float) -> list[Job]:
        """Return the jobs that wait for nothing but slots of the daemon."""
        ready: list[Job] = []
        claimed: set[str] = set()  # resources for which a more urgent job waits
        full: set[tuple[str, str | None]] = set()  # queues for whose slots a more urgent job waits
        startable = (job for job in queued if not self.is_full(job) or skips(job))
        for job in sorted(_first_of_each_kind(startable), key=_urgency):
            demand = dict(job.conditions.resources)
            rule = self.rules.get(job.queue, QueueRule())
            if rule.paused or any(
                count > len(self.resources.get(name, ())) for name, count in demand.items()
            ):
                continue
            has_tokens = not demand.keys() & claimed and all(
                count <= len(self._free(name)) for name, count in demand.items()
            )
            has_room = self._has_room_in_queue(job, rule) and self.opens_at(job.queue, now) is None
            if has_room or self._is_overtaken(job):
                claimed |= demand.keys()
            sharers = job.queue, job.conditions.target
            if has_tokens and has_room and sharers not in full:
                ready.append(job)
            if has_tokens and not has_room:
                full.add(sharers)
        return ready

    def _turn(self, job: Job) -> tuple[int, float, JobId]:
        return -job.priority, self._used(job), job.id

    def _used(self, job: Job) -> float:
        return max(self.used.get(self._share(job), 0.0), self.latest)

    def _share(self, job: Job) -> str | None:
        return job.queue if job.queue in self.rules else None

    def forget_shares(self) -> None:
        self.used, self.latest = {}, 0.0

    def _is_overtaken(self, job: Job) -> bool:
        return any(seat.queue == job.queue and seat.urgency > _urgency(job) for seat in self.taken.values())

    def _free(self, name: str) -> set[str]:
        held = {token for seat in self.taken.values() for token in seat.tokens.get(name, ())}
        return {token for token in self.resources.get(name, ()) if token not in held}

    def _has_room_in_queue(self, job: Job, rule: QueueRule) -> bool:
        target = job.conditions.target  # which takes one at a time
        slots = rule.slots if target is None else 1
        sharers = [seat for seat in self.taken.values() if (seat.queue, seat.target) == (job.queue, target)]
        return slots is None or not sharers or sum(each.size for each in sharers) + self._size(job) <= slots

    def _is_apart(self, queue: str) -> bool:
        return queue in self.rules and self.rules[queue].apart

    def _is_outside(self, queue: str) -> bool:
        return self._is_apart(queue) or (queue in self.rules and self.rules[queue].elsewhere)

    def _size(self, job: Job) -> int:
        wanted = job.conditions.slots
        return wanted if self._is_outside(job.queue) else min(wanted, self.slots)


def _first_of_each_kind(queued: Iterable[Job]) -> list[Job]:
    """Return the most urgent job of each queue, target and demand: the others wait for it."""
    return list(
        {
            (job.queue, job.conditions.target, job.conditions.resources): job
            for job in sorted(queued, key=_urgency, reverse=True)
        }.values()
    )


def skips(job: Job) -> bool:
    """Return whether a job is cancelled when its turn comes while its key is taken."""
    return job.conditions.limit is not None and job.conditions.limit.skips


def _urgency(job: Job) -> tuple[int, JobId]:
    return -job.priority, job.id
