"""Figures of all jobs together: how many there are, how attempts ended of late, and what they took."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from math import ceil

from bgd.core.job import FINAL, State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.daemon.storage import events
from bgd.daemon.storage.database import transaction
from bgd.daemon.storage.records import Figures

_MOST_TIMED = 10_000  # attempts, the newest; 20 ms of reading


def counts(db: sqlite3.Connection) -> dict[str, int]:
    return {row["state"]: row["jobs"] for row in db.execute("SELECT state, jobs FROM counts")}


def queue_counts(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Return unfinished jobs by queue and state."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for queue, state, jobs in db.execute(_QUEUE_COUNTS):
        if jobs:
            found[queue][state] = jobs
    return dict(found)


def has_jobs_in(db: sqlite3.Connection, queue: str) -> bool:
    """Tell whether any job, finished ones too, is in this queue, which is not the default one."""
    sql = (
        f"SELECT 1 FROM jobs INDEXED BY jobs_by_queue WHERE queue = ? AND queue <> '{DEFAULT_QUEUE}' LIMIT 1"  # noqa: S608 (a constant)
    )
    return db.execute(sql, (queue,)).fetchone() is not None


def figures(db: sqlite3.Connection, since: float) -> Figures:
    """Return what the events that are kept tell of the attempts that ended at or after this epoch time."""
    with transaction(db, "DEFERRED"):
        ended = [event for event in events.latest(db) if event.outcome is not None and event.at >= since]
        times = [
            row
            for event in ended[:_MOST_TIMED]
            for row in db.execute(_TIMES, (event.job, event.attempt))  # none if the job was removed
        ]
        oldest = db.execute(_OLDEST, (State.QUEUED.value,)).fetchone()
    waits = sorted(wait for wait, _ in times if wait is not None)
    runs = sorted(run for _, run in times if run is not None)
    return Figures(
        outcomes=Counter(event.outcome.value for event in ended if event.outcome is not None),
        wait_median=_at_most(waits, 0.5),
        wait_p95=_at_most(waits, 0.95),
        run_median=_at_most(runs, 0.5),
        run_p95=_at_most(runs, 0.95),
        oldest_queued_at=None if oldest is None else oldest["created_at"],
    )


def _at_most(sorted_values: list[float], share: float) -> float | None:
    """Return the least value that so great a share of all is not above."""
    return sorted_values[ceil(share * len(sorted_values)) - 1] if sorted_values else None


_UNFINISHED = ", ".join(f"'{state.value}'" for state in State if state not in FINAL)

# the default queue has all jobs of a state but those elsewhere
_QUEUE_COUNTS = f"""
    WITH elsewhere AS (
        SELECT queue, state, count(*) AS jobs FROM jobs INDEXED BY jobs_by_queue
        WHERE queue <> '{DEFAULT_QUEUE}' AND state IN ({_UNFINISHED}) GROUP BY queue, state
    )
    SELECT queue, state, jobs FROM elsewhere
    UNION ALL
    SELECT '{DEFAULT_QUEUE}', state,
           jobs - (SELECT coalesce(sum(jobs), 0) FROM elsewhere WHERE elsewhere.state = counts.state)
    FROM counts WHERE state IN ({_UNFINISHED})
"""  # noqa: S608 (constants)

_TIMES = """
    SELECT CASE attempts.attempt WHEN 1 THEN max(attempts.started_aged - jobs.created_aged, 0) END,
           attempts.run_seconds
    FROM attempts JOIN jobs ON jobs.id = attempts.job
    WHERE attempts.job = ? AND attempts.attempt = ?
"""

_OLDEST = "SELECT created_at FROM jobs WHERE state = ? ORDER BY id LIMIT 1"
