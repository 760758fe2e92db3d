"""Logs of attempts: read them while the launcher writes, count lost output, delete them after their jobs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

from bgd.core.job import JobId, Outcome
from bgd.daemon.storage import pruning
from bgd.daemon.storage.store import Store
from bgd.text.units import format_size
from bgd.wire.launching import AttemptEnded, AttemptKey, LogGrew, log_name
from bgd.wire.views import AttemptView, Finding, Level

logger = logging.getLogger(__name__)

CLEANED_AT_ONCE = 1000  # jobs whose logs one call on a thread deletes


def expected_log_bytes(attempt: AttemptView) -> int:
    """Return the number of bytes that an ended attempt wrote; 0 if that is not known."""
    # a log at its limit is cut on purpose
    is_known = attempt.outcome not in {None, Outcome.LOG_LIMIT}
    return attempt.log_bytes or 0 if is_known else 0


class LostOutput:
    """Counts output that could not be written to logs since the daemon started, and reports it once."""

    def __init__(self) -> None:
        self._attempts = self._bytes = 0  # of ended attempts
        self._latest = ""
        self._is_losing = False
        self._running: dict[AttemptKey, int] = {}  # bytes written so far by running attempts that lose output

    def grew(self, grew: LogGrew) -> None:
        """Record a running attempt whose log cannot be written."""
        if grew.log_problem is not None:
            self._running[grew.key] = grew.log_bytes
            self._warn(grew.key, grew.log_problem)

    def ended(self, ended: AttemptEnded) -> None:
        """Add up what an ended attempt lost."""
        self._running.pop(ended.key, None)
        if ended.log_problem is not None:
            self._attempts += 1
            self._bytes += ended.log_lost
            self._warn(ended.key, ended.log_problem)
        elif ended.log_bytes:
            self._is_losing = False  # a log could be written

    def written(self, key: AttemptKey) -> int:
        """Return the bytes written by a running attempt that loses output; 0 for any other attempt."""
        return self._running.get(key, 0)

    def findings(self) -> list[Finding]:
        """Return the findings of `bgctl doctor` about lost output; empty if there is none."""
        if not self._latest:
            return []
        level = Level.WARNING if self._is_losing else Level.NOTE
        running = f", and {len(self._running)} that run lose more" if self._running else ""
        message = (
            f"since bgd started {self._attempts} attempts lost {format_size(self._bytes)} of their output"
            f"{running}; the latest, {self._latest}"
        )
        return [Finding("output", level, message, "see that the log folder is there and its disk has room")]

    def _warn(self, key: AttemptKey, problem: str) -> None:
        """Warn once for all attempts, until a log can be written again."""
        self._latest = f"job {key.job}: {problem}"
        if not self._is_losing:
            logger.warning("%s; bgctl doctor counts what is lost from now on", self._latest)
        self._is_losing = True


class LogCleaner:
    """Deletes the logs of removed jobs, in the background.

    A job is removed from the database first. Leftovers of a crash are deleted at the next start.

    Args:
        clear: called with jobs whose logs are all deleted.
    """

    def __init__(self, store: Store, log_dir: str, clear: Callable[[Collection[JobId]], None]) -> None:
        self._store = store
        self._log_dir = log_dir
        self._clear = clear
        self._jobs: list[JobId] = []
        self._has_jobs = asyncio.Event()

    def add(self, jobs: Collection[JobId]) -> None:
        """Delete the logs of these jobs soon; their rows must be off the disk already."""
        self._jobs += jobs
        self._has_jobs.set()

    async def run(self) -> None:
        """Delete logs forever; the next start tries again what cannot be deleted now."""
        self.add(await self._store.read(pruning.leftovers))
        while True:
            await self._has_jobs.wait()
            jobs, self._jobs = frozenset(self._jobs[:CLEANED_AT_ONCE]), self._jobs[CLEANED_AT_ONCE:]
            if not self._jobs:
                self._has_jobs.clear()
            left = await asyncio.to_thread(remove_logs, self._log_dir, jobs)
            self._clear([job_id for job_id in jobs if job_id not in left])


def remove_logs(folder: str, jobs: Collection[int]) -> set[int]:
    """Delete the logs of all attempts of these jobs.

    Returns the jobs whose logs cannot be deleted; the daemon's log says why.
    """
    left: set[int] = set()
    for path in {Path(folder, log_name(job, 1)).parent for job in jobs}:
        try:
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                job, dot, _ = name.partition(".")
                if dot and job.isdecimal() and int(job) in jobs:
                    (path / name).unlink(missing_ok=True)
        except FileNotFoundError:  # none of them ever wrote anything
            continue
        except OSError as error:
            logger.warning("logs of removed jobs are left in %s: %s", path, error.strerror)
            left |= {job for job in jobs if Path(folder, log_name(job, 1)).parent == path}
    return left


def highest_job(folder: str) -> int:
    """Return the highest id of a job that has a log; 0 if no job has one."""
    try:
        names = [path.name for path in Path(folder).iterdir()]
    except FileNotFoundError:
        return 0
    for thousand in sorted(map(int, filter(str.isdecimal, names)), reverse=True):
        try:
            inside = [path.name.partition(".")[0] for path in Path(folder, str(thousand)).iterdir()]
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or not a folder of bgd
            continue
        jobs = [int(name) for name in inside if name.isdecimal()]
        if jobs:
            return max(jobs)
    return 0
