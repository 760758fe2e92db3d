"""How far batches are, in the database: which lines have been taken, and which jobs they became."""

from __future__ import annotations

import sqlite3

from bgd.daemon.storage.records import TakenLines
from bgd.wire.replies import Run

KEPT_SECONDS = 90 * 86_400.0  # after its last line, a batch can be resumed for so long
RUNS_AT_ONCE = 10_000  # in one answer: some 100 KB


def save(db: sqlite3.Connection, taken: list[TakenLines], elapsed: float) -> None:
    """Write what was taken, in the transaction of its jobs; delete batches too old to be resumed.

    `elapsed` is the present on the elapsed clock.
    """
    db.executemany(_INSERT, [(each.batch, *run, elapsed) for each in taken for run in each.runs])
    db.execute(_DELETE_OLD, (elapsed - KEPT_SECONDS,))


def read_runs(db: sqlite3.Connection, batch: bytes, after: int) -> list[Run]:
    """Return some lines of a batch with their jobs, all after one line; none: there are no more."""
    return [tuple(row) for row in db.execute(_READ, (batch, after, RUNS_AT_ONCE))]


def last_line(db: sqlite3.Connection, batch: bytes) -> int:
    """Return the last line that was taken of a batch; 0: none."""
    row = db.execute(_LAST, (batch,)).fetchone()
    return 0 if row is None else int(row[0])


_INSERT = "INSERT INTO batches VALUES (?, ?, ?, ?, ? + (SELECT age_ahead FROM meta))"
_READ = "SELECT line, job, count FROM batches WHERE batch = ? AND line > ? ORDER BY line LIMIT ?"
_LAST = "SELECT line + count - 1 FROM batches WHERE batch = ? ORDER BY line DESC LIMIT 1"
_DELETE_OLD = "DELETE FROM batches WHERE at < ? + (SELECT age_ahead FROM meta)"
