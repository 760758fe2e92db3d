"""Which finished jobs are let go: by age, number and bytes of logs, the longest finished first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import chain, islice

from msgspec import Struct

from bgd.core.job import Job, JobId, State
from bgd.daemon.storage import restoring
from bgd.daemon.storage.database import transaction


class Keep(Struct, frozen=True, kw_only=True):
    """What stays of the finished jobs; a job goes as soon as one of these does not let it stay.

    Attributes:
        seconds: since its end, by state; a job in any other state is not touched. None: for ever.
        most: so many of each of these states, the latest. None: all.
        log_bytes: so many bytes of all logs together. None: all.
    """

    seconds: Mapping[State, float | None]
    most: int | None = None
    log_bytes: int | None = None


class Due(Struct, frozen=True, gc=False):
    """A job that is to go; `logged`: bytes of its logs."""

    aged_from: float  # its end, on retention's clock
    job: JobId
    logged: int


def due(db: sqlite3.Connection, keep: Keep, elapsed: float, limit: int) -> list[Due]:
    """Return at most `limit` of the jobs that are to go at this time of this boot's elapsed clock."""
    with transaction(db, "DEFERRED"):
        return list(islice(_due(db, keep, elapsed), limit))


def total(db: sqlite3.Connection, keep: Keep, elapsed: float) -> tuple[int, int]:
    """Return how many jobs are to go, and the bytes of their logs. Costs some 2 s for a million."""
    jobs = log_bytes = 0
    with transaction(db, "DEFERRED"):
        for each in _due(db, keep, elapsed):
            jobs += 1
            log_bytes += each.logged
    return jobs, log_bytes


def next_due_at(db: sqlite3.Connection, keep: Keep) -> float | None:
    """Return the elapsed time at which the next job will have been kept long enough, None: none ever will."""
    ahead = _age_ahead(db)
    ends = [
        aged_from + seconds - ahead
        for state, seconds in keep.seconds.items()
        if seconds is not None
        for (aged_from, *_) in db.execute(f"{_OLDEST} LIMIT 1", (state.value,))
    ]
    return min(ends, default=None)


def still_finished(db: sqlite3.Connection, wanted: Iterable[Due]) -> list[Job]:
    """Return those of these jobs that have not been run again since."""
    jobs: list[Job] = []
    with transaction(db, "DEFERRED"):
        for each in wanted:
            row = db.execute("SELECT aged_from FROM jobs WHERE id = ?", (each.job,)).fetchone()
            job = restoring.finished(db, each.job)
            if row is not None and job is not None and row[0] == each.aged_from:
                jobs.append(job)
    return jobs


def leftovers(db: sqlite3.Connection) -> list[JobId]:
    """Return jobs that were removed, and whose logs may still be there."""
    return [JobId(job_id) for (job_id,) in db.execute("SELECT job FROM leftovers")]


def _due(db: sqlite3.Connection, keep: Keep, elapsed: float) -> Iterator[Due]:
    at = elapsed + _age_ahead(db)
    (logged,) = db.execute("SELECT logged FROM meta").fetchone()
    rests: list[Iterator[Due]] = []
    for state, seconds in keep.seconds.items():
        finished = (Due(*row) for row in db.execute(_OLDEST, (state.value,)))
        left = _count(db, state)
        for each in finished:
            is_old = seconds is not None and each.aged_from <= at - seconds
            is_too_many = keep.most is not None and left > keep.most
            if not (is_old or is_too_many):
                rests.append(chain([each], finished))
                break
            yield each
            left -= 1
            logged -= each.logged
    for each in merge(*rests, key=lambda rest: rest.aged_from):
        if keep.log_bytes is None or logged <= keep.log_bytes:
            return
        yield each
        logged -= each.logged


def _age_ahead(db: sqlite3.Connection) -> float:
    (ahead,) = db.execute("SELECT age_ahead FROM meta").fetchone()
    return float(ahead)


def _count(db: sqlite3.Connection, state: State) -> int:
    (count,) = db.execute("SELECT jobs FROM counts WHERE state = ?", (state.value,)).fetchone()
    return int(count)


_OLDEST = """
    SELECT aged_from, id, logged FROM jobs INDEXED BY jobs_by_end
    WHERE state = ? AND aged_from IS NOT NULL ORDER BY aged_from, id
"""
