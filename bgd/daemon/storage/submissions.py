"""Which requests, and which lines of batches, made which jobs: what is sent again makes no second job."""

from __future__ import annotations

import sqlite3

import msgspec

from bgd.core.job import JobId
from bgd.core.spec import MAX_ID
from bgd.daemon.storage.database import rows_of, runs_of
from bgd.daemon.storage.records import Submission
from bgd.wire.replies import Run
from bgd.wire.requests import ROUND

KEPT_SECONDS = 600.0  # requests outlive removed jobs: twice as long as a client sends one again
BATCH_SECONDS = 90 * 86_400.0  # after its last line, a batch can be resumed for so long
RUNS_AT_ONCE = 10_000  # in one answer: some 100 KB

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[int]]).decode


# --- requests: the specs of their jobs hold their tokens, and for a while `submissions` those of removed jobs


def pack_answer(submission: Submission) -> bytes | None:
    """Return the answer to a request as the spec of its first new job holds it; None: only that job."""
    is_plain = submission.jobs == [submission.first]
    return None if is_plain else _encode((submission.jobs, submission.found))


def keep_submissions(db: sqlite3.Connection, removed: list[JobId], elapsed: float) -> None:
    """Keep the tokens of jobs that are about to be removed and were created in the last minutes.

    Delete some of those that are older now. `elapsed` is the present on the elapsed clock.
    """
    since = elapsed - KEPT_SECONDS
    kept = db.executemany(_KEEP, [(*run, since) for run in runs_of(removed)]).rowcount
    if kept > 0:
        db.execute(_DELETE_OLD, (2 * kept, since))


def find_submission(
    db: sqlite3.Connection, token: bytes, after: int, until: int = MAX_ID
) -> Submission | None:
    """Return the request with this token whose first new job is above `after` and at most `until`, or None.

    An index of tokens would slow down every submit, so this reads all specs in between: 0.2 s for a million.
    """
    row = db.execute(_FIND, (token, after, until)).fetchone()
    if row is None:
        return None
    first, answer = row
    jobs, found = ([int(first)], []) if answer is None else _decode(answer)
    return Submission(jobs, found, JobId(first))


_KEEP = """
    INSERT OR IGNORE INTO submissions (first, token, jobs, at) -- two clients may remove one job
    SELECT job, token, answer, created_aged FROM specs JOIN jobs ON jobs.id = job
    WHERE job BETWEEN ? AND ? AND token IS NOT NULL AND created_aged > ? + (SELECT age_ahead FROM meta)
"""
# Of the oldest twice as many as were added, so that none stay and a removal stays quick
_DELETE_OLD = """
    DELETE FROM submissions
    WHERE first IN (SELECT first FROM submissions ORDER BY first LIMIT ?)
          AND at <= ? + (SELECT age_ahead FROM meta)
"""
_FIND = """
    SELECT job, answer FROM specs WHERE job > ?2 AND job <= ?3 AND token = ?1
    UNION ALL SELECT first, jobs FROM submissions WHERE first > ?2 AND first <= ?3 AND token = ?1
    ORDER BY 1 LIMIT 1
"""


# --- lines of batches


def save_lines(db: sqlite3.Connection, taken: list[tuple[bytes, list[Run]]], elapsed: float) -> None:
    """Write which lines of batches were taken, in the transaction of their jobs.

    Delete batches too old to be resumed. `elapsed` is the present on the elapsed clock.
    """
    db.executemany(_INSERT_LINES, [(batch, *run, elapsed) for batch, runs in taken for run in runs])
    db.execute(_DELETE_OLD_LINES, (elapsed - BATCH_SECONDS,))


def read_lines(db: sqlite3.Connection, batch: bytes, after: int) -> list[Run]:
    """Return the next lines of a batch after a given one, with their jobs; empty after the last line."""
    return [tuple(row) for row in db.execute(_READ_LINES, (batch, after, RUNS_AT_ONCE))]


def last_line(db: sqlite3.Connection, batch: bytes) -> int:
    """Return the last line that was taken of a batch; 0: none."""
    row = db.execute(_LAST_LINE, (batch,)).fetchone()
    return 0 if row is None else int(row[0])


def superseded(db: sqlite3.Connection, job_ids: list[JobId]) -> set[JobId]:
    """Return those of these jobs whose line of a batch was queued again later."""
    return {JobId(job_id) for (job_id,) in rows_of(db, _SUPERSEDED, job_ids)}


_INSERT_LINES = "INSERT INTO batches VALUES (?, ?, ?, ?, ? + (SELECT age_ahead FROM meta))"
_READ_LINES = "SELECT line, job, count FROM batches WHERE batch = ? AND line > ? ORDER BY line LIMIT ?"
_LAST_LINE = "SELECT line + count - 1 FROM batches WHERE batch = ? ORDER BY line DESC LIMIT 1"
# The line of a job, without rounds, is one of a later run
_SUPERSEDED = f"""
    SELECT id FROM jobs
    JOIN batches AS own ON id BETWEEN own.job AND own.job + own.count - 1
    JOIN batches AS later ON later.batch = own.batch AND later.job > id
        AND (own.line + id - own.job) % {ROUND} - later.line % {ROUND} BETWEEN 0 AND later.count - 1
    WHERE id IN
"""  # noqa: S608 (a constant)
_DELETE_OLD_LINES = "DELETE FROM batches WHERE at < ? + (SELECT age_ahead FROM meta)"
