"""Copies of the database: write one while others use it, check one, and restore a lost database from one.

A restored database is marked as outdated. The start that loads it holds the jobs that wait, and then removes
the mark, so that a crash in between starts none of them. Its schedules are paused.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import ACTIVE, WAITING, JobId, State
from bgd.daemon.storage import read, unreadable
from bgd.daemon.storage.change_stream import NO_EVENTS, newest_event
from bgd.daemon.storage.database import (
    DECODE_ERRORS,
    StoreBroken,
    StoreOfOtherVersion,
    damaged,
    delete_copy,
    fsync_path,
    on_one_line,
    time_limit,
    transaction,
    translate_error,
)
from bgd.daemon.storage.records import NO_PERMITS, Permit, pack_policy, unpack_policy
from bgd.daemon.storage.schema import VERSION, check, open_readable, open_writable, version_of
from bgd.system import clock

MARGIN = 1_000_000  # ids that may have been given out after the last known one
_GENERATIONS = 1_000_000  # starts that the launcher may have seen since; it obeys the highest number (R1)
_MAX_PLAUSIBLE_ID = 2**48  # a higher id in a damaged file is part of the damage

MAY_HAVE_RUN = "restored from a backup: it may have run since"  # why jobs are held


class DatabaseCopy(Struct, frozen=True, kw_only=True):
    """What a checked copy holds: when it was written, in epoch time, and how many jobs it has."""

    path: str
    written_at: float
    jobs: int
    last_id: int


def write_copy(db: sqlite3.Connection, path: str) -> DatabaseCopy:
    """Write everything committed to a new file with mode 0600, check it, and fsync it.

    Others can read and write the database meanwhile.

    Raises:
        StoreBroken: the copy is not intact.
        OSError, sqlite3.Error: it cannot be written.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    db.execute("VACUUM INTO ?", (path,))
    copy = check_copy(path)
    fsync_path(path)
    return copy


def check_copy(path: str, seconds: float | None = None, *, name: str | None = None) -> DatabaseCopy:
    """Check all of a copy that is not written to; `seconds` limits the time, None does not.

    `name` is what errors call it, if that is not its path.

    Raises:
        StoreBroken: it cannot be read, is damaged, or was written by another bgd or another program.
        TimeoutError: the time was too short.
    """
    name = name or path
    try:
        if Path(path).exists() and not Path(path).is_file():  # opening a pipe would wait forever
            raise StoreBroken(f"{name} is not a regular file")
        Path(path).open("rb").close()  # for every cause SQLite says "unable to open database file"
    except OSError as error:
        raise StoreBroken(f"{name} cannot be read: {error.strerror}") from error
    try:
        with closing(open_readable(path)) as db, time_limit(db, seconds):
            return _checked(db, name, Path(path).stat().st_mtime)
    except StoreBroken as error:
        raise type(error)(error.problem) from error  # its remedy is for the database in use
    except DECODE_ERRORS as error:
        raise StoreBroken(f"{name} is damaged ({on_one_line(error)})") from error


def _checked(db: sqlite3.Connection, path: str, written_at: float) -> DatabaseCopy:
    check(db, path, version_of(db, path), "integrity_check")
    read.prepare(db)
    (jobs,) = db.execute("SELECT count(*) FROM jobs").fetchone()
    last_id = read.last_id(db)
    return DatabaseCopy(path=path, written_at=written_at, jobs=jobs, last_id=JobId(last_id))


def copy_size(db: sqlite3.Connection) -> int:
    """Return about how many bytes a copy will have."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(pages * size) - free_bytes(db)


def free_bytes(db: sqlite3.Connection) -> int:
    """Return how many bytes inside the file are free; takes some microseconds."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(free * size)


class RecoveryResult(Struct, frozen=True, kw_only=True):
    """What the restored database holds.

    Attributes:
        aside: the name of the damaged database; None: there was none.
        unreadable: what cannot be read in the backup, a line each.
        held: jobs that waited when the backup was written; they may have run since, so the next start holds
            them.
        paused: schedules; their times since then may have run.
        running: jobs that ran then; the end of some may stay unknown.
        last_id: new jobs get higher ids.
    """

    aside: str | None = None
    unreadable: list[str] = []
    held: int
    paused: int
    running: int
    last_id: int


def problem_with(path: str) -> str | None:
    """Return why the database cannot be used; None if it can.

    Raises:
        StoreOfOtherVersion: only another bgd can use it.
    """
    if not Path(path).exists():
        return f"database {path} is not there"
    try:
        check_copy(path)
    except StoreOfOtherVersion:
        raise
    except StoreBroken as error:
        return str(error)
    return None


def newest_sound_copy(
    paths: Iterable[str],
    seconds: float | None = None,
    check: Callable[[str, float | None], DatabaseCopy] = check_copy,
) -> tuple[DatabaseCopy | None, list[str]]:
    """Return the first intact copy, and why those before it are not.

    `seconds` limits the time for all of them; None does not. `check` is given one of them and the time left.

    Raises:
        TimeoutError: the time was too short.
    """
    ends_at = None if seconds is None else time.monotonic() + seconds
    problems: list[str] = []
    for path in paths:
        try:
            left = None if ends_at is None else ends_at - time.monotonic()
            return check(path, left), problems
        except StoreBroken as error:
            problems.append(str(error))
    return None, problems


def take_copy(new: str, path: str, _seconds: float | None = None) -> DatabaseCopy:
    """Copy a backup to the file `new`, and check the copy: no other user can change it after the check.

    Raises:
        StoreBroken: it is not intact, or another user may have written it.
        OSError: it cannot be copied.
    """
    delete_copy(new)
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise StoreBroken(f"{path} cannot be read: {reason}") from error
    try:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise StoreBroken(f"{path} is not a regular file")
        if (who := foreign_writers(found)) is not None:
            raise StoreBroken(
                f"{path} {who}, and a backup can make bgd run anything: if you trust it, copy it"
            )
        private = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(source, "rb", closefd=False) as backup, os.fdopen(private, "wb") as copy:
            shutil.copyfileobj(backup, copy)
    finally:
        os.close(source)
    return replace(check_copy(new, name=path), written_at=found.st_mtime)


def foreign_writers(found: os.stat_result) -> str | None:
    """Return which users other than this one and root can write to a file or folder; None if none can."""
    if found.st_uid not in {0, os.geteuid()}:
        return f"belongs to uid {found.st_uid}"
    if found.st_mode & 0o022:
        return f"can be written by other users (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def unreadable_rows(path: str) -> list[str]:
    """Return what cannot be read in a database that can be used, a line each: a start sets it aside.

    Tables of an earlier version are upgraded first.
    """
    with closing(open_readable(path)) as db:
        return unreadable.in_words(unreadable.find(db)) if version_of(db, path) == VERSION else []


def move_aside(path: str, stamp: str) -> str | None:
    """Rename the database with its -wal file; return its new name, None if it does not exist."""
    aside = f"{path}.damaged-{stamp}"
    for end in ("-wal", ""):  # the database last
        with suppress(FileNotFoundError):
            Path(f"{path}{end}").rename(f"{aside}{end}")
    fsync_path(str(Path(path).parent))
    return aside if Path(aside).exists() else None


def highest_id_in(path: str) -> int:
    """Return the highest job id that can be read from a damaged database; 0 if there is none."""
    highest = 0
    for query in ("SELECT last_id FROM meta", "SELECT max(id) FROM jobs", "SELECT max(job) FROM specs"):
        with suppress(*DECODE_ERRORS), closing(open_readable(path)) as db:
            (found,) = db.execute(query).fetchone()
            if isinstance(found, int) and found < _MAX_PLAUSIBLE_ID:
                highest = max(highest, found)
    return highest


def restore(new: str, path: str, known_id: int, positions: Mapping[str, int], stamp: str) -> RecoveryResult:
    """Put `new`, a copy of a backup, in the database's place, marked as outdated, so that nothing runs twice.

    Move the damaged database aside, under a name with this stamp, once the copy is complete.

    `known_id`: the highest job id that is known. `positions`: the highest event that the launcher knows of
    each store.
    """
    with closing(open_writable(new)) as db:
        rows = unreadable.in_words(unreadable.set_aside(db))
        (store,) = db.execute("SELECT store_id FROM meta").fetchone()
        result = mark_as_outdated(db, known_id, positions.get(store, 0))
    fsync_path(new)
    aside = move_aside(path, stamp)
    Path(new).rename(path)
    fsync_path(str(Path(path).parent))
    return replace(result, aside=aside, unreadable=rows)


def mark_as_outdated(db: sqlite3.Connection, known_id: int, position: int) -> RecoveryResult:
    """Mark an older copy, so that the next start holds the jobs that waited, and pause its schedules.

    Assign the attempts that ran to a launcher that no longer exists: unless the launcher that runs now knows
    them, their outcome is unknown. Do not rerun those jobs automatically.

    Skip all ids of jobs, events, ends in inboxes and batches that may have been given out since the copy. A
    new job makes an event, as does its end, so there were no more of those than of events. All skip the same
    number: after this, too, no more ids than events are missing in a copy.

    `known_id`: the highest job id that is known; `position`: the highest event.
    """
    with transaction(db):
        last_id, newest = read.last_id(db), newest_event(db)
        skipped = max(known_id - last_id, position - newest, 0) + MARGIN
        db.execute("INSERT INTO events VALUES (?, ?)", (newest + skipped, NO_EVENTS))
        db.execute(
            "UPDATE meta SET is_outdated = 1, last_id = ?, generation = generation + ?",
            (last_id + skipped, _GENERATIONS),
        )
        held = 0
        for state in WAITING - {State.HELD}:
            (jobs,) = db.execute("SELECT count(*) FROM jobs WHERE state = ?", (state.value,)).fetchone()
            held += jobs
        db.execute("UPDATE inbox SET handed_out = handed_out + 1")
        for table in ("inbox", "job_batches"):
            (last,) = db.execute(_LAST_NUMBER, (table,)).fetchone()
            db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last + skipped))
        db.execute("UPDATE permits SET value = ?", (NO_PERMITS,))  # the jobs are held
        paused = db.execute("UPDATE schedules SET paused = 1").rowcount
        running = _disown(db)
    return RecoveryResult(held=held, paused=paused, running=running, last_id=last_id + skipped)


_LAST_NUMBER = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = ?"


def uncertain_jobs(db: sqlite3.Connection) -> tuple[list[Permit], bool, dict[JobId, str]]:
    """Return all permits, whether to hold all jobs that wait before any starts, and which others, and why."""
    (mark,) = db.execute("SELECT is_outdated OR NOT EXISTS (SELECT * FROM permits) FROM meta").fetchone()
    return read.permits(db), bool(mark), unreadable.jobs_to_hold(db)


def remove_mark(db: sqlite3.Connection) -> None:
    """Note that the jobs that waited are held, and that this is on disk."""
    with transaction(db):
        db.execute("UPDATE meta SET is_outdated = 0")
        db.execute("INSERT OR IGNORE INTO permits (rowid, value) VALUES (1, ?)", (NO_PERMITS,))


def check_file(path: str, seconds: float) -> tuple[int, list[str] | None]:
    """Check the database as `bgd --recover` does, for at most about `seconds`, even if a daemon uses it.

    Return the version of its tables, and what cannot be read or was set aside lately, a line each; None:
    there was no time to check all of it.

    Open no descriptor of the file except SQLite's own: closing another one would drop the daemon's locks.

    Raises:
        FileNotFoundError: it does not exist.
        PermissionError: this user may not read it.
        StoreBroken: a daemon would not start with it; the message says why.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a pipe would wait forever
        raise StoreBroken(f"{path} is not a regular file", "move it away")
    if not os.access(path, os.R_OK, effective_ids=True):
        raise PermissionError(f"{path} may not be read")
    try:
        with closing(open_readable(path)) as db:
            version = version_of(db, path)
            try:
                with time_limit(db, seconds):
                    check(db, path, version)
                    is_current = version == VERSION  # others are upgraded first
                    rows = unreadable.in_words(unreadable.find(db)) if is_current else []
            except TimeoutError:
                return version, None
            return version, rows + (unreadable.stored(db) if is_current else [])
    except StoreBroken:
        raise
    except DECODE_ERRORS as error:
        broken = translate_error(error, path) if isinstance(error, sqlite3.Error) else damaged(error, path)
        raise broken or StoreBroken(f"database {path}: {error}") from error


def unused_bytes(path: str) -> int:
    """Return how many bytes inside a database are free.

    A database that cannot be read counts as 0 bytes: `check_file` reports it.

    Open no descriptor of the file except SQLite's own, as `check_file`.
    """
    try:
        with closing(open_readable(path)) as db:
            return free_bytes(db)
    except DECODE_ERRORS:
        return 0


def _disown(db: sqlite3.Connection) -> int:
    launcher = f"{clock.boot_id()}:before-recovery"
    jobs = [
        row
        for state in ACTIVE
        for row in db.execute("SELECT id, policy FROM jobs WHERE state = ?", (state.value,)).fetchall()
    ]
    for job_id, packed in jobs:
        policy = pack_policy(replace(unpack_policy(packed), rerun=False))
        db.execute("UPDATE jobs SET policy = ? WHERE id = ?", (policy, job_id))
        db.execute(
            "UPDATE attempts SET launcher = ? WHERE job = ? AND launcher IS NOT NULL", (launcher, job_id)
        )
    return len(jobs)
