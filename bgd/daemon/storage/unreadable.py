"""Rows that cannot be read: found by one check, and set aside so that they hold back nothing else.

SQLite has no checksums, so damage may leave any value of any type in a column. Which values are sound follows
from the declared types of the columns and, for structured values, from the types here.

Other rows refer to the row of a job, schedule or batch, so it stays: a neutral value replaces what cannot be
read of it, and the Supervisor holds a job that waits. Rows of other tables are deleted. The table set_aside
keeps what was there.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from msgspec import Struct

from bgd.core.breakers import BreakerState
from bgd.core.job import ACTIVE, JobId, Outcome, RetryPolicy, State
from bgd.core.limits import Tokens
from bgd.core.notifications import NotifyEvent, Waiting
from bgd.core.schedule_spec import Result, ScheduleSpec
from bgd.core.spec import DEFAULT_QUEUE, Demand, ExecutorKind, JobSpec
from bgd.daemon.storage.activity import Counts
from bgd.daemon.storage.database import DECODE_ERRORS, damaged, on_one_line, plain_cursor, transaction
from bgd.daemon.storage.records import UNREADABLE, JobEvent, Permit, Waits, pack_policy
from bgd.wire.views import JobError, StepState

_encode = msgspec.msgpack.Encoder().encode

KEPT_SECONDS = 7 * 86_400.0  # that a row is kept after it was set aside, and that doctor names it
_NEW_SEQUENCE = 1_000_000_000  # from which ids go on if the last one is lost
_ROUNDS = 5  # of checks and repairs; the second finds what a deleted row leaves behind

_DECLARED: dict[str, Any] = {"TEXT": str, "INTEGER": int, "REAL": float, "BLOB": bytes}

# Of columns whose values are structured or words; blobs are MessagePack
_TYPES: dict[str, dict[str, Any]] = {
    "jobs": {"state": State, "policy": RetryPolicy, "waits": Waits, "resources": Demand, "outcome": Outcome},
    "specs": {"spec": JobSpec, "answer": tuple[list[int], list[int]]},
    "environments": {"variables": dict[str, str]},
    "submissions": {"jobs": tuple[list[int], list[int]]},
    "attempts": {"outcome": Outcome, "executor_kind": ExecutorKind, "tokens": Tokens},
    "events": {"packed": list[JobEvent | dict[str, Any]]},
    "schedules": {"spec": ScheduleSpec},
    "occurrences": {"result": Result},
    "notify_facts": {"event": NotifyEvent, "outcome": Outcome},
    "notify_waiting": {"waiting": Waiting},
    "activity": {"counts": Counts},
    "breakers": {"state": BreakerState},
    "permits": {"value": list[Permit]},  # without it the start holds all jobs that wait
    "job_batches": dict.fromkeys(("then_spec", "catch_spec", "finally_spec"), JobSpec),
    "steps": {"state": StepState},
    "inbox": {"state": State, "outcome": Outcome},
}
_JSON: dict[str, dict[str, Any]] = {"results": {"result": msgspec.Raw, "error": JobError}}

# Tables whose rows stay, and what replaces a value there; others: NULL, or else an empty one
_NEUTRAL: dict[str, dict[str, object]] = {
    "jobs": {
        "state": State.HELD.value,
        "queue": DEFAULT_QUEUE,
        "policy": pack_policy(RetryPolicy()),
        "slots": 1,
        "uid": os.geteuid(),
    },
    "specs": {"spec": _encode(UNREADABLE)},
    "attempts": {},
    "schedules": {"spec": _encode(ScheduleSpec(job=UNREADABLE, cron="unreadable"))},
    "job_batches": dict.fromkeys(("then_spec", "catch_spec", "finally_spec"), _encode(UNREADABLE)),
    "queues": {"paused": 1},
}
_EMPTY: dict[str, object] = {"TEXT": "", "INTEGER": 0, "REAL": 0.0, "BLOB": b""}


class BadRow(Struct, frozen=True):
    """A row that cannot be read.

    `key`: the columns that identify it, with their values. `problem`: what is wrong with it, in words.
    `fixes`: the neutral values of columns; None: the row is to be deleted.
    """

    table: str
    key: dict[str, Any]
    problem: str
    fixes: dict[str, object] | None = None

    @property
    def job(self) -> JobId | None:
        """The job that may not start before a person has seen it."""
        return JobId(self.key["rowid"]) if self.table in {"jobs", "specs"} else None

    @property
    def subject(self) -> str:
        """The subject of the row, for users."""
        keys = [value if isinstance(value, str | int) else repr(value) for value in self.key.values()]
        words = _SUBJECTS.get(self.table, f"a row of {self.table} ({', '.join(['{}'] * len(keys))})")
        return words.format(*keys)


_SUBJECTS = {
    "jobs": "job {}",
    "specs": "job {}",
    "attempts": "attempt {1} of job {0}",
    "schedules": "schedule {}",
    "job_batches": "batch {}",
    "queues": "queue {}",
}


# --- one check


def find(db: sqlite3.Connection) -> list[BadRow]:
    """Return all rows that cannot be read; it reads the whole database, seconds for a million jobs.

    Raises:
        StoreBroken: without the row of `meta`, nothing else can be understood.
    """
    with _raw_text(db):
        tables = [_Table(db, *each) for each in db.execute(_TABLES).fetchall()]
        found = [bad for table in tables for bad in table.bad_rows(db)]
    ids = plain_cursor(db).execute
    found += [BadRow("specs", {"rowid": job}, "its spec is missing", {}) for (job,) in ids(_NO_SPEC)]
    found += [
        BadRow("jobs", {"rowid": job}, f"it is {state}, and its attempt is missing", {"state": State.HELD})
        for job, state in ids(_NO_ATTEMPT)
    ]
    found += [
        BadRow("jobs", {"rowid": job}, "it has later attempts than it knows", {"attempt": attempt})
        for job, attempt in ids(_LATER_ATTEMPT)
    ]
    found += [
        BadRow("sqlite_sequence", {"rowid": row}, "it cannot be read", {"seq": _NEW_SEQUENCE})
        for (row,) in ids("SELECT rowid FROM sqlite_sequence WHERE typeof(seq) <> 'integer'")
    ]
    states = {state for (state,) in ids("SELECT key FROM counts")}
    found += [BadRow("counts", {"key": state}, "is missing") for state in State if state not in states]
    return found


def check_settings(db: sqlite3.Connection) -> None:
    """Check the small tables that are read at the start; others are checked when they are read.

    Raises:
        ValueError: a row cannot be read.
    """
    with _raw_text(db):
        for table, sql in db.execute(_TABLES).fetchall():
            for row in _Table(db, table, sql).bad_rows(db) if table in _SETTINGS else ():
                raise ValueError(f"{row.subject}: {row.problem}")


def check_meta(db: sqlite3.Connection, path: str) -> None:
    """Check the one row of the table `meta`.

    Raises:
        StoreBroken: it is missing, or cannot be read.
    """
    with _raw_text(db):
        rows = db.execute("SELECT count(*) FROM meta").fetchone()[0]
        bad = list(_Table(db, "meta", "").bad_rows(db))
    if rows != 1 or bad:
        problem = bad[0].problem if bad else f"{rows} rows in place of one"
        raise damaged(ValueError(f"table meta: {problem}"), path)


def in_words(rows: Iterable[BadRow]) -> list[str]:
    """Return what cannot be read, a line for each subject."""
    return [f"{row.subject}: {row.problem}" for row in rows]


class _Table:
    """How the rows of a table are read and checked."""

    def __init__(self, db: sqlite3.Connection, name: str, sql: str) -> None:
        columns = db.execute(f"PRAGMA table_info({name})").fetchall()
        self._name = name
        self._columns = {column: declared for _, column, declared, *_ in columns}
        self._keys = [each[1] for each in columns if each[5]] if "WITHOUT ROWID" in sql else ["rowid"]
        nullable = {column for _, column, _, is_not_null, _, is_key in columns if not (is_not_null or is_key)}
        neutral = _NEUTRAL.get(name, {})
        self._sound = [
            None if each in nullable else neutral.get(each, _EMPTY[kind])
            for each, kind in self._columns.items()
        ]
        self._decoders: list[tuple[int, Any]] = []
        types: list[tuple[str, Any]] = []
        for place, (column, declared) in enumerate(self._columns.items()):
            kind, json = _TYPES.get(name, {}).get(column), _JSON.get(name, {}).get(column)
            if json is not None:
                self._decoders.append((place, msgspec.json.Decoder(json).decode))
            elif kind is not None and declared == "BLOB":
                self._decoders.append((place, msgspec.msgpack.Decoder(kind).decode))
                kind = None
            kind = kind or _DECLARED[declared]
            types.append((column, kind | None if column in nullable else kind))
        self._row = msgspec.defstruct(name, types, array_like=True)

    def bad_rows(self, db: sqlite3.Connection) -> Iterator[BadRow]:
        """Yield the rows that cannot be read."""
        count = len(self._keys)
        for row in plain_cursor(db).execute(f"SELECT {', '.join(self._keys)}, * FROM {self._name}"):  # noqa: S608 (from the schema)
            try:
                self._check(row[count:])
            except DECODE_ERRORS as error:
                yield self._bad_row(dict(zip(self._keys, row, strict=False)), row[count:], error)

    def _check(self, values: tuple[object, ...]) -> None:
        msgspec.convert(values, self._row)
        for place, decode in self._decoders:
            if values[place] is not None:
                decode(values[place])

    def _bad_row(self, key: dict[str, Any], values: tuple[object, ...], error: Exception) -> BadRow:
        """Check each value by itself, among sound ones."""
        if self._name not in _NEUTRAL:
            return BadRow(self._name, key, f"it cannot be read ({on_one_line(error)})")
        problems, fixes = [], {}
        for place, column in enumerate(self._columns):
            try:
                self._check((*self._sound[:place], values[place], *self._sound[place + 1 :]))
            except DECODE_ERRORS as reason:
                words = on_one_line(reason).partition(" - at `$")[0]  # where in the row, which is the column
                problems.append(f"its {column} cannot be read ({words})")
                fixes[column] = _NEUTRAL[self._name].get(column, self._sound[place])
        return BadRow(self._name, key, ", ".join(problems), None if fixes.keys() & key.keys() else fixes)


@contextmanager
def _raw_text(db: sqlite3.Connection) -> Iterator[None]:
    """Let text that is not UTF-8 be read as bytes, which no check takes for text."""

    def text(raw: bytes) -> str | bytes:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    db.text_factory = text
    try:
        yield
    finally:
        db.text_factory = str


# --- setting rows aside


def set_aside(db: sqlite3.Connection, rows: Iterable[BadRow] | None = None) -> list[BadRow]:
    """Repair or delete what cannot be read, in one transaction; return it. None: find it first."""
    done: list[BadRow] = []
    with transaction(db):
        with suppress(sqlite3.IntegrityError):  # a change fails if its row is not in an index as it should be
            db.execute("REINDEX")
        for _ in range(_ROUNDS):
            if not (rows := find(db) if rows is None else rows):
                break
            for row in rows:
                _keep(db, row)
                _repair(db, row)
            _count_again(db)
            done += rows
            rows = None
        db.execute("DELETE FROM set_aside WHERE at < ?", (time.time() - KEPT_SECONDS,))
    return done


def stored(db: sqlite3.Connection) -> list[str]:
    """Return what was set aside lately, the newest first, in words; not jobs that are gone."""
    return [
        f"{subject}: {problem}" for subject, problem in db.execute(_STORED, (time.time() - KEPT_SECONDS,))
    ]


def jobs_to_hold(db: sqlite3.Connection) -> dict[JobId, str]:
    """Return the jobs that were set aside and are not held yet, with the reason."""
    rows = db.execute("SELECT job, problem FROM set_aside WHERE job IS NOT NULL AND NOT is_held")
    return {JobId(job): reason_for(problem) for job, problem in rows}


def note_held(db: sqlite3.Connection) -> None:
    """Note that the jobs that were set aside are held, and that this is on disk."""
    with transaction(db):
        db.execute("UPDATE set_aside SET is_held = 1")


def reason_for(problem: str) -> str:
    """Return why a job is held."""
    return f"set aside: {problem}"


def _keep(db: sqlite3.Connection, row: BadRow) -> None:
    where, values = _where(row)
    with _raw_text(db):
        found = plain_cursor(db).execute(f"SELECT * FROM {row.table} WHERE {where}", values).fetchone()  # noqa: S608 (from the schema)
    kept = time.time(), row.subject, row.job, row.problem, row.table, _encode(found)
    db.execute(
        "INSERT INTO set_aside (at, subject, job, problem, source, kept) VALUES (?, ?, ?, ?, ?, ?)", kept
    )


def _repair(db: sqlite3.Connection, row: BadRow) -> None:
    where, values = _where(row)
    if row.fixes is None:
        db.execute(f"DELETE FROM {row.table} WHERE {where}", values)  # noqa: S608 (from the schema)
        return
    if row.table == "specs":
        db.execute(
            "INSERT OR IGNORE INTO specs (job, spec) VALUES (?, ?)", (*values, _NEUTRAL["specs"]["spec"])
        )
    fixes = dict(row.fixes)
    if fixes:
        columns = ", ".join(f"{column} = ?" for column in fixes)
        db.execute(f"UPDATE {row.table} SET {columns} WHERE {where}", (*fixes.values(), *values))  # noqa: S608 (likewise)
    if row.table == "jobs":
        if "attempt" in fixes:
            db.execute(_LATEST_ATTEMPT, values)
        if "state" in fixes:
            db.execute(_END_ATTEMPTS, values)
            db.execute(_GIVE_STATE, (reason_for(row.problem), *values))


def _count_again(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM counts")
    db.executemany("INSERT INTO counts VALUES (?, 0)", [(state.value,) for state in State])
    for column, table in (("state", "jobs"), ("environment", "specs")):
        db.execute(_COUNT.format(column, table))


def _where(row: BadRow) -> tuple[str, list[object]]:
    """Return the condition for a row; text that is not UTF-8 is known by its bytes."""
    names = [f"CAST({name} AS BLOB)" if isinstance(value, bytes) else name for name, value in row.key.items()]
    return " AND ".join(f"{name} IS ?" for name in names), list(row.key.values())


_STORED = """
    SELECT subject, problem FROM set_aside
    WHERE at > ? AND (job IS NULL OR job IN (SELECT id FROM jobs)) ORDER BY set_aside.id DESC
"""
_SETTINGS = {"queues", "schedules", "streaks", "notify_waiting", "breakers", "counts"}
_TABLES = """
    SELECT name, sql FROM sqlite_master
    WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT IN ('meta', 'set_aside')
"""
_ACTIVE = tuple(state.value for state in ACTIVE)
_NO_SPEC = "SELECT id FROM jobs WHERE NOT EXISTS (SELECT 1 FROM specs WHERE job = jobs.id)"
_NO_ATTEMPT = f"""
    SELECT id, state FROM jobs WHERE state IN {_ACTIVE} AND NOT EXISTS (
        SELECT 1 FROM attempts
        WHERE job = jobs.id AND attempt = jobs.attempt AND launcher IS NOT NULL AND outcome IS NULL
    )
"""  # noqa: S608 (constants)
_LATER_ATTEMPT = """
    SELECT id, max(attempts.attempt) AS latest FROM jobs JOIN attempts ON job = id
    GROUP BY id HAVING latest > jobs.attempt
"""
_LATEST_ATTEMPT = """
    UPDATE jobs SET attempt = (SELECT ifnull(max(attempt), 0) FROM attempts WHERE job = jobs.id)
    WHERE rowid = ?
"""
_END_ATTEMPTS = "UPDATE attempts SET outcome = 'unknown', launcher = NULL WHERE job = ? AND outcome IS NULL"
_GIVE_STATE = """
    UPDATE jobs SET state = iif(finished_at IS NULL, 'held', 'failed'), reason = ? WHERE rowid = ?
"""
_COUNT = """
    INSERT INTO counts SELECT {0}, count(*) FROM {1} WHERE {0} IS NOT NULL GROUP BY {0}
    ON CONFLICT DO UPDATE SET jobs = excluded.jobs
"""
