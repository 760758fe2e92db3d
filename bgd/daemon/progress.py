"""The book of progress: what attempts say of themselves, from the report until it is written down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

from bgd.core.job import ACTIVE, Job, JobId
from bgd.errors import Refused
from bgd.wire.views import JobProgress

INTERVAL = 1.0  # seconds between two transactions that what jobs say of themselves may cause
ANSWERED_AT_ONCE = 20  # reports of one job within that; for answers to more of them it has to wait


class ProgressBook:
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
            self.hurry()

    def hurry(self) -> None:
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
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._come_due)
        return taken

    def close(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _come_due(self) -> None:
        self._timer = None
        self._counts.clear()
        answers, self._late_answers = self._late_answers, []
        self.hurry()
        for answer in answers:
            answer()
