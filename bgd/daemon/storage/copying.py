"""Copies of the database: write one while others read and write, and check one before it is trusted."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from bgd.core.job import JobId
from bgd.daemon.storage import read
from bgd.daemon.storage.database import StoreBroken, fsync_path, time_limit
from bgd.daemon.storage.schema import UPGRADE, check, open_readable, version_of


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
        # other remedies are for the database in use
        raise type(error)(error.problem, UPGRADE if error.remedy == UPGRADE else None) from error
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise StoreBroken(f"{name} is damaged ({error})") from error


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
