"""Which finished jobs to delete: by age, number and bytes of logs, those that finished first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from itertools import chain, islice

from msgspec import Struct

from bgd.core.job import Job, JobId, State
from bgd.daemon.storage.database import rows_of, transaction
from bgd.daemon.storage.read import NEEDS, finished_jobs, jobs_that_need


class RetentionLimits(Struct, frozen=True, kw_only=True):
    """Which finished jobs are kept; a job is deleted as soon as one limit does not let it stay.

    Attributes:
        max_age: seconds since its end, by state; None means forever. Jobs in other states are not touched.
        max_jobs: the latest of each of these states; None means all.
        max_log_bytes: of all logs together; None means any number.
        keeps_unread: keep jobs whose ends are in an inbox, unless max_log_bytes is exceeded.
    """

    max_age: Mapping[State, float | None]
    max_jobs: int | None = None
    max_log_bytes: int | None = None
    keeps_unread: bool = False


class PrunableJob(Struct, frozen=True, gc=False):
    """A job to delete: when it ended, on retention's clock, and how many bytes its logs have."""

    aged_from: float
    job: JobId
    logged: int


def prunable_jobs(
    db: sqlite3.Connection, limits: RetentionLimits, elapsed: float, limit: int
) -> list[PrunableJob]:
    """Return at most `limit` jobs to delete at this time of this boot's elapsed clock."""
    with transaction(db, "DEFERRED"):
        return list(islice(_prunable(db, limits, elapsed), limit))


def total_prunable(db: sqlite3.Connection, limits: RetentionLimits, elapsed: float) -> tuple[int, int]:
    """Return how many jobs there are to delete, and the bytes of their logs; takes 2 s for a million."""
    jobs = log_bytes = 0
    with transaction(db, "DEFERRED"):
        for each in _prunable(db, limits, elapsed):
            jobs += 1
            log_bytes += each.logged
    return jobs, log_bytes


def next_prunable_at(db: sqlite3.Connection, limits: RetentionLimits) -> float | None:
    """Return the elapsed time at which the next job reaches its age limit; None if none ever will."""
    ahead = _age_ahead(db)
    ends = [
        aged_from + max_age - ahead
        for state, max_age in limits.max_age.items()
        if max_age is not None
        for (aged_from, *_) in db.execute(f"{_oldest(limits)} LIMIT 1", (state.value,))
    ]
    return min(ends, default=None)


def still_finished(db: sqlite3.Connection, wanted: Sequence[PrunableJob]) -> list[Job]:
    """Return those of these jobs that have not been run again since, and whose results no job needs."""
    ids = [each.job for each in wanted]
    with transaction(db, "DEFERRED"):
        ends = dict(rows_of(db, "SELECT id, aged_from FROM jobs WHERE id IN", ids))
        jobs = finished_jobs(db, ids)
        for needed in jobs_that_need(db, ids):
            jobs.pop(needed, None)
    return [jobs[each.job] for each in wanted if each.job in jobs and ends[each.job] == each.aged_from]


def leftovers(db: sqlite3.Connection) -> list[JobId]:
    """Return the jobs that were deleted and whose logs may still be on disk."""
    return [JobId(job_id) for (job_id,) in db.execute("SELECT job FROM leftovers")]


def _prunable(db: sqlite3.Connection, limits: RetentionLimits, elapsed: float) -> Iterator[PrunableJob]:
    at = elapsed + _age_ahead(db)
    (logged,) = db.execute("SELECT logged FROM meta").fetchone()
    rests: list[Iterator[PrunableJob]] = []
    for state, max_age in limits.max_age.items():
        finished = (PrunableJob(*row) for row in db.execute(_oldest(limits), (state.value,)))
        unread = db.execute(_UNREAD, (state.value,)).fetchall() if limits.keeps_unread else []
        rests.append(PrunableJob(*row) for row in unread)
        left = _count(db, state) - len(unread)  # or they would push out jobs that were read
        for each in finished:
            is_old = max_age is not None and each.aged_from <= at - max_age
            is_too_many = limits.max_jobs is not None and left > limits.max_jobs
            if not (is_old or is_too_many):
                rests.append(chain([each], finished))
                break
            yield each
            left -= 1
            logged -= each.logged
    for each in merge(*rests, key=lambda rest: rest.aged_from):
        if limits.max_log_bytes is None or logged <= limits.max_log_bytes:
            return
        yield each
        logged -= each.logged


def _age_ahead(db: sqlite3.Connection) -> float:
    """Return how far retention's clock is ahead of this boot's elapsed clock."""
    (ahead,) = db.execute("SELECT age_ahead FROM meta").fetchone()
    return float(ahead)


def _count(db: sqlite3.Connection, state: State) -> int:
    (count,) = db.execute("SELECT jobs FROM counts WHERE key = ?", (state.value,)).fetchone()
    return int(count)


def _oldest(limits: RetentionLimits) -> str:
    """Return the query for the finished jobs of a state that may be deleted, those that finished first."""
    return f"{_FINISHED} {_IS_READ if limits.keeps_unread else ''} {_IN_ORDER}"


_IN_ORDER = "ORDER BY aged_from, id"
_DELETABLE = f"aged_from IS NOT NULL AND NOT EXISTS ({NEEDS} AND source = jobs.id)"
_FINISHED = f"SELECT aged_from, id, logged FROM jobs INDEXED BY jobs_by_end WHERE state = ? AND {_DELETABLE}"  # noqa: S608
_IS_READ = "AND NOT EXISTS (SELECT 1 FROM inbox WHERE job = jobs.id)"
# +: by their ids, which are few
_UNREAD = f"""
    SELECT aged_from, id, logged FROM jobs
    WHERE id IN (SELECT job FROM inbox) AND +state = ? AND {_DELETABLE} {_IN_ORDER}
"""  # noqa: S608 (constants)
