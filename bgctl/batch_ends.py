"""Follows the jobs of a batch to their ends: writes its log, counts, and halts it after failures."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

from msgspec import Struct

from bgctl.batch_resume import JobLog, LinesOfJobs, LineTable, Standing, ended_of, standing_of
from bgctl.options import FINISHED, Parsed
from bgd import Client, Job
from bgd.client.batch import Taken
from bgd.client.session import portions
from bgd.errors import BgdError, DaemonUnreachable, Refused
from bgd.wire.replies import Run
from bgd.wire.views import EventView

R = TypeVar("R")

LEAST_FAILURES = 3  # before a share of them halts a batch: one of two is half
NAMED_LINES = 5  # that failed


class Halt(Struct, frozen=True):
    """When to halt a batch: after a number of failures, or once this percentage of the ended jobs has failed.

    `now`: cancel running jobs too.
    """

    now: bool
    failures: int
    is_share: bool

    def is_reached(self, failed: int, ended: int) -> bool:
        if self.is_share:
            return failed >= LEAST_FAILURES and failed * 100 >= self.failures * ended
        return failed >= self.failures


def _halt(text: str) -> Halt:
    """Parse "soon,fail=1" or "now,fail=10%", as GNU parallel spells it."""
    match = re.fullmatch(r"(now|soon),fail=([1-9][0-9]{0,8})(%?)", text)
    if match is None or (match[3] and int(match[2]) > 100):  # noqa: PLR2004 - percent
        raise ValueError(f"{text!r} is not now or soon with fail=N or fail=N%, such as soon,fail=1")
    return Halt(match[1] == "now", int(match[2]), bool(match[3]))


HALT = Parsed("halt", _halt)


class Ends:
    """The ends of the jobs of one batch, with a few bytes in memory for each line.

    Two threads find them: one reads the daemon's events, the other looks up jobs that have ended. Before they
    start, `count` takes the standings of a resumed batch.

    Args:
        daemon: the client, which threads may share.
        log: the log to write; None: none.
        halt: when to halt the batch; None: never.
        stop_reading: called when the batch is halted; ends the reading of lines.
        reopen: called before jobs of a halted batch are cancelled, so that it does not end with them.
        report: called with each line whose job has ended, and the job.

    Attributes:
        is_done: set when all jobs have ended, or there is an `error`.
        error: why no more ends can be found.
        counts: how many lines have each standing.
        is_halted: whether enough of them failed, those aside that had when the batch was resumed.
    """

    def __init__(
        self,
        daemon: Client,
        log: JobLog | None,
        halt: Halt | None,
        stop_reading: Callable[[], object],
        reopen: Callable[[], object],
        report: Callable[[int, Job], object],
    ) -> None:
        self._daemon = daemon
        self._log = log
        self._halt = halt
        self._stop_reading = stop_reading
        self._reopen = reopen
        self._report = report
        self._news: SimpleQueue[Callable[[], object]] = SimpleQueue()  # what the second thread has to do
        self._lines = LinesOfJobs()
        self._ended: set[int] = set()  # jobs to look up
        self._early: set[int] = set()  # jobs that have ended, perhaps of lines whose answer is to come
        self._standings = LineTable()
        self._is_all_known = False
        self.is_done = threading.Event()
        self.error: BgdError | None = None
        self.counts = dict.fromkeys(Standing, 0)
        self.is_halted = False
        self._known_failed = self._known_ended = 0
        self._since = daemon.last_event()  # before the first job

    def start(self) -> None:
        """Start finding ends."""
        self._known_failed, self._known_ended = self.counts[Standing.FAILED], self.ended
        for work in (self._read_events, self._work):
            threading.Thread(target=work, daemon=True).start()

    def add(self, taken: Taken) -> None:
        """Follow the jobs of some lines."""
        for run in taken.runs:
            self._news.put(partial(self._add_run, run))

    def add_no_more(self) -> None:
        """End as soon as the jobs of all lines so far have ended."""
        self._news.put(self._note_all)

    @property
    def jobs(self) -> int:
        """How many lines are or were jobs."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return self.jobs - self.counts[Standing.UNFINISHED]

    def first_failed(self) -> list[int]:
        """Return the first lines whose jobs failed."""
        failed = (line for line, standing in self._standings if standing == Standing.FAILED)
        return list(islice(failed, NAMED_LINES))

    def count(self, line: int, standing: Standing) -> None:
        """Change the standing of a line in the counts."""
        if before := self._standings[line]:
            self.counts[Standing(before)] -= 1
        self._standings[line] = standing
        self.counts[standing] += 1

    def _is_unfinished(self, line: int) -> bool:
        return self._standings[line] == Standing.UNFINISHED

    # --- the thread that reads events -------------------------------------------------------------------

    def _read_events(self) -> None:
        since = self._since
        try:
            while True:
                try:
                    for event in self._daemon.events(since):
                        since = event.id
                        if isinstance(event, EventView) and event.state in FINISHED:
                            self._news.put(partial(self._note_end, event.job))
                except Refused:  # the events that followed were deleted meanwhile
                    since = self._daemon.last_event()
                    self._news.put(lambda: self._look_at(self._unfinished_jobs()))
                except DaemonUnreachable:
                    self._daemon.reconnect()
        except BgdError as error:
            self._news.put(partial(self._fail, error))

    def _fail(self, error: BgdError) -> None:
        raise error

    # --- the thread that looks at jobs ------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not (self._is_all_known and self.ended >= self.jobs):
                self._take_news()
        except BgdError as error:
            self.error = error
        except OSError as error:  # of `report`
            self.error = Refused(f"cannot write to stdout: {error.strerror}")
        finally:
            self._stop_reading()
            self.is_done.set()

    def _take_news(self) -> None:
        """Wait for news, and look up the jobs that they name together."""
        self._news.get()()
        with suppress(Empty):
            while True:
                self._news.get_nowait()()
        self._look_at(sorted(self._ended))
        self._ended.clear()

    def _note_end(self, job_id: int) -> None:
        if self._lines.of(job_id):
            self._ended.add(job_id)
        elif job_id > self._lines.newest_job and not self._is_all_known:
            self._early.add(job_id)

    def _add_run(self, run: Run) -> None:
        """Follow the jobs of a run; some may have ended already."""
        line, job, count = run
        self._lines.add(run)
        for number in range(line, line + count):
            self.count(number, Standing.UNFINISHED)
        self._ended |= {each for each in self._early if job <= each < job + count}
        self._early = {each for each in self._early if each > self._lines.newest_job}

    def _note_all(self) -> None:
        self._is_all_known = True
        if self.is_halted:
            self._cancel_rest()

    def _unfinished_jobs(self) -> Iterator[int]:
        return (job for line, job in self._lines if self._is_unfinished(line))

    def _look_at(self, job_ids: Iterable[int]) -> None:
        """Count those of these jobs that have ended."""
        for chunk in portions(job_ids):
            jobs, removed = self._patiently(partial(ended_of, self._daemon, chunk))
            for job_id in removed:
                self._count_removed(job_id)
            for job in jobs:
                self._count(job)

    def _count(self, job: Job) -> None:
        standing = standing_of(job)
        for line in self._lines.of(job.id):
            if not self._is_unfinished(line):  # it was retried meanwhile
                continue
            self.count(line, standing)
            if self._log is not None and standing is not Standing.UNSTARTED:
                self._log.add(line, job)
            self._report(line, job)
        failed, ended = self.counts[Standing.FAILED] - self._known_failed, self.ended - self._known_ended
        if self._halt and not self.is_halted and self._halt.is_reached(failed, ended):
            self.is_halted = True
            self._stop_reading()
            if self._is_all_known:
                self._cancel_rest()

    def _count_removed(self, job_id: int) -> None:
        for line in self._lines.of(job_id):
            if self._is_unfinished(line):
                self.count(line, Standing.LOST)

    def _cancel_rest(self) -> None:
        """Cancel waiting jobs, and with `now` also running ones; their lines wait until they are resumed."""
        rest = list(self._unfinished_jobs())
        if rest:
            self._patiently(self._reopen)
        cancel = self._daemon.cancel if self._halt and self._halt.now else self._daemon.cancel_waiting
        for chunk in portions(rest):
            self._patiently(partial(cancel, chunk))

    def _patiently(self, ask: Callable[[], R]) -> R:
        """Call `ask`, which may be repeated, again after each restart of the daemon.

        Raises:
            DaemonUnreachable: no daemon came back.
        """
        while True:
            try:
                return ask()
            except DaemonUnreachable:
                self._daemon.reconnect()
