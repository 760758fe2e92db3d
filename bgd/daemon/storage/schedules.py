"""Schedules and their occurrences in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from operator import attrgetter, itemgetter

import msgspec

from bgd.core.job import FINAL, JobId, State
from bgd.core.schedule_spec import Result, ScheduleSpec
from bgd.core.schedules import Occurrence
from bgd.daemon.storage.records import StoredSchedule, Transaction
from bgd.daemon.storage.schema import open_readable
from bgd.wire.schedules import OccurrenceView

LATEST = 20  # finished jobs of a schedule that are remembered, because one may be retried
KEPT = 1_000  # occurrences of each schedule, the newest ones
LATE = "late"  # the outcome in the event of an occurrence whose job has not finished in time
_SLACK = 100  # occurrences beyond that before some are deleted

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ScheduleSpec).decode


def save(db: sqlite3.Connection, transaction: Transaction) -> Sequence[dict[str, object]]:
    """Write what a transaction holds of schedules, inside it; most hold nothing. Return it as events.

    An event has the fields of a ScheduleEvent except its id.
    """
    if not (transaction.schedules or transaction.occurrences or transaction.seen):
        return ()
    for name, stored in transaction.schedules.items():
        if stored is None:
            db.execute("DELETE FROM schedules WHERE name = ?", (name,))
        else:
            columns = stored.uid, stored.paused, stored.seen_at, stored.boot_id
            db.execute(_SAVE, (name, _encode(stored.spec), *columns))
    for each in transaction.occurrences:
        if each.late:
            db.execute(_NOTE_LATE, (each.schedule, each.job))
            continue
        if each.result is Result.REPLACED:
            db.execute(_REPLACE, (each.reason, each.schedule, each.job))
            continue
        if each.job is not None:
            db.execute(_HAND_OVER, (each.schedule, each.job))
        db.execute(_INSERT, _row(each))
    db.executemany(_OWN, [(each.schedule, each.job) for each in transaction.occurrences if each.job])
    db.executemany(_SEE, [(at, name) for name, at in transaction.seen.items()])
    for name in {each.schedule for each in transaction.occurrences}:
        _delete_old(db, name)
    return [_event(each, transaction.now.wall) for each in transaction.occurrences]


def _event(each: Occurrence, at: float) -> dict[str, object]:
    event: dict[str, object] = {"at": at, "outcome": LATE if each.late else each.result.value}
    return event | {name: getattr(each, name) for name in ("schedule", "due_at", "job", "reason", "count")}


def read_schedules(db: sqlite3.Connection) -> dict[str, StoredSchedule]:
    """Return all schedules by name."""
    rows = db.execute("SELECT name, spec, uid, paused, seen_at, boot_id FROM schedules")
    return {
        name: StoredSchedule(
            spec=_decode(spec),
            uid=uid,
            paused=None if paused is None else bool(paused),
            seen_at=seen_at,
            boot_id=boot_id,
        )
        for name, spec, uid, paused, seen_at, boot_id in rows
    }


def spec_of(db: sqlite3.Connection, name: str) -> ScheduleSpec | None:
    """Return what a schedule says; None if it was removed."""
    row = db.execute("SELECT spec FROM schedules WHERE name = ?", (name,)).fetchone()
    return None if row is None else _decode(row[0])


def stored_names(path: str) -> set[str]:
    """Return the names of the schedules that people have added to a database that no daemon has open.

    Raises:
        DECODE_ERRORS: it cannot be read.
    """
    with closing(open_readable(path)) as db:
        (exists,) = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'schedules'").fetchone()
        rows = db.execute("SELECT name FROM schedules WHERE uid IS NOT NULL") if exists else ()
        return {name for (name,) in rows}


def latest_runs(db: sqlite3.Connection, names: Iterable[str]) -> dict[str, list[Occurrence]]:
    """Return what ran last of schedules, oldest first; whatever has not finished is among it."""
    oldest = [job for state in _UNFINISHED for (job,) in db.execute(_OLDEST, (state,)) if job is not None]
    found: dict[str, list[Occurrence]] = {}
    for name in names:
        rows = set(db.execute(_LATEST_RUNS, (name, LATEST)))
        if oldest:
            rows |= set(db.execute(_UNFINISHED_RUNS, (name, min(oldest))))
        found[name] = [
            Occurrence(due_at, Result.RAN, reason, 1, name, JobId(job), bool(late))
            for job, due_at, reason, late in sorted(rows, key=itemgetter(0))
        ]
    return found


def history(
    db: sqlite3.Connection, schedule: str, limit: int, before: int | None = None
) -> list[OccurrenceView]:
    """Return occurrences of a schedule, newest first; only ids below `before`.

    Jobs that have been removed are not named.
    """
    rows = db.execute(_HISTORY, (schedule, before or 2**63 - 1, limit))
    return [msgspec.convert(dict(row), OccurrenceView, strict=False) for row in rows]


def latest(db: sqlite3.Connection, names: Iterable[str]) -> dict[str, OccurrenceView]:
    """Return the newest occurrence of each of these schedules that has any."""
    found = {name: history(db, name, 1) for name in names}
    return {name: rows[0] for name, rows in found.items() if rows}


def _delete_old(db: sqlite3.Connection, schedule: str) -> None:
    """Delete the oldest occurrences of a schedule once it has _SLACK more than it keeps."""
    row = db.execute(_NTH, (schedule, KEPT + _SLACK)).fetchone()
    if row is not None:
        db.execute(_DELETE, (schedule, schedule, KEPT))


_SAVE = "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?)"
_OWN = "UPDATE jobs SET schedule = ? WHERE id = ?"
# A job that waited for its turn is now that of a later occurrence
_HAND_OVER = "UPDATE occurrences SET job = NULL WHERE schedule = ? AND job = ?"
_REPLACE = "UPDATE occurrences SET result = 'replaced', reason = ? WHERE schedule = ? AND job = ?"
_SEE = "UPDATE schedules SET seen_at = ? WHERE name = ?"
_INSERT = """
    INSERT INTO occurrences (schedule, due_at, result, job, reason, count) VALUES (?, ?, ?, ?, ?, ?)
"""
_row = attrgetter("schedule", "due_at", "result", "job", "reason", "count")
_NOTE_LATE = "UPDATE occurrences SET late = 1 WHERE schedule = ? AND job = ?"
_LATEST_RUNS = """
    SELECT job, due_at, reason, late FROM occurrences WHERE schedule = ? AND job IS NOT NULL
    ORDER BY job DESC LIMIT ?
"""
_UNFINISHED = tuple(state.value for state in State if state not in FINAL)
_OLDEST = "SELECT min(id) FROM jobs WHERE state = ?"
_UNFINISHED_RUNS = f"""
    SELECT job, due_at, reason, late FROM occurrences WHERE schedule = ? AND job >= ? AND EXISTS (
        SELECT 1 FROM jobs WHERE id = occurrences.job AND state IN {_UNFINISHED}
    )
"""  # noqa: S608 (constants)
_HISTORY = """
    SELECT id, due_at, result AS outcome, reason, count, late,
           (SELECT id FROM jobs WHERE id = occurrences.job) AS job
    FROM occurrences WHERE schedule = ? AND id < ? ORDER BY id DESC LIMIT ?
"""
_NTH = "SELECT id FROM occurrences WHERE schedule = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
_DELETE = f"""
    DELETE FROM occurrences
    WHERE schedule = ? AND id <= (
        SELECT id FROM occurrences WHERE schedule = ? ORDER BY id DESC LIMIT 1 OFFSET ?
    ) AND NOT EXISTS (
        SELECT 1 FROM jobs WHERE id = occurrences.job AND state IN {_UNFINISHED}
    )
"""  # noqa: S608 (constants)
