"""What people see of the store: rows become views of jobs and attempts."""

from __future__ import annotations

import pwd
import sqlite3
from functools import lru_cache

import msgspec

from bgd import clock
from bgd.core.job import WAITING, JobId, Outcome, State
from bgd.daemon.storage import selecting
from bgd.daemon.storage.database import transaction
from bgd.daemon.storage.packing import unpack_policy, unpack_waits
from bgd.daemon.storage.specs import unpack_spec
from bgd.policies import words_of
from bgd.wire.launching import log_name
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, JobError, JobProgress, JobView, Progress

_AT_ONCE = 500  # jobs, at most
_BYTES_AT_ONCE = 256 * 1024  # of their specs, or of a single one
_BEFORE_ITS_TIME = frozenset({State.SCHEDULED, State.BLOCKED, State.HELD})

_decode_error = msgspec.json.Decoder(JobError).decode


def prepare(db: sqlite3.Connection) -> str:
    """Make a connection give what the functions below take; return the store's id."""
    db.row_factory = sqlite3.Row
    (store_id,) = db.execute("SELECT store_id FROM meta").fetchone()
    return str(store_id)


def list_jobs(db: sqlite3.Connection, query: List, uid: int | None) -> list[JobView]:
    """Return the newest jobs that the query selects; `uid` None: of any user."""
    with transaction(db, "DEFERRED"):
        views = [view(db, job_id) for job_id in selecting.select(db, query, uid)]
    return [found for found in views if found is not None]


def view(db: sqlite3.Connection, job_id: JobId) -> JobView | None:
    row = db.execute(_VIEW, (job_id,)).fetchone()
    return None if row is None else _view(row)


def begin_list(db: sqlite3.Connection, query: List, uid: int | None) -> tuple[list[JobView], list[JobId]]:
    """Return the first of what `list_jobs` would, and the ids of the rest, which may be large."""
    with transaction(db, "DEFERRED"):
        return some_views(db, selecting.select(db, query, uid))


def some_views(db: sqlite3.Connection, job_ids: list[JobId]) -> tuple[list[JobView], list[JobId]]:
    """Return those of the first of these jobs that exist, and the ids of the rest."""
    found: list[JobView] = []
    size = count = 0
    for job_id in job_ids:
        if count >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            break
        count += 1
        row = db.execute(_VIEW, (job_id,)).fetchone()
        if row is not None:
            size += len(row["spec"])
            found.append(_view(row))
    return found, job_ids[count:]


def progress(db: sqlite3.Connection, job_ids: list[JobId]) -> list[JobProgress]:
    """Return what those of these jobs last said that run, and have said anything."""
    rows = (db.execute(_PROGRESS, (job_id,)).fetchone() for job_id in job_ids)
    told = ((row, _progress(row)) for row in rows if row is not None)
    return [JobProgress(row["id"], row["attempt"], said) for row, said in told if said is not None]


def latest(db: sqlite3.Connection, uid: int) -> JobId | None:
    (job_id,) = db.execute(_LATEST, (uid,)).fetchone()
    return None if job_id is None else JobId(job_id)


def attempts(db: sqlite3.Connection, job_id: JobId, after: int, limit: int) -> list[AttemptView]:
    return [_attempt(job_id, row) for row in db.execute(_ATTEMPTS, (job_id, after, limit))]


def result(db: sqlite3.Connection, job_id: JobId) -> tuple[str | None, JobError | None]:
    row = db.execute(_RESULT, (job_id,)).fetchone()
    return (None, None) if row is None else (row["result"], _error(row["error"]))


def _view(row: sqlite3.Row) -> JobView:
    spec = unpack_spec(row["spec"])
    policy = unpack_policy(row["policy"])
    after, after_any = unpack_waits(row["waits"])
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
        due_at=_due_at(row),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        retry_on=None if policy.retry_on is None else list(policy.retry_on),
        no_retry_on=None if policy.no_retry_on is None else list(policy.no_retry_on),
        at=spec.at,
        expires=spec.expires,
        expires_at=row["expires_at"] if row["attempt"] == 0 else None,
        after=list(spec.after),
        after_any=list(spec.after_any),
        waits_for=list(dict.fromkeys(after + after_any)),
        key=row["key"],
        slots=row["slots"],
        stdin=spec.stdin,
        pty=spec.pty,
        isolation=spec.isolation,
        suspended=bool(row["suspended"]),
        snoozes=row["snoozes"],
        on_exceptions={name: words_of(wish) for name, wish in policy.on_exceptions},
        progress=_progress(row),
        keep_leftovers=spec.keep_leftovers,
        nice=spec.nice,
        memory_max=spec.memory_max,
        cpu_max=spec.cpu_max,
        pids_max=spec.pids_max,
        open_files=spec.open_files,
        core_max=spec.core_max,
        waited_seconds=_waited_seconds(row),
        run_seconds=_run_seconds(row),
    )


def _progress(row: sqlite3.Row) -> Progress | None:
    if row["progress"] is None and row["progress_message"] is None:
        return None
    return Progress(row["progress"], row["progress_message"])


def _due_at(row: sqlite3.Row) -> float | None:
    """Return when the job's delay and its date are both over, None where it waits for neither."""
    if row["state"] not in _BEFORE_ITS_TIME:
        return None
    return max((at for at in (row["due_at"], row["wall_due"]) if at is not None), default=None)


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
        whole_tree=bool(row["whole_tree"]),
        memory_peak_bytes=row["memory_peak_bytes"],
        run_seconds=_run_seconds(row),
    )


def _waited_seconds(row: sqlite3.Row) -> float | None:
    """Return how long a job waited for its latest start, or for its end, or has been waiting."""
    began, started = row["created_aged"], row["started_aged"]
    if row["state"] in WAITING or started is None:
        return _seconds_between(began, row["aged_from"] or _age(row))
    return _seconds_between(began, started)


def _run_seconds(row: sqlite3.Row) -> float | None:
    if row["ended_as"] is not None:
        return float(row["run_seconds"]) if row["run_seconds"] is not None else None
    return _seconds_between(row["started_aged"], _age(row))


def _age(row: sqlite3.Row) -> float | None:
    """Return the present on the clock of columns named `aged`."""
    return None if row["age_ahead"] is None else clock.elapsed() + row["age_ahead"]


def _seconds_between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else max(ended - began, 0.0)


def _outcome(text: str | None) -> Outcome | None:
    return None if text is None else Outcome(text)


def _error(text: str | None) -> JobError | None:
    return None if text is None else _decode_error(text)


@lru_cache(1024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


_TIMES = "started_aged, run_seconds, attempts.outcome AS ended_as, (SELECT age_ahead FROM meta) AS age_ahead"

_VIEW = f"""
    SELECT jobs.*, spec, {_TIMES}
    FROM jobs JOIN specs ON specs.job = jobs.id
              LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
    WHERE jobs.id = ?
"""  # noqa: S608 (constants)

_PROGRESS = """
    SELECT id, attempt, progress, progress_message FROM jobs WHERE id = ? AND state IN ('running', 'stopping')
"""

_LATEST = "SELECT max(id) FROM jobs WHERE uid = ?"

_ATTEMPTS = f"""
    SELECT attempts.*, error, {_TIMES}
    FROM attempts LEFT JOIN results ON results.job = attempts.job AND results.attempt = attempts.attempt
    WHERE attempts.job = ? AND attempts.attempt > ? ORDER BY attempts.attempt LIMIT ?
"""  # noqa: S608 (constants)

_RESULT = """
    SELECT result, error
    FROM results JOIN jobs ON jobs.id = results.job AND jobs.attempt = results.attempt
    WHERE jobs.id = ?
"""
