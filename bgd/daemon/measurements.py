"""Counts and times for /metrics, since the start of the daemon.

Each transaction adds to it, so a job costs a few microseconds here, and a daemon without jobs nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from time import perf_counter

from bgd.core.job import Move, Outcome, State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.daemon.storage.records import Transaction

MAX_QUEUES = 30  # that are counted by name; the names are the users', and each costs some fifty time series
OTHER_QUEUES = "(other)"  # counts all others; no queue can have this name

# Upper bounds of buckets, in seconds: from unnoticeable to unacceptable
JOB_BOUNDS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Histogram:
    """Counts values by size.

    Attributes:
        counts: how many values each bucket has that are above the bucket before; the last one has no bound.
        total: the sum of all values.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class QueueMeasurements:
    """Measurements of one queue, or of all that are not counted by name."""

    def __init__(self) -> None:
        self.starts = 0
        self.retries = 0
        self.outcomes: Counter[Outcome] = Counter()  # of attempts
        self.finished: Counter[State] = Counter()  # jobs
        self.waits = Histogram(JOB_BOUNDS)
        self.runs = Histogram(JOB_BOUNDS)


class Measurements:
    """All measurements.

    Args:
        queues: names that are counted, whatever happens in them.

    Attributes:
        queues: by name, at most MAX_QUEUES and OTHER_QUEUES.
        commits: how long the disk took.
        lags: how long the event loop took to notice that a commit was over.
    """

    def __init__(self, queues: Iterable[str] = ()) -> None:
        self.queues: dict[str, QueueMeasurements] = {}
        for name in (DEFAULT_QUEUE, *queues):
            self.name_of(name)
        self.submitted = 0
        self.commits = Histogram(COMMIT_BOUNDS)
        self.lags = Histogram(COMMIT_BOUNDS)

    def name_of(self, queue: str) -> str:
        """Return the name under which a queue is counted from now on: its own if there is room."""
        if queue in self.queues:
            return queue
        name = queue if len(self.queues) < MAX_QUEUES else OTHER_QUEUES
        self.queues.setdefault(name, QueueMeasurements())
        return name

    def queue(self, name: str) -> QueueMeasurements:
        """Return the measurements of a queue."""
        return self.queues.get(name) or self.queues[self.name_of(name)]

    def saved(self, transaction: Transaction, commit_seconds: float, committed_at: float) -> None:
        """Count what a transaction has saved; `committed_at` is of time.perf_counter."""
        self.commits.add(commit_seconds)
        self.lags.add(perf_counter() - committed_at)
        self.submitted += len(transaction.new)
        for event in transaction.events:
            if event.what == Move.START:
                queue = self.queue(transaction.saves[event.job].job.queue)
                queue.starts += 1
                stored = transaction.specs.get(event.job) or transaction.permitted.get(event.job)
                if event.attempt == 1 and stored is not None:
                    queue.waits.add(max(event.at - stored.due_at, 0.0))
            elif event.what == Move.RETRY:
                self.queue(transaction.saves[event.job].job.queue).retries += 1
            elif event.what in _FINISHING:
                self.queue(transaction.saves[event.job].job.queue).finished[event.state] += 1
        for end in transaction.ends:
            queue = self.queue(transaction.saves[end.job].job.queue)
            queue.outcomes[end.outcome] += 1
            if end.run_seconds is not None:
                queue.runs.add(end.run_seconds)


_FINISHING = {Move.SUCCEED, Move.GIVE_UP, Move.CANCEL}
