"""Batches of jobs in the database: their counts, jobs and follow-ups."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from operator import attrgetter

import msgspec

from bgd.core.batches import Batch, BatchEvent, BatchId
from bgd.core.job import JobId
from bgd.core.spec import JobSpec
from bgd.daemon.access import user_name
from bgd.daemon.storage.database import update_rows
from bgd.daemon.storage.records import Transaction, unpack_spec
from bgd.text.brief import BATCH_COUNTS
from bgd.wire.views import BatchView, FollowUpView

_COUNTS = BATCH_COUNTS[1:]

_encode = msgspec.msgpack.Encoder().encode
_changing = attrgetter("is_whole", "is_cancelled", "finished_at", *_COUNTS)


def save(db: sqlite3.Connection, transaction: Transaction) -> None:
    """Write what has changed of batches, in the transaction of their jobs."""
    new = transaction.new_batches
    db.executemany(_INSERT, [_new_row(each, new[each.id]) for each in transaction.counted if each.id in new])
    db.executemany("INSERT INTO batch_jobs VALUES (?, ?, ?)", transaction.joined)
    kept = [(last - first + 1, batch) for first, last, batch in transaction.joined]
    update_rows(db, "UPDATE job_batches SET kept = kept + ? WHERE id = ?", kept)
    counted = [
        (*_changing(each), *map(each.started.get, BatchEvent), each.id) for each in transaction.counted
    ]
    update_rows(db, _UPDATE, counted)


def _new_row(batch: Batch, follow_ups: Mapping[BatchEvent, JobSpec]) -> tuple[object, ...]:
    specs = [None if event not in follow_ups else _encode(follow_ups[event]) for event in BatchEvent]
    return batch.id, batch.token, batch.uid, batch.name, batch.created_at, *specs


def remove_jobs(db: sqlite3.Connection, removed: Mapping[int, int]) -> None:
    """Note how many jobs of each batch are deleted; delete the batches that have ended and have no others."""
    if removed:
        changes = [(jobs, batch) for batch, jobs in removed.items()]
        update_rows(db, "UPDATE job_batches SET kept = kept - ? WHERE id = ?", changes)
        db.execute("DELETE FROM job_batches WHERE kept = 0 AND finished_at IS NOT NULL")


# --- reading


def last_id(db: sqlite3.Connection) -> int:
    """Return the highest id ever given to a batch."""
    (number,) = db.execute(_LAST_ID).fetchone()
    return int(number)


def open_batches(db: sqlite3.Connection) -> list[tuple[Batch, list[tuple[JobId, JobId]]]]:
    """Return all batches that have not ended, with their runs of jobs."""
    runs = "SELECT first, last FROM batch_jobs WHERE batch = ?"
    return [
        (_batch(row), list(map(tuple, db.execute(runs, (row["id"],)))))
        for row in _rows(db, "WHERE finished_at IS NULL").fetchall()
    ]


def read_batches(db: sqlite3.Connection, ids: Iterable[BatchId]) -> list[Batch]:
    """Return those of these batches that exist."""
    return [_batch(row) for id_ in ids for row in _rows(db, "WHERE id = ?", id_)]


def batch_of_token(db: sqlite3.Connection, token: bytes) -> Batch | None:
    """Return the batch whose client chose this token."""
    return next(map(_batch, _rows(db, "WHERE token = ?", token)), None)


def follow_up(db: sqlite3.Connection, batch: BatchId, event: BatchEvent) -> JobSpec:
    """Return the job that an event of a batch starts."""
    [row] = _rows(db, "WHERE id = ?", batch)
    return unpack_spec(row[f"{event}_spec"])


def views(
    db: sqlite3.Connection, batch: int | None, name: str | None, before: int | None, limit: int
) -> list[BatchView]:
    """Return the newest batches: with an id, with a name, or below an id; None: any."""
    conditions = {"id = ?": batch, "name = ?": name, "id < ?": before}
    given = {condition: value for condition, value in conditions.items() if value is not None}
    where = " AND ".join(given) or "TRUE"
    rows = _rows(db, f"WHERE {where} ORDER BY id DESC LIMIT {limit:d}", *given.values())
    return [_view(row) for row in rows]


def _view(row: sqlite3.Row) -> BatchView:
    follow_ups = {event.value: _follow_up_view(row, event) for event in BatchEvent}
    total = sum(row[name] for name in _COUNTS)
    known = dict(row) | follow_ups | {"user": user_name(row["uid"]), "total": total}
    known["removed"] = total - row["kept"]
    return msgspec.convert(known, BatchView, strict=False, from_attributes=True)


def _follow_up_view(row: sqlite3.Row, event: BatchEvent) -> FollowUpView | None:
    if row[f"{event}_spec"] is None:
        return None
    spec = unpack_spec(row[f"{event}_spec"])
    argv = None if spec.argv is None else list(spec.argv)
    return FollowUpView(argv, spec.target, spec.arguments, row[f"{event}_job"])


def _batch(row: sqlite3.Row) -> Batch:
    events = [event for event in BatchEvent if row[f"{event}_spec"] is not None]
    jobs = {event: row[f"{event}_job"] for event in events}
    follow_ups = {
        "unstarted": [event for event in events if jobs[event] is None],
        "started": {event: job for event, job in jobs.items() if job is not None},
    }
    return msgspec.convert(dict(row) | follow_ups, Batch, strict=False)


def _rows(db: sqlite3.Connection, rest: str, *values: object) -> sqlite3.Cursor:
    cursor = db.cursor()
    cursor.row_factory = sqlite3.Row
    return cursor.execute(f"SELECT * FROM job_batches {rest}", values)  # noqa: S608 (constants)


_LAST_ID = """
    SELECT max(ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'job_batches'), 0), ifnull(max(id), 0))
    FROM job_batches
"""
_INSERT = """
    INSERT INTO job_batches (id, token, uid, name, created_at, then_spec, catch_spec, finally_spec)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE = """
    UPDATE job_batches
    SET is_whole = ?, is_cancelled = ?, finished_at = ?, pending = ?, running = ?, succeeded = ?, failed = ?,
        cancelled = ?, then_job = ?, catch_job = ?, finally_job = ?
    WHERE id = ?
"""
