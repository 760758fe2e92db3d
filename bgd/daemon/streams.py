"""Streams: who waits for something to happen to which job, and what attempts say of their progress."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from bgd.core.job import ACTIVE, Job, JobId
from bgd.errors import Refused
from bgd.wire.views import JobProgress

# --- Subscriptions: who waits for something to happen to which job.


class Subscription:
    """Tells one follower that jobs of his changed; what has become of them he finds out by looking.

    Attributes:
        changed: set at every change; the follower clears it before he looks.
        moved: jobs whose state or attempt changed since he last emptied it; at first all of his.
    """

    def __init__(self, job_ids: Iterable[JobId]) -> None:
        self.changed = asyncio.Event()
        self.moved = set(job_ids)
        self._progress: dict[JobId, JobProgress] = {}

    def take_moved(self) -> set[JobId]:
        self.changed.clear()
        moved, self.moved = self.moved, set()
        return moved

    def take_progress(self) -> list[JobProgress]:
        """Return what jobs that run said last, as far as it is news."""
        told, self._progress = self._progress, {}
        return list(told.values())

    def add_progress(self, told: Iterable[tuple[JobId, JobProgress]], ended: Iterable[JobId]) -> None:
        """Take what jobs said, in place of what they said before; nothing is kept of those that ended."""
        for job_id, progress in told:
            self._progress[job_id] = progress
            self.changed.set()
        for job_id in ended:
            self._progress.pop(job_id, None)


class Subscriptions:
    """All subscriptions by job: a job that nobody follows costs one look-up."""

    def __init__(self) -> None:
        self._of_state: dict[JobId, set[Subscription]] = {}
        self._of_log: dict[JobId, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()
        self._of_progress: dict[Subscription, set[JobId] | None] = {}  # and of which jobs, None: of all

    @contextmanager
    def subscribe(self, job_ids: Iterable[JobId], *, progress: bool = False) -> Iterator[Subscription]:
        """Give a Subscription of the states of these jobs, and of their progress if that is wanted."""
        ids = set(job_ids)
        subscription = Subscription(ids)
        _enter(self._of_state, ids, subscription)
        if progress:
            self._of_progress[subscription] = ids
        try:
            yield subscription
        finally:
            self._of_progress.pop(subscription, None)
            _leave(self._of_state, ids, subscription)

    @contextmanager
    def subscribe_to_log(self, job_id: JobId) -> Iterator[Subscription]:
        """Give a Subscription of a job's state and of its growing log."""
        with self.subscribe({job_id}) as subscription:
            _enter(self._of_log, {job_id}, subscription)
            try:
                yield subscription
            finally:
                _leave(self._of_log, {job_id}, subscription)

    @contextmanager
    def subscribe_to_all(self, *, progress: bool = False) -> Iterator[Subscription]:
        """Give a Subscription that rings whenever anything has happened to any job, and names none.

        `progress`: and whenever jobs said how far they are, with what they said.
        """
        subscription = Subscription(())
        self._of_all.add(subscription)
        if progress:
            self._of_progress[subscription] = None
        try:
            yield subscription
        finally:
            self._of_progress.pop(subscription, None)
            self._of_all.discard(subscription)

    def has_log_subscribers(self, job_id: JobId) -> bool:
        return job_id in self._of_log

    def notify_moved(self, job_ids: Iterable[JobId]) -> None:
        """Ring for jobs whose change is on disk."""
        for subscription in self._of_all:
            subscription.changed.set()
        if not self._of_state:
            return
        for job_id in job_ids:
            for subscription in self._of_state.get(job_id, ()):
                subscription.moved.add(job_id)
                subscription.changed.set()

    def notify_progress(self, told: Mapping[JobId, JobProgress], ended: Collection[JobId]) -> None:
        """Ring for what jobs said of themselves and is on disk, unless they ended meanwhile."""
        for subscription, wanted in self._of_progress.items():
            subscription.add_progress(
                (item for item in told.items() if wanted is None or item[0] in wanted), ended
            )

    def notify_log_grew(self, job_id: JobId) -> None:
        """Ring for a log that has grown."""
        for subscription in self._of_log.get(job_id, ()):
            subscription.changed.set()


def _enter(
    subscriptions: dict[JobId, set[Subscription]], job_ids: set[JobId], subscription: Subscription
) -> None:
    for job_id in job_ids:
        subscriptions.setdefault(job_id, set()).add(subscription)


def _leave(
    subscriptions: dict[JobId, set[Subscription]], job_ids: set[JobId], subscription: Subscription
) -> None:
    for job_id in job_ids:
        subscriptions[job_id].discard(subscription)
        if not subscriptions[job_id]:
            del subscriptions[job_id]


# --- The book of progress: what attempts say of themselves, from the report until it is written down.


INTERVAL = 1.0  # seconds between two transactions that what jobs say of themselves may cause
ANSWERED_AT_ONCE = 20  # reports of one job within that; for answers to more of them it has to wait


class ProgressBuffer:
    """The latest report of each job, until the next transaction that is due or that takes the attempt's end.

    A report in a quiet second is written at once. After that one timer lets all further ones of all jobs
    wait for the same transaction, a second later; while nobody reports it is not set.

    Args:
        job_of: returns the unfinished job of an id, None for any other.
        ripe: is called when there is something to be taken.
    """

    def __init__(self, job_of: Callable[[JobId], Job | None], ripe: Callable[[], object]) -> None:
        self._job_of = job_of
        self._ripe = ripe
        self._unsaved: dict[JobId, JobProgress] = {}
        self._counts: Counter[JobId] = Counter()  # reports since the last transaction
        self._late_answers: list[Callable[[], object]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_ripe = False

    def report(self, told: JobProgress, answer: Callable[[], object]) -> None:
        """Take a report; `answer` is called at once, or with the next transaction for a job that floods.

        Raises:
            Refused: this attempt does not run.
        """
        job_id = JobId(told.job)
        job = self._job_of(job_id)
        if job is None or job.state not in ACTIVE or job.attempt != told.attempt:
            raise Refused(
                f"attempt {told.attempt} of job {told.job} does not run: only what runs reports progress"
            )
        self._unsaved[job_id] = told
        self._counts[job_id] += 1
        if self._counts[job_id] <= ANSWERED_AT_ONCE:
            answer()
        else:
            self._late_answers.append(answer)
        if self._timer is None:
            self.flush()

    def flush(self) -> None:
        """Have everything taken with the next transaction."""
        if self._unsaved:
            self._is_ripe = True
            self._ripe()

    def take(self, ended: Iterable[JobId]) -> dict[JobId, JobProgress]:
        """Return what belongs into the transaction that begins now, and that takes these jobs' ends."""
        if not self._is_ripe:
            return {job_id: self._unsaved.pop(job_id) for job_id in ended if job_id in self._unsaved}
        self._is_ripe = False
        taken, self._unsaved = self._unsaved, {}
        self.close()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._on_timer)
        return taken

    def close(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self._counts.clear()
        answers, self._late_answers = self._late_answers, []
        self.flush()
        for answer in answers:
            answer()
