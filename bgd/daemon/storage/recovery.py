"""Recovery: a backup in the place of a lost database, and whether a database is sound."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import JobId, State
from bgd.daemon.storage.copying import DatabaseCopy, checked, sync_folder
from bgd.daemon.storage.database import StoreBroken, StoreTooNew, broken_by, limited, transaction
from bgd.daemon.storage.records import JobEvent, pack_policy, unpack_policy
from bgd.daemon.storage.schema import check, open_readable, open_writable, version_of
from bgd.daemon.storage.write import NO_EVENTS, append_events, newest_event

# --- A backup in the place of a database that is lost: what may have happened since is not done once more.


MARGIN = 1_000_000  # ids of jobs, and of events, that may have been given out since the last known one
_GENERATIONS = 1_000_000  # starts that the launcher may have seen since; it obeys the highest number (R1)
_MOST_LIKELY = 2**48  # a higher id in a damaged file is part of the damage

_PORTION = 10_000  # events at a time: a million jobs may wait
_HELD = "restored from a backup: it may have run since"

_WAITING = (State.QUEUED, State.SCHEDULED, State.BLOCKED)
_ACTIVE = (State.RUNNING, State.STOPPING)


class RecoveryResult(Struct, frozen=True, kw_only=True):
    """What was restored: `held` jobs waited then, `lost` of `running` ones the end may not be known."""

    held: int
    running: int
    last_id: int


def problem_with(path: str) -> str | None:
    """Return why the database cannot be used, None: it can.

    Raises:
        StoreTooNew: a newer bgd can.
    """
    if not Path(path).exists():
        return f"database {path} is not there"
    try:
        checked(path)
    except StoreTooNew:
        raise
    except StoreBroken as error:
        return str(error)
    return None


def newest_good(paths: Iterable[str], seconds: float | None = None) -> tuple[DatabaseCopy | None, list[str]]:
    """Return the first backup that is sound, and why those before it are not.

    Raises:
        TimeoutError: it took longer than that; None: it never does.
    """
    ends_at = None if seconds is None else time.monotonic() + seconds
    problems: list[str] = []
    for path in paths:
        try:
            left = None if ends_at is None else ends_at - time.monotonic()
            return checked(path, left), problems
        except StoreBroken as error:
            problems.append(str(error))
    return None, problems


def put_aside(path: str, stamp: str) -> str | None:
    """Rename the database and what belongs to it; return its new name, None: there is none."""
    aside = f"{path}.damaged-{stamp}"
    for end in ("-wal", "-shm", ""):  # the database last: without it the others would mean nothing
        with suppress(FileNotFoundError):
            Path(f"{path}{end}").rename(f"{aside}{end}")
    sync_folder(str(Path(path).parent))
    return aside if Path(aside).exists() else None


def last_id_in(path: str) -> int:
    """Return the highest id that can be read from a damaged database; 0 if none can."""
    highest = 0
    for query in ("SELECT last_id FROM meta", "SELECT max(id) FROM jobs", "SELECT max(job) FROM specs"):
        with suppress(sqlite3.Error, TypeError), closing(open_readable(path)) as db:
            (found,) = db.execute(query).fetchone()
            if isinstance(found, int) and found < _MOST_LIKELY:
                highest = max(highest, found)
    return highest


def restore(backup: DatabaseCopy, path: str, last_id: int, launcher: str, at: float) -> RecoveryResult:
    """Put a copy of the backup in the database's place, so that nothing in it runs unasked.

    Jobs that waited are held: they may have run since. AttemptTable that ran are given to `launcher`, an
    instance that is no more: unless the one that runs knows them, nobody saw their end. Those jobs are not
    run again by themselves. Events go on with ids that nobody has seen: the first say which jobs are held.
    `at`: now, in epoch seconds.
    """
    new = f"{path}.new"
    for end in ("", "-wal", "-shm"):
        Path(f"{new}{end}").unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    shutil.copyfile(backup.path, new)
    with closing(open_writable(new)) as db, transaction(db):
        held = _hold(db, last_id + MARGIN - backup.last_id, at)
        running = _disown(db, launcher)
        db.execute(
            "UPDATE meta SET last_id = ?, generation = generation + ?", (last_id + MARGIN, _GENERATIONS)
        )
    _sync(new)
    Path(new).rename(path)
    sync_folder(str(Path(path).parent))
    return RecoveryResult(held=held, running=running, last_id=last_id + MARGIN)


def hold_as_outdated(db: sqlite3.Connection, position: int, launcher: str, at: float) -> RecoveryResult:
    """Treat the database that is in use like a backup that `restore` puts in its place.

    `position`: the highest id of an event that was given out.
    """
    with transaction(db):
        held = _hold(db, max(position - newest_event(db), 0) + MARGIN, at)
        running = _disown(db, launcher)
        db.execute("UPDATE meta SET last_id = last_id + ?", (MARGIN,))
        (last_id,) = db.execute("SELECT last_id FROM meta").fetchone()
    return RecoveryResult(held=held, running=running, last_id=last_id)


def _hold(db: sqlite3.Connection, left_out: int, at: float) -> int:
    """Hold the jobs that wait; return how many. `left_out`: ids of events, as many as of jobs.

    So events of a recovery before, of this backup or another, have ids of their own, too.
    """
    db.execute("INSERT INTO events SELECT coalesce(max(last), 0) + ?, ? FROM events", (left_out, NO_EVENTS))
    last = None
    held = 0
    for state in _WAITING:
        waiting = db.execute("SELECT id, attempt FROM jobs WHERE state = ?", (state.value,))
        while rows := waiting.fetchmany(_PORTION):
            jobs = [
                JobEvent(at, JobId(number), "hold", State.HELD, attempt, None, _HELD)
                for number, attempt in rows
            ]
            last = append_events(db, jobs, last)
            held += len(jobs)
    for state in _WAITING:
        db.execute("UPDATE jobs SET state = 'held', reason = ? WHERE state = ?", (_HELD, state.value))
    return held


def _disown(db: sqlite3.Connection, launcher: str) -> int:
    jobs = [
        row
        for state in _ACTIVE
        for row in db.execute("SELECT id, policy FROM jobs WHERE state = ?", (state.value,)).fetchall()
    ]
    for job_id, packed in jobs:
        policy = pack_policy(replace(unpack_policy(packed), rerun=False))
        db.execute("UPDATE jobs SET policy = ? WHERE id = ?", (policy, job_id))
        db.execute(
            "UPDATE attempts SET launcher = ? WHERE job = ? AND launcher IS NOT NULL", (launcher, job_id)
        )
    return len(jobs)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- A look through the database by the checks of a start, beside a daemon or without one: it only reads.


class CheckResult(Struct, frozen=True, kw_only=True):
    """A file in which no damage was found: in all of it, or in what there was time for."""

    version: int  # of its tables
    is_whole: bool


def check_database(path: str, seconds: float) -> CheckResult:
    """Look through the database for at most about so long.

    No descriptor of the file is opened but SQLite's: closing another one would drop the daemon's locks.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: this user may not read it.
        StoreBroken: a daemon would not start with it; the message says why.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):  # whoever opens a pipe waits for ever
        raise StoreBroken(f"{path} is no regular file", "move it away")
    if not os.access(path, os.R_OK, effective_ids=True):
        raise PermissionError(f"{path} may not be read")
    try:
        with closing(open_readable(path)) as db:
            return _examined(db, path, seconds)
    except sqlite3.Error as error:
        raise broken_by(error, path) or StoreBroken(f"database {path}: {error}") from error


def _examined(db: sqlite3.Connection, path: str, seconds: float) -> CheckResult:
    version = version_of(db, path)
    try:
        with limited(db, seconds):
            check(db, path, version)
    except TimeoutError:
        return CheckResult(version=version, is_whole=False)
    return CheckResult(version=version, is_whole=True)
