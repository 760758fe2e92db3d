"""Streams: notify followers of changed jobs, grown logs, and progress."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from bgd.core.job import ACTIVE, Job, JobId
from bgd.errors import Refused
from bgd.wire.views import JobProgress

PROGRESS_INTERVAL = 1.0  # seconds between two transactions that are written because of progress alone
LOOK_DELAY = 0.05  # seconds in which changes share one check of the watches
LOOK_FACTOR = (
    20  # and this many times the duration of the last check, so that it never takes much of a processor
)
MAX_PROMPT_ANSWERS = 20  # reports of one job in that interval that are answered at once


class Subscriptions:
    """All subscriptions by job; a change of a job without followers costs one look-up.

    Attributes:
        watches: what `look_soon` looks at.
        awaited: by subscription, the process of a client that waits, and the jobs that it waits for.
    """

    def __init__(self) -> None:
        self.awaited: dict[Subscription, tuple[int, set[JobId]]] = {}
        self._of_state: dict[JobId, set[Subscription]] = {}
        self._of_log: dict[JobId, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()
        self._of_session: dict[tuple[int, str], set[Subscription]] = {}
        self._of_progress: dict[Subscription, set[JobId] | None] = {}  # the jobs it follows; None: all
        self.watches: list[Callable[[], None]] = []
        self._look_timer: asyncio.TimerHandle | None = None
        self._look_delay = LOOK_DELAY

    @contextmanager
    def subscribe(
        self, job_ids: Iterable[JobId], *, progress: bool = False, log: bool = False, pid: int | None = None
    ) -> Iterator[Subscription]:
        """Yield a Subscription to the states of these jobs, and if wanted to their progress and logs.

        `pid`: the process of a client that waits for these jobs.
        """
        ids = set(job_ids)
        subscription = Subscription(ids)
        if pid is not None:
            self.awaited[subscription] = pid, ids
        followed = (self._of_state, self._of_log) if log else (self._of_state,)
        for by_job in followed:
            for job_id in ids:
                by_job.setdefault(job_id, set()).add(subscription)
        if progress:
            self._of_progress[subscription] = ids
        try:
            yield subscription
        finally:
            self.awaited.pop(subscription, None)
            self._of_progress.pop(subscription, None)
            for by_job in followed:
                for job_id in ids:
                    by_job[job_id].discard(subscription)
                    if not by_job[job_id]:
                        del by_job[job_id]

    @contextmanager
    def subscribe_to_all(self, *, progress: bool = False) -> Iterator[Subscription]:
        """Yield a Subscription to all jobs; it reports that something changed, but not which jobs.

        `progress`: it also holds what jobs report of their progress.
        """
        with self.subscribe(()) as subscription:
            self._of_all.add(subscription)
            if progress:
                self._of_progress[subscription] = None
            try:
                yield subscription
            finally:
                self._of_all.discard(subscription)

    @contextmanager
    def subscribe_to_session(self, session: tuple[int, str]) -> Iterator[Subscription]:
        """Yield a Subscription to the inbox of a session of a user."""
        subscription = Subscription(())
        self._of_session.setdefault(session, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._of_session[session].discard(subscription)
            if not self._of_session[session]:
                del self._of_session[session]

    def notify_sessions(self, sessions: Iterable[tuple[int, str]]) -> None:
        """Notify readers that wait for the inboxes of these sessions: there are ends to hand out."""
        for session in sessions:
            for subscription in self._of_session.get(session, ()):
                subscription.changed.set()

    @contextmanager
    def watch(self, subscription: Subscription, look: Callable[[], object]) -> Iterator[None]:
        """Also wake a subscription when `look` returns another value, for the duration of the block.

        `look` must be cheap. It is called soon after `look_soon`.
        """
        seen = look()

        def watch() -> None:
            nonlocal seen
            if (value := look()) != seen:
                seen = value
                subscription.changed.set()

        self.watches.append(watch)
        try:
            yield
        finally:
            self.watches.remove(watch)

    def look_soon(self) -> None:
        """Check all watches soon; without watches this does nothing."""
        if self.watches and self._look_timer is None:
            self._look_timer = asyncio.get_running_loop().call_later(self._look_delay, self._look)

    def has_log_subscribers(self, job_id: JobId) -> bool:
        """Return whether the log of this job has followers."""
        return job_id in self._of_log

    def notify_moved(self, job_ids: Iterable[JobId]) -> None:
        """Notify followers of jobs whose change of state, or removal, is on disk."""
        for subscription in self._of_all:
            subscription.changed.set()
        if not self._of_state:
            return
        for job_id in job_ids:
            for subscription in self._of_state.get(job_id, ()):
                subscription.moved.add(job_id)
                subscription.changed.set()

    def notify_step(self, job_id: int) -> None:
        """Notify followers of a job that has recorded a step."""
        for subscription in self._of_state.get(JobId(job_id), ()):
            subscription.changed.set()

    def notify_progress(self, reports: Mapping[JobId, JobProgress], ended: Collection[JobId]) -> None:
        """Notify followers of progress that is on disk; drop unread progress of jobs that ended."""
        for subscription, wanted in self._of_progress.items():
            news = (item for item in reports.items() if wanted is None or item[0] in wanted)
            subscription.add_progress(news, ended)

    def notify_log_grew(self, job_id: JobId) -> None:
        """Notify followers of a log that has grown."""
        for subscription in self._of_log.get(job_id, ()):
            subscription.changed.set()

    def _look(self) -> None:
        self._look_timer = None
        began = time.perf_counter()
        for watch in self.watches:
            watch()
        self._look_delay = max(LOOK_DELAY, LOOK_FACTOR * (time.perf_counter() - began))


class Subscription:
    """Tells one follower that jobs changed; the follower then looks them up.

    Attributes:
        changed: set at every change; the follower clears it before looking.
        moved: jobs whose state or attempt changed since the follower last took them; at first all of them.
    """

    def __init__(self, job_ids: Iterable[JobId]) -> None:
        self.changed = asyncio.Event()
        self.moved = set(job_ids)
        self._progress: dict[JobId, JobProgress] = {}

    def take_moved(self) -> set[JobId]:
        """Return `moved` and empty it; clear `changed`."""
        self.changed.clear()
        moved, self.moved = self.moved, set()
        return moved

    def take_progress(self) -> list[JobProgress]:
        """Return the latest progress of each running job that has reported since the last call."""
        reports, self._progress = self._progress, {}
        return list(reports.values())

    def add_progress(self, reports: Iterable[tuple[JobId, JobProgress]], ended: Iterable[JobId]) -> None:
        """Replace what these jobs reported earlier; forget what jobs reported that ended."""
        for job_id, progress in reports:
            self._progress[job_id] = progress
            self.changed.set()
        for job_id in ended:
            self._progress.pop(job_id, None)


class ProgressBuffer:
    """Holds the latest progress report of each job until a transaction saves it.

    A report after a quiet second is saved at once. Later ones, of all jobs, wait for one transaction a second
    later, or for the one that saves their attempt's end. Without reports, no timer is set.

    Args:
        job_of: returns the unfinished job with an id, or None.
        wake: called when the next transaction should save the reports.
    """

    def __init__(self, job_of: Callable[[JobId], Job | None], wake: Callable[[], object]) -> None:
        self._job_of = job_of
        self._wake = wake
        self._unsaved: dict[JobId, JobProgress] = {}
        self._counts: Counter[JobId] = Counter()  # reports in this interval
        self._late_answers: list[Callable[[], object]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False

    def report(self, progress: JobProgress, answer: Callable[[], object]) -> None:
        """Accept a report; call `answer` at once, or at the end of the interval if the job reports too often.

        Raises:
            Refused: this attempt does not run.
        """
        job_id = JobId(progress.job)
        check_running(self._job_of, progress.job, progress.attempt, "reports progress")
        self._unsaved[job_id] = progress
        self._counts[job_id] += 1
        if self._counts[job_id] <= MAX_PROMPT_ANSWERS:
            answer()
        else:
            self._late_answers.append(answer)
        if self._timer is None:
            self.flush()

    def flush(self) -> None:
        """Let the next transaction save everything."""
        if self._unsaved:
            self._is_due = True
            self._wake()

    def take(self, ended: Iterable[JobId]) -> dict[JobId, JobProgress]:
        """Return the reports to save in the transaction that begins now and saves the ends of `ended`."""
        if not self._is_due:
            return {job_id: self._unsaved.pop(job_id) for job_id in ended if job_id in self._unsaved}
        self._is_due = False
        taken, self._unsaved = self._unsaved, {}
        self.close()
        self._timer = asyncio.get_running_loop().call_later(PROGRESS_INTERVAL, self._on_timer)
        return taken

    def close(self) -> None:
        """Cancel the timer."""
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


def check_running(job_of: Callable[[JobId], Job | None], number: int, attempt: int, does: str) -> None:
    """Check that an attempt runs, so that nothing is recorded for one whose successor may run.

    Raises:
        Refused: it does not.
    """
    job = job_of(JobId(number))
    if job is None or job.state not in ACTIVE or job.attempt != attempt:
        raise Refused(f"attempt {attempt} of job {number} does not run: only a running attempt {does}")
