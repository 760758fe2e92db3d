"""Which requests made which jobs: kept for a while, so that one that is sent again makes none."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from bgd.core.job import JobId
from bgd.daemon.storage.records import Submission

KEPT_SECONDS = 600.0  # twice the time in which a client sends a request again
_AT_ONCE = 1_000  # as many are added before old ones are looked for, and twice as many deleted then

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[int]]).decode


def find(db: sqlite3.Connection, token: bytes, newest: int) -> Submission | None:
    """Return the request with this token, whose first new job is newer than the job `newest`.

    There is no index of tokens, which would cost every submit: this reads the requests since `newest`.
    """
    row = db.execute(_FIND, (newest, token)).fetchone()
    if row is None:
        return None
    first = JobId(row["first"])
    jobs, found = ([int(first)], []) if row["jobs"] is None else _decode(row["jobs"])
    return Submission(first, token, jobs, found)


def add(db: sqlite3.Connection, submissions: Sequence[Submission], at: float) -> None:
    """Add requests inside the caller's transaction, and delete some of those that are too old by now.

    `at` is on the elapsed clock, which never jumps: whoever sends again lives no longer than this boot.
    """
    db.executemany("INSERT INTO submissions VALUES (?, ?, ?, ?)", [_row(each, at) for each in submissions])
    if (submissions[0].first - 1) // _AT_ONCE < submissions[-1].first // _AT_ONCE:
        _delete_old(db, at)


def _row(submission: Submission, at: float) -> tuple[object, ...]:
    is_plain = submission.jobs == [submission.first]
    jobs = None if is_plain else _encode((submission.jobs, submission.found))
    return (submission.first, submission.token, jobs, at)


def _delete_old(db: sqlite3.Connection, at: float) -> None:
    row = db.execute(_ONE_THAT_MAY_BE_OLD, (2 * _AT_ONCE,)).fetchone()
    if row is not None and abs(at - row[1]) > KEPT_SECONDS:  # or of another boot
        db.execute("DELETE FROM submissions WHERE first <= ?", (row[0],))


_FIND = "SELECT first, jobs FROM submissions WHERE first > ? AND token = ? ORDER BY first LIMIT 1"
_ONE_THAT_MAY_BE_OLD = "SELECT first, at FROM submissions ORDER BY first LIMIT 1 OFFSET ?"
