"""The writing half of the store: a batch of facts becomes rows."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from bgd.core.job import FINAL, Job, JobId, JobSpec, Now, RetryPolicy
from bgd.daemon.records import AttemptEnd, Batch, NewAttempt, NewJob, SavedJob, StoredSpec

_MOST_KNOWN = 4096  # environments whose hash is remembered, some 100 bytes each
_MOST_POLICIES = 1024

_encode = msgspec.msgpack.Encoder().encode
_encode_sorted = msgspec.msgpack.Encoder(order="sorted").encode
_encode_json = msgspec.json.Encoder().encode
# a limit of JobSpec may be widened, never narrowed: what was stored under it is read through it
_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_variables = msgspec.msgpack.Decoder(dict[str, str]).decode


class Saver:
    """Writes batches, each inside the caller's transaction.

    It remembers environments it has stored, so that a known one costs no SQL; `forget` after a rollback,
    which may have taken some of them away.
    """

    def __init__(self) -> None:
        self._environments: dict[bytes, int] = {}

    def save(self, db: sqlite3.Connection, batch: Batch) -> dict[JobId, StoredSpec]:
        """Write the batch and return the specs it wants; an unknown id is absent."""
        if batch.new:
            self._insert_jobs(db, batch.new, batch.now)
        _change(db, _SAVE_JOB, [_saved_row(save, batch.now) for save in batch.saves.values()])
        if batch.attempts:
            _insert_attempts(db, batch.attempts)
        _change(db, _RELAUNCH, [(item.launcher, item.job, item.attempt) for item in batch.relaunched])
        _change(db, _SAVE_PID, [(item.pid, item.started_at, item.job, item.attempt) for item in batch.pids])
        if batch.ends:
            _save_ends(db, batch.ends)
        specs = ((job_id, read_spec(db, job_id)) for job_id in batch.wanted)
        return {job_id: spec for job_id, spec in specs if spec is not None}

    def forget(self) -> None:
        self._environments.clear()

    def _insert_jobs(self, db: sqlite3.Connection, new: list[NewJob], now: Now) -> None:
        db.executemany(_INSERT_JOB, [_new_row(item, now) for item in new])
        db.executemany(_INSERT_SPEC, self._spec_rows(db, new))
        tags = [(tag, item.job.id) for item in new for tag in dict.fromkeys(item.spec.tags)]
        if tags:
            db.executemany("INSERT INTO tags VALUES (?, ?)", tags)
        states = Counter(item.job.state.value for item in new)
        db.executemany(
            "UPDATE counts SET jobs = jobs + ? WHERE state = ?", [(n, state) for state, n in states.items()]
        )
        db.execute("UPDATE meta SET last_id = max(last_id, ?)", (max(item.job.id for item in new),))

    def _spec_rows(self, db: sqlite3.Connection, new: list[NewJob]) -> list[tuple[JobId, bytes, int | None]]:
        rows: list[tuple[JobId, bytes, int | None]] = []
        seen: dict[int, int] = {}  # jobs of one request share one dict: hash it once
        for item in new:
            spec, environment = item.spec, None
            if spec.env is not None:
                environment = seen.get(id(spec.env))
                if environment is None:
                    environment = seen[id(spec.env)] = self._environment_id(db, spec.env)
                spec = replace(spec, env=None)
            rows.append((item.job.id, _encode(spec), environment))
        return rows

    def _environment_id(self, db: sqlite3.Connection, env: dict[str, str]) -> int:
        variables = _encode_sorted(env)
        content = hashlib.blake2b(variables, digest_size=32).digest()
        known = self._environments.get(content)
        if known is not None:
            return known
        row = db.execute("SELECT id FROM environments WHERE hash = ?", (content,)).fetchone()
        if row is None:
            db.execute("INSERT INTO environments (hash, variables) VALUES (?, ?)", (content, variables))
            row = db.execute("SELECT last_insert_rowid()").fetchone()
        if len(self._environments) >= _MOST_KNOWN:
            self._environments.clear()
        known = self._environments[content] = int(row[0])
        return known


def read_spec(db: sqlite3.Connection, job_id: JobId) -> StoredSpec | None:
    row = db.execute(_READ_SPEC, (job_id,)).fetchone()
    if row is None:
        return None
    packed, variables, uid, created_at = row
    spec = _decode_spec(packed)
    if variables is not None:
        spec = replace(spec, env=_decode_variables(variables))
    return StoredSpec(spec, uid, created_at)


@lru_cache(_MOST_POLICIES)
def _packed_policy(policy: RetryPolicy) -> bytes:
    return _encode(policy)


def _new_row(item: NewJob, now: Now) -> tuple[object, ...]:
    job = item.job
    return (
        job.id,
        job.state.value,
        job.queue,
        job.priority,
        _packed_policy(job.policy),
        job.attempt,
        job.failures,
        job.unseen,
        job.due,
        job.making_way,
        item.uid,
        item.spec.name,
        item.at,
        _due_at(job, now),
    )


def _saved_row(save: SavedJob, now: Now) -> tuple[object, ...]:
    job = save.job
    return (
        job.state.value,
        job.queue,
        job.priority,
        _packed_policy(job.policy),
        job.attempt,
        job.failures,
        job.unseen,
        job.due,
        job.making_way,
        _due_at(job, now),
        save.at if job.state in FINAL else None,
        save.reason,
        job.id,
    )


def _due_at(job: Job, now: Now) -> float | None:
    return None if job.due is None else now.wall + (job.due - now.elapsed)


def _insert_attempts(db: sqlite3.Connection, attempts: list[NewAttempt]) -> None:
    rows = [(item.job, item.attempt, item.slot, item.launcher, item.at) for item in attempts]
    db.executemany(_INSERT_ATTEMPT, rows)
    _change(db, "UPDATE jobs SET started_at = ? WHERE id = ?", [(item.at, item.job) for item in attempts])


def _save_ends(db: sqlite3.Connection, ends: list[AttemptEnd]) -> None:
    _change(db, _END_ATTEMPT, [_end_row(end) for end in ends])
    _change(db, _END_OF_JOB, [(end.outcome.value, end.exit_code, end.signal, end.job) for end in ends])
    for end in ends:
        if end.result is not None or end.error is not None:
            error = None if end.error is None else _encode_json(end.error).decode()
            db.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (end.job, end.attempt, end.result, error))


def _end_row(end: AttemptEnd) -> tuple[object, ...]:
    return (
        end.outcome.value,
        end.exit_code,
        end.signal,
        end.started_at,
        end.finished_at,
        end.user_seconds,
        end.system_seconds,
        end.max_rss_bytes,
        end.log_bytes,
        end.job,
        end.attempt,
    )


def _change(db: sqlite3.Connection, sql: str, rows: list[tuple[object, ...]]) -> None:
    """Run an UPDATE for each row. One that finds nothing is a bug that would lose a fact silently."""
    if not rows:
        return
    changed = db.executemany(sql, rows).rowcount
    if changed != len(rows):
        raise LookupError(
            f"{len(rows) - changed} of {len(rows)} rows to change are not in the database: {sql}"
        )


_INSERT_JOB = """
    INSERT INTO jobs (id, state, queue, priority, policy, attempt, failures, unseen, due_elapsed, making_way,
                      uid, name, created_at, due_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_INSERT_SPEC = "INSERT INTO specs VALUES (?, ?, ?)"

_SAVE_JOB = """
    UPDATE jobs SET state = ?, queue = ?, priority = ?, policy = ?, attempt = ?, failures = ?, unseen = ?,
                    due_elapsed = ?, making_way = ?, due_at = ?, finished_at = ?, reason = ?
    WHERE id = ?
"""

_INSERT_ATTEMPT = "INSERT INTO attempts (job, attempt, slot, launcher, launched_at) VALUES (?, ?, ?, ?, ?)"

_RELAUNCH = "UPDATE attempts SET launcher = ? WHERE job = ? AND attempt = ?"

_SAVE_PID = "UPDATE attempts SET pid = ?, started_at = ? WHERE job = ? AND attempt = ?"

_END_ATTEMPT = """
    UPDATE attempts SET outcome = ?, exit_code = ?, signal = ?, started_at = coalesce(?, started_at),
                        finished_at = ?, user_seconds = ?, system_seconds = ?, max_rss_bytes = ?,
                        log_bytes = ?, launcher = NULL
    WHERE job = ? AND attempt = ?
"""

_END_OF_JOB = "UPDATE jobs SET outcome = ?, exit_code = ?, signal = ? WHERE id = ?"

_READ_SPEC = """
    SELECT spec, variables, uid, created_at
    FROM specs JOIN jobs ON jobs.id = specs.job LEFT JOIN environments ON environments.id = specs.environment
    WHERE specs.job = ?
"""
