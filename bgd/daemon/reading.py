"""The reading half of the store: rows become jobs for the Scheduler, and views for people."""

from __future__ import annotations

import pwd
import sqlite3
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from sys import intern

import msgspec

from bgd.core.job import FINAL, Job, JobId, JobSpec, Outcome, RetryPolicy, State
from bgd.daemon.database import transaction
from bgd.daemon.records import Restored
from bgd.wire.launching import log_name
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, JobError, JobView

# What a list without states shows, as far as its limit goes: what runs before what waits before the rest.
_BY_INTEREST: tuple[tuple[State, ...], ...] = (
    (State.RUNNING, State.STOPPING),
    (State.QUEUED, State.SCHEDULED),
    (State.SUCCEEDED, State.FAILED, State.CANCELLED),
)

_STATES = {state.value: state for state in State}

_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_policy = msgspec.msgpack.Decoder(RetryPolicy).decode
_decode_error = msgspec.json.Decoder(JobError).decode


def prepare(db: sqlite3.Connection) -> str:
    """Teach a connection what the functions below need of it; return the store's id."""
    db.row_factory = sqlite3.Row
    # not SQLite's GLOB, whose time explodes with the number of stars in a stranger's pattern
    db.create_function("matches", 2, _matches, deterministic=True)
    (store_id,) = db.execute("SELECT store_id FROM meta").fetchone()
    return str(store_id)


# --- for the Scheduler -----------------------------------------------------------------------------------


def restore(db: sqlite3.Connection) -> tuple[list[Restored], int]:
    """Return all unfinished jobs in the order of their ids, and the highest id ever given out."""
    restored: list[Restored] = []
    with transaction(db, "DEFERRED"):
        for state in State:
            if state not in FINAL:
                restored.extend(map(_restored, db.execute(_RESTORE, (state.value,))))
        (last_id,) = db.execute("SELECT last_id FROM meta").fetchone()
    restored.sort(key=lambda item: item.job.id)  # a few sorted runs: merged in one pass
    return restored, last_id


def finished(db: sqlite3.Connection, job_id: JobId) -> Job | None:
    row = db.execute(_JOB, (job_id,)).fetchone()
    job = None if row is None else _job(row)
    return job if job is not None and job.state in FINAL else None


def _restored(row: sqlite3.Row) -> Restored:
    return Restored(_job(row), row["slot"], row["launcher"])


def _job(row: sqlite3.Row) -> Job:
    # in the order of _JOB_COLUMNS: looking up names takes a third longer, and a start may read a million
    number, state, queue, priority, policy, attempt, failures, unseen, due, making_way, *_ = row
    return Job(
        id=JobId(number),
        state=_STATES[state],
        queue=intern(queue),  # a million jobs, a handful of queues
        priority=priority,
        policy=_policy(policy),
        attempt=attempt,
        failures=failures,
        unseen=unseen,
        due=due,
        making_way=bool(making_way),
    )


# --- for people ------------------------------------------------------------------------------------------


def list_jobs(db: sqlite3.Connection, query: List, uid: int | None) -> list[JobView]:
    """Return the newest jobs that the query selects; `uid` None: of any user."""
    groups = _BY_INTEREST if query.states is None else (tuple(dict.fromkeys(query.states)),)
    ids: list[JobId] = []
    with transaction(db, "DEFERRED"):
        for states in groups:
            newest = sorted(_newest(db, query, uid, states, query.limit - len(ids)), reverse=True)
            ids += newest[: query.limit - len(ids)]
        views = [view(db, job_id) for job_id in sorted(ids, reverse=True)]
    return [found for found in views if found is not None]


def view(db: sqlite3.Connection, job_id: JobId) -> JobView | None:
    row = db.execute(_VIEW, (job_id,)).fetchone()
    return None if row is None else _view(row)


def latest(db: sqlite3.Connection, uid: int) -> JobId | None:
    newest = [db.execute(_LATEST, (uid, state.value)).fetchone()[0] for state in State]
    return max((job_id for job_id in newest if job_id is not None), default=None)


def attempts(db: sqlite3.Connection, job_id: JobId, after: int, limit: int) -> list[AttemptView]:
    return [_attempt(job_id, row) for row in db.execute(_ATTEMPTS, (job_id, after, limit))]


def result(db: sqlite3.Connection, job_id: JobId) -> tuple[str | None, JobError | None]:
    row = db.execute(_RESULT, (job_id,)).fetchone()
    return (None, None) if row is None else (row["result"], _error(row["error"]))


def counts(db: sqlite3.Connection) -> dict[str, int]:
    return {row["state"]: row["jobs"] for row in db.execute("SELECT state, jobs FROM counts")}


def _newest(
    db: sqlite3.Connection, query: List, uid: int | None, states: tuple[State, ...], limit: int
) -> Iterator[JobId]:
    """Yield the newest ids of each state: so many that the newest of all of them are among these."""
    conditions: dict[str, object] = {"state = ?": None}
    if uid is not None:
        conditions["uid = ?"] = uid
    if query.queue is not None:
        conditions["queue = ?"] = query.queue
    if query.before is not None:
        conditions["id < ?"] = query.before
    if query.since is not None:
        conditions["created_at >= ?"] = query.since
    if query.name is not None:
        conditions["matches(name, ?)"] = query.name
    if query.tag is not None:
        conditions["id IN (SELECT job FROM tags WHERE tag = ?)"] = query.tag
    sql = f"SELECT id FROM jobs WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"  # noqa: S608 (constants)
    for state in states:
        conditions["state = ?"] = state.value
        for row in db.execute(sql, (*conditions.values(), limit)):
            yield row["id"]


def _view(row: sqlite3.Row) -> JobView:
    spec = _decode_spec(row["spec"])
    policy = _policy(row["policy"])
    return JobView(
        id=row["id"],
        kind="class" if spec.argv is None else "command",
        argv=None if spec.argv is None else list(spec.argv),
        target=spec.target,
        arguments=spec.arguments,
        cwd=spec.cwd,
        user=_user(row["uid"]),
        state=State(row["state"]),
        outcome=_outcome(row["outcome"]),
        exit_code=row["exit_code"],
        signal=row["signal"],
        reason=row["reason"],
        queue=row["queue"],
        priority=row["priority"],
        name=spec.name,
        tags=list(spec.tags),
        retries=policy.retries,
        retry_delay=policy.delay,
        backoff=policy.backoff,
        max_delay=policy.max_delay,
        jitter=policy.jitter,
        rerun=policy.rerun,
        timeout=spec.timeout,
        delay=spec.delay,
        umask=spec.umask,
        attempt=row["attempt"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def _attempt(job_id: JobId, row: sqlite3.Row) -> AttemptView:
    return AttemptView(
        attempt=row["attempt"],
        outcome=_outcome(row["outcome"]),
        exit_code=row["exit_code"],
        signal=row["signal"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        user_seconds=row["user_seconds"],
        system_seconds=row["system_seconds"],
        max_rss_bytes=row["max_rss_bytes"],
        error=_error(row["error"]),
        log_bytes=row["log_bytes"],
        log_path=log_name(job_id, row["attempt"]),
        pid=row["pid"],
    )


def _matches(name: str | None, pattern: str) -> bool:
    return name is not None and fnmatchcase(name, pattern)


def _outcome(text: str | None) -> Outcome | None:
    return None if text is None else Outcome(text)


def _error(text: str | None) -> JobError | None:
    return None if text is None else _decode_error(text)


@lru_cache(1024)
def _policy(packed: bytes) -> RetryPolicy:
    return _decode_policy(packed)


@lru_cache(1024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


_JOB_COLUMNS = "id, state, queue, priority, policy, jobs.attempt, failures, unseen, due_elapsed, making_way"

_JOB = f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608 (constants)

# the attempt is of interest only while it runs
_RESTORE = f"""
    SELECT {_JOB_COLUMNS}, slot, launcher
    FROM jobs LEFT JOIN attempts ON jobs.state IN ('running', 'stopping')
                                AND attempts.job = jobs.id AND attempts.attempt = jobs.attempt
    WHERE jobs.state = ?
"""  # noqa: S608 (constants)

_VIEW = "SELECT jobs.*, spec FROM jobs JOIN specs ON specs.job = jobs.id WHERE jobs.id = ?"

_LATEST = "SELECT max(id) FROM jobs WHERE uid = ? AND state = ?"

_ATTEMPTS = """
    SELECT attempts.*, error
    FROM attempts LEFT JOIN results ON results.job = attempts.job AND results.attempt = attempts.attempt
    WHERE attempts.job = ? AND attempts.attempt > ? ORDER BY attempts.attempt LIMIT ?
"""

_RESULT = """
    SELECT result, error
    FROM results JOIN jobs ON jobs.id = results.job AND jobs.attempt = results.attempt
    WHERE jobs.id = ?
"""
