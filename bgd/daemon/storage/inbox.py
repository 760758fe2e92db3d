"""The inboxes of sessions: ends of their jobs that are not acknowledged yet."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from itertools import islice

from msgspec import convert

from bgd.core.job import FINAL
from bgd.daemon.storage.database import plain_cursor, transaction
from bgd.daemon.storage.records import Transaction
from bgd.wire.requests import AcknowledgeEnds
from bgd.wire.views import JobEnd

MAX_REASON = 500  # characters; the job has the whole error
MAX_UNREAD = 100_000  # ends of all sessions together: a session that is never read must not grow forever


class InboxWriter:
    """Writes ends of jobs to the inboxes of their sessions, in the transaction that ends them.

    It costs no statement while no job has a session. Call `forget` after a rollback.

    Attributes:
        has_sessions: whether a job may have one; None: to be looked up.
    """

    def __init__(self) -> None:
        self.has_sessions: bool | None = None

    def save(self, db: sqlite3.Connection, saved: Transaction) -> None:
        """Write the ends of a transaction, after its jobs and attempts; name the sessions that got some."""
        ended = [save.job.id for save in saved.saves.values() if save.job.state in FINAL]
        if not ended:
            return
        if self.has_sessions is None:
            self.has_sessions = bool(db.execute(_HAS_SESSIONS).fetchone()[0])
        if self.has_sessions:
            saved.sessions = set(
                plain_cursor(db).execute(_INSERT, (MAX_REASON, json.dumps(ended))).fetchall()
            )

    def forget(self) -> None:
        """Forget whether a job has a session."""
        self.has_sessions = None


def unread(
    db: sqlite3.Connection, uid: int, session: str, limit: int, without: Collection[int] = ()
) -> list[JobEnd]:
    """Return at most `limit` ends in the inbox of a user's session, the oldest first, `without` these."""
    rows = (row for row in plain_cursor(db).execute(_UNREAD, (uid, session)) if row[0] not in without)
    fields = JobEnd.__struct_fields__
    return [
        convert(dict(zip(fields, row, strict=False)), JobEnd, strict=False) for row in islice(rows, limit)
    ]


def mark_handed_out(db: sqlite3.Connection, events: list[int]) -> dict[int, bool]:
    """Mark these ends as handed out; return whether each was before, without those that are gone."""
    with transaction(db):
        return {event: times > 1 for event, times in db.execute(_HAND_OUT, (json.dumps(events),))}


def acknowledge(db: sqlite3.Connection, uid: int, seen: AcknowledgeEnds) -> list[int]:
    """Delete ends from the inboxes of a user; return the events of those that were still there."""
    with transaction(db):
        rows = db.execute(_DELETE, (uid, json.dumps(seen.events))).fetchall()
        rows += db.execute(_DELETE_OF_JOBS, (uid, seen.session, json.dumps(seen.jobs))).fetchall()
    return [event for (event,) in rows]


def delete_old(db: sqlite3.Connection, elapsed: float, keep: float | None) -> None:
    """Delete ends that are older than `keep` seconds, and the oldest if there are more than MAX_UNREAD."""
    with transaction(db):
        if keep is not None:
            db.execute(_DELETE_OLD, (elapsed - keep,))
        db.execute(_DELETE_REST, (MAX_UNREAD,))


_HAS_SESSIONS = "SELECT EXISTS (SELECT 1 FROM jobs WHERE session IS NOT NULL)"

# CROSS keeps SQLite from reading all jobs with a session. A job that was cancelled before a retry has the
# outcome of the attempt before; one that failed without an attempt has none.
_INSERT = """
    INSERT INTO inbox (uid, session, job, attempt, state, outcome, exit_code, signal, reason, at, seconds,
                       log_bytes, aged)
    SELECT uid, session, jobs.id, jobs.attempt, state,
           iif(state = 'cancelled', state, coalesce(jobs.outcome, 'not_started')),
           jobs.exit_code, jobs.signal, substr(coalesce(reason, iif(
               json_extract(error, '$.type') = jobs.outcome, json_extract(error, '$.message'),
               json_extract(error, '$.type') || ': ' || json_extract(error, '$.message')
           )), 1, ?), jobs.finished_at,
           coalesce(run_seconds, attempts.finished_at - attempts.started_at), log_bytes, aged_from
    FROM json_each(?) AS ended
         CROSS JOIN jobs ON jobs.id = ended.value
         LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
         LEFT JOIN results ON results.job = jobs.id AND results.attempt = jobs.attempt
    WHERE session IS NOT NULL ORDER BY jobs.finished_at, jobs.id
    RETURNING uid, session
"""
_UNREAD = """
    SELECT event, inbox.session, job, inbox.attempt, jobs.name, inbox.state, inbox.outcome, inbox.exit_code,
           inbox.signal, inbox.reason, at, seconds, log_bytes, handed_out > 0
    FROM inbox INDEXED BY inbox_by_session JOIN jobs ON jobs.id = job
    WHERE inbox.uid = ? AND inbox.session = ? ORDER BY event
"""
_HAND_OUT = """
    UPDATE inbox SET handed_out = handed_out + 1
    WHERE event IN (SELECT value FROM json_each(?)) RETURNING event, handed_out
"""
# with the +, SQLite looks up the events instead of reading all ends of the user
_DELETE = """
    DELETE FROM inbox WHERE +uid = ? AND event IN (SELECT value FROM json_each(?)) RETURNING event
"""
_DELETE_OF_JOBS = """
    DELETE FROM inbox
    WHERE uid = ? AND session = ? AND job IN (SELECT value FROM json_each(?)) RETURNING event
"""
_DELETE_OLD = "DELETE FROM inbox WHERE aged <= ? + (SELECT age_ahead FROM meta)"
_DELETE_REST = (
    "DELETE FROM inbox WHERE event <= (SELECT event FROM inbox ORDER BY event DESC LIMIT 1 OFFSET ?)"
)
