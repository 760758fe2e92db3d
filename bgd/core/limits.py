"""Limits on what starts: rules of queues, and named resources, whose tokens jobs hold while they run."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from bgd.core.job import JobId, Rate
from bgd.core.spec import Demand

Tokens = dict[str, tuple[str, ...]]
"""The tokens that a job holds, by resource."""

Resources = Mapping[str, tuple[str, ...]]
"""All tokens of each resource, in the order in which they are given out."""

NO_TOKENS: Tokens = {}


class ActiveJob(Struct, frozen=True):
    """What an active job holds: the number of its slot, how many slots it takes, and tokens."""

    number: int
    size: int
    tokens: Tokens
    queue: str
    urgency: tuple[int, JobId]


class QueueRule(Struct, frozen=True, kw_only=True):
    """The rules of one queue.

    `slots`: limit on slots of its running jobs, None: no limit; notifications of one target always run one at
    a time. `paused`: none of its jobs start. `elsewhere`: its jobs run on other machines and take none of the
    daemon's slots; their slot number is 0. `apart`: the same, and they start even while all queues are
    paused; this never changes. `rate`: limit on starts of its jobs within some time. `weight`: its share of
    the slots; None: as if it were 1, if any queue has a weight.
    """

    slots: int | None = None
    paused: bool = False
    elsewhere: bool = False
    apart: bool = False
    rate: Rate | None = None
    weight: int | None = None


class TokenPool:
    """Free and held tokens of resources. A removed token stays held until its job ends.

    Attributes:
        totals: how many tokens each resource has.
    """

    def __init__(self, resources: Resources) -> None:
        self._held: set[tuple[str, str]] = set()
        self.resize(resources)

    def resize(self, resources: Resources) -> None:
        """Change the tokens; held ones stay held."""
        self.totals = {name: len(tokens) for name, tokens in resources.items()}
        self._places = {
            name: {each: n for n, each in enumerate(tokens)} for name, tokens in resources.items()
        }
        self._free = {
            name: [(n, each) for n, each in enumerate(tokens) if (name, each) not in self._held]
            for name, tokens in resources.items()
        }  # sorted lists, which are heaps

    def free(self, name: str) -> int:
        """Return how many tokens of a resource are free."""
        return len(self._free.get(name, ()))

    def usage(self) -> Iterator[tuple[str, int, int]]:
        """Yield each resource: its name, all its tokens, and how many are held, removed ones included."""
        held = Counter(name for name, _ in self._held)
        for name in sorted(self.totals.keys() | held.keys()):
            yield name, self.totals.get(name, 0), held[name]

    def are_free(self, demand: Demand) -> bool:
        """Return whether enough tokens are free."""
        return all(self.free(name) >= count for name, count in demand)

    def can_ever_have(self, demand: Demand) -> bool:
        """Return whether there are as many tokens, free or not."""
        return all(self.totals.get(name, 0) >= count for name, count in demand)

    def take(self, demand: Demand) -> Tokens:
        """Take the first free tokens and return them. There must be enough."""
        taken = {
            name: tuple(heapq.heappop(self._free[name])[1] for _ in range(count)) for name, count in demand
        }
        self.hold(taken)
        return taken

    def hold(self, tokens: Tokens) -> None:
        """Record that an active job holds these tokens, which may have left the configuration."""
        for name, held in tokens.items():
            self._held.update((name, each) for each in held)

    def restore(self, tokens: Tokens) -> None:
        """Take the tokens that a job held before a restart."""
        self.hold(tokens)
        for name in tokens.keys() & self._free.keys():
            self._free[name] = [(n, each) for n, each in self._free[name] if (name, each) not in self._held]

    def give_back(self, tokens: Tokens) -> None:
        """Release the tokens of a job whose attempt has ended."""
        for name, held in tokens.items():
            places = self._places.get(name, {})
            for each in held:
                self._held.discard((name, each))
                if each in places:
                    heapq.heappush(self._free[name], (places[each], each))


class StartTimes:
    """When the latest jobs of queues with a rate have started, on the elapsed clock.

    Attributes:
        rates: by queue.
    """

    def __init__(self) -> None:
        self._starts: dict[str, deque[float]] = {}
        self.rates: Mapping[str, Rate] = {}

    def configure(self, rates: Mapping[str, Rate]) -> None:
        """Change the rates. The starts of a queue still count if its rate has not changed."""
        self._starts = {
            queue: self._starts[queue] if self.rates.get(queue) == rate else deque(maxlen=rate.count)
            for queue, rate in rates.items()
        }
        self.rates = dict(rates)

    def restore(self, starts: Iterable[tuple[str, float]]) -> None:
        """Take the starts before a restart, by queue, the earliest first."""
        for queue, at in starts:
            self.note(queue, at)

    def note(self, queue: str, at: float) -> None:
        """Record a start, unless the queue has no rate."""
        if queue in self._starts:
            self._starts[queue].append(at)

    def opens_at(self, queue: str) -> float | None:
        """Return when the queue may start another job; None: at any time."""
        starts = self._starts.get(queue)
        if not starts or len(starts) < self.rates[queue].count:
            return None
        return starts[0] + self.rates[queue].seconds

    def is_open(self, queue: str, elapsed: float) -> bool:
        """Return whether the queue may start another job now."""
        at = self.opens_at(queue)
        return at is None or at <= elapsed


class Shares:
    """The share of the slots that each queue has used, by weight: start-time fair queueing.

    Of queues with jobs of equal priority, the one that has used least comes next. A queue that had no jobs,
    or could start none, does not save up its share. Queues without a rule share like one of weight 1.

    Attributes:
        are_set: whether any queue has a weight.
    """

    def __init__(self) -> None:
        self.are_set = False
        self._weights: dict[str, int] = {}
        self._used: dict[str | None, float] = {}
        self._latest = 0.0  # used by the queue of the latest start, before that start

    def configure(self, weights: Mapping[str, int | None]) -> None:
        """Change the weights, by queue with a rule. Used shares still count if no weight has changed."""
        self.are_set = any(weight is not None for weight in weights.values())
        others = {queue: 1 if weight is None else weight for queue, weight in weights.items()}
        if others != self._weights:
            self._weights = others
            self._used, self._latest = {}, 0.0

    def used(self, queue: str | None) -> float:
        """Return how much a queue has used, at least as much as the queue of the latest start."""
        return max(self._used.get(self.share_of(queue), 0.0), self._latest)

    def use(self, queue: str, slots: int) -> None:
        """Note that a job of a queue starts on some slots."""
        self._latest = self.used(queue)
        self._used[self.share_of(queue)] = self._latest + slots / self.weight_of(queue)

    def share_of(self, queue: str | None) -> str | None:
        """Return the queue whose share its jobs use: its own, or None for all queues without a rule."""
        return queue if queue in self._weights else None

    def weight_of(self, queue: str) -> int:
        """Return the weight of the share that the jobs of a queue use."""
        return self._weights.get(queue, 1)
