"""The writing half of the store: a batch of facts becomes rows."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable

import msgspec

from bgd.core.job import FINAL, Job, JobId, Now, Outcome
from bgd.daemon.storage import events, submissions
from bgd.daemon.storage.database import change
from bgd.daemon.storage.packing import pack_policy, pack_waits
from bgd.daemon.storage.records import AttemptEnd, AttemptPid, Batch, Controls, NewJob, StoredSpec
from bgd.daemon.storage.specs import Specs, read_spec
from bgd.wire.views import JobProgress

_encode_json = msgspec.json.Encoder().encode


class Saver:
    """Writes batches, each inside the caller's transaction; `forget` after one that was rolled back."""

    def __init__(self) -> None:
        self._specs = Specs()
        self.newest_event: int | None = None  # None: not known

    def save(self, db: sqlite3.Connection, batch: Batch) -> dict[JobId, StoredSpec]:
        """Write the batch and return the specs it wants; an unknown id is absent."""
        if batch.new:
            _insert_jobs(db, batch.new, batch.now)
            self._specs.insert(db, {item.job.id: item.spec for item in batch.new})
        _save_jobs(db, batch)
        if batch.edited:
            self._specs.edit(db, batch.edited)
        _save_attempts(db, batch)
        if batch.progress:
            _save_progress(db, batch.progress.values())
        if batch.events:
            self.newest_event = events.append(db, batch.events, self.newest_event)
        if batch.submissions:
            submissions.add(db, batch.submissions, batch.now.elapsed)
        if batch.controls is not None:
            _save_controls(db, batch.controls)
        specs = [(job_id, read_spec(db, job_id)) for job_id in batch.wanted]
        if batch.removed:
            self._specs.remove(db, batch.removed)
            _remove_jobs(db, batch.removed)
        if batch.cleared:
            db.executemany("DELETE FROM leftovers WHERE job = ?", [(job_id,) for job_id in batch.cleared])
        return {job_id: spec for job_id, spec in specs if spec is not None}

    def forget(self) -> None:
        self._specs.forget()
        self.newest_event = None


def _insert_jobs(db: sqlite3.Connection, new: list[NewJob], now: Now) -> None:
    db.executemany(_INSERT_JOB, [_new_row(item, now) for item in new])
    states = Counter(item.job.state.value for item in new)
    db.executemany(
        "UPDATE counts SET jobs = jobs + ? WHERE state = ?", [(n, state) for state, n in states.items()]
    )
    db.execute("UPDATE meta SET last_id = max(last_id, ?)", (max(item.job.id for item in new),))


def _new_row(item: NewJob, now: Now) -> tuple[object, ...]:
    return (*_columns(item.job, now), item.uid, item.spec.name, item.at, now.elapsed, item.job.id)


def _save_jobs(db: sqlite3.Connection, batch: Batch) -> None:
    """Write jobs as they stand now, each with what its attempt's start or end says of it: a row each.

    Every statement costs a hand-over between this thread and the loop's, so one that finds nothing to do is
    none. Of a job whose attempt has ended and that starts again in one batch the start is written last.
    """
    ends = {end.job: end for end in batch.ends}
    if not ends.keys() <= batch.saves.keys():
        raise LookupError("an attempt ended, and its job was not moved")
    starts = {item.job: item.at for item in batch.attempts}
    plain, ended, started = [], [], []
    for save in batch.saves.values():
        job, columns = save.job, _columns(save.job, batch.now)
        end, start = ends.get(job.id), starts.get(job.id)
        if end is not None:
            # it finished when its attempt did: perhaps long before there was anybody to save it
            finish = (end.finished_at, batch.now.elapsed) if job.state in FINAL else (None, None)
            ended.append((*columns, *finish, save.reason, *_last_words(end), job.id))
        if start is not None:
            started.append((*columns, None, None, save.reason, start, job.id))
        elif end is None:
            finish = (save.at, batch.now.elapsed) if job.state in FINAL else (None, None)
            plain.append((*columns, *finish, save.reason, job.id))
    change(db, _SAVE_JOB, plain)
    change(db, _END_JOB, ended)
    change(db, _START_JOB, started)


def _last_words(end: AttemptEnd) -> tuple[object, ...]:
    return (end.outcome.value, end.exit_code, end.signal, end.outcome is Outcome.SNOOZED, end.log_kept)


def _columns(job: Job, now: Now) -> tuple[object, ...]:
    terms = job.terms
    return (
        job.state.value,
        job.queue,
        job.priority,
        pack_policy(job.policy),
        job.attempt,
        job.failures,
        job.unseen,
        job.due,
        _epoch_time(job.due, now),
        job.making_way,
        terms.at,
        terms.expires,
        _epoch_time(terms.expires, now),
        pack_waits(terms),
        terms.key,
        terms.slots,
        job.suspended,
    )


def _epoch_time(elapsed: float | None, now: Now) -> float | None:
    return None if elapsed is None else now.wall + (elapsed - now.elapsed)


def _save_attempts(db: sqlite3.Connection, batch: Batch) -> None:
    """Write how attempts go; what that says of their jobs is written with the jobs."""
    if batch.attempts:
        since = batch.now.elapsed
        rows = [(item.job, item.attempt, item.slot, item.launcher, item.at, since) for item in batch.attempts]
        db.executemany(_INSERT_ATTEMPT, rows)
    change(db, _RELAUNCH, [(item.launcher, item.job, item.attempt) for item in batch.relaunched])
    change(db, _SAVE_PID, [_pid_row(item) for item in batch.pids])
    change(db, _END_ATTEMPT, [_end_row(end) for end in batch.ends])
    kept = sum(end.log_kept for end in batch.ends)
    if kept:
        db.execute("UPDATE meta SET logged = logged + ?", (kept,))
    for end in batch.ends:
        if end.result is not None or end.error is not None:
            error = None if end.error is None else _encode_json(end.error).decode()
            db.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (end.job, end.attempt, end.result, error))


def _pid_row(item: AttemptPid) -> tuple[object, ...]:
    return (item.pid, item.started_at, item.since, item.job, item.attempt)


def _end_row(end: AttemptEnd) -> tuple[object, ...]:
    return (
        end.outcome.value,
        end.exit_code,
        end.signal,
        end.started_at,
        end.pid,
        end.finished_at,
        end.user_seconds,
        end.system_seconds,
        end.max_rss_bytes,
        end.log_bytes,
        end.whole_tree,
        end.memory_peak_bytes,
        end.run_seconds,
        end.job,
        end.attempt,
    )


def _save_progress(db: sqlite3.Connection, told: Iterable[JobProgress]) -> None:
    """Write what attempts said; of one that another has followed meanwhile nothing is to be seen."""
    rows = [(each.progress.fraction, each.progress.message, each.job, each.attempt) for each in told]
    db.executemany(_SAVE_PROGRESS, rows)


def _save_controls(db: sqlite3.Connection, controls: Controls) -> None:
    db.execute("UPDATE meta SET slots = ?, paused = ?", (controls.slots, controls.paused))
    db.execute("DELETE FROM queues")
    rows = [(name, of.has_slots, of.slots, of.paused) for name, of in controls.queues.items()]
    db.executemany("INSERT INTO queues (name, has_slots, slots, paused) VALUES (?, ?, ?, ?)", rows)


def _remove_jobs(db: sqlite3.Connection, job_ids: list[JobId]) -> None:
    """Remove all rows of the jobs; one that is gone already is no fault, two people may have asked for it.

    Their logs are deleted after this is on disk, and looked for again at a start until that is known.
    """
    rows = [(job_id,) for job_id in job_ids]
    db.executemany("INSERT OR IGNORE INTO leftovers VALUES (?)", rows)
    db.executemany("DELETE FROM attempts WHERE job = ?", rows)
    db.executemany("DELETE FROM results WHERE job = ?", rows)
    db.executemany("DELETE FROM jobs WHERE id = ?", rows)


_INSERT_JOB = """
    INSERT INTO jobs (state, queue, priority, policy, attempt, failures, unseen, due_elapsed, due_at,
                      making_way, wall_due, expires_elapsed, expires_at, waits, key, slots, suspended,
                      uid, name, created_at, created_aged, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? + (SELECT age_ahead FROM meta), ?)
"""

_AS_IT_STANDS = """
    UPDATE jobs SET state = ?, queue = ?, priority = ?, policy = ?, attempt = ?, failures = ?, unseen = ?,
                    due_elapsed = ?, due_at = ?, making_way = ?, wall_due = ?, expires_elapsed = ?,
                    expires_at = ?, waits = ?, key = ?, slots = ?, suspended = ?, finished_at = ?,
                    aged_from = ? + (SELECT age_ahead FROM meta), reason = ?
"""
_SAVE_JOB = f"{_AS_IT_STANDS} WHERE id = ?"
_END_JOB = f"""
    {_AS_IT_STANDS}, outcome = ?, exit_code = ?, signal = ?, snoozes = snoozes + ?, logged = logged + ?
    WHERE id = ?
"""
_START_JOB = f"{_AS_IT_STANDS}, started_at = ?, progress = NULL, progress_message = NULL WHERE id = ?"

_INSERT_ATTEMPT = """
    INSERT INTO attempts (job, attempt, slot, launcher, launched_at, started_aged)
    VALUES (?, ?, ?, ?, ?, ? + (SELECT age_ahead FROM meta))
"""

_SAVE_PROGRESS = "UPDATE jobs SET progress = ?, progress_message = ? WHERE id = ? AND attempt = ?"

_RELAUNCH = "UPDATE attempts SET launcher = ? WHERE job = ? AND attempt = ?"

_SAVE_PID = """
    UPDATE attempts SET pid = ?, started_at = ?,
                        started_aged = coalesce(? + (SELECT age_ahead FROM meta), started_aged)
    WHERE job = ? AND attempt = ?
"""

_END_ATTEMPT = """
    UPDATE attempts SET outcome = ?, exit_code = ?, signal = ?, started_at = coalesce(?, started_at),
                        pid = coalesce(?, pid), finished_at = ?, user_seconds = ?, system_seconds = ?,
                        max_rss_bytes = ?, log_bytes = ?, whole_tree = ?, memory_peak_bytes = ?,
                        run_seconds = ?, launcher = NULL
    WHERE job = ? AND attempt = ?
"""
