"""Copies of the database: written while others read and write, and believed only once they are checked."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from bgd.core.job import JobId
from bgd.daemon.storage import read
from bgd.daemon.storage.database import StoreBroken, StoreTooNew, limited
from bgd.daemon.storage.schema import APPLICATION_ID, OTHER_TABLES, VERSION, has_sound_tables, open_readable


class DatabaseCopy(Struct, frozen=True, kw_only=True):
    """What a checked copy holds."""

    path: str
    written_at: float
    jobs: int
    last_id: int


def needed(db: sqlite3.Connection) -> int:
    """Return about how many bytes a copy will have."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(pages * size) - unused(db)


def unused(db: sqlite3.Connection) -> int:
    """Return how many bytes of the file are free inside it; some microseconds."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(free * size)


def write_copy(db: sqlite3.Connection, path: str) -> DatabaseCopy:
    """Write all that is committed now to a new file, for its owner alone, and check it; it is on disk then.

    Others read and write meanwhile.

    Raises:
        StoreBroken: what was written is not sound.
        OSError, sqlite3.Error: it cannot be written.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    db.execute("VACUUM INTO ?", (path,))
    copy = checked(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return copy


def checked(path: str, seconds: float | None = None) -> DatabaseCopy:
    """Look through a copy that nobody writes to, for so long; None: to its end.

    Raises:
        StoreBroken: it cannot be read, is damaged, of a newer bgd or of another program; it says which.
        TimeoutError: it is not known yet.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # whoever opens a pipe waits for ever
            raise StoreBroken(f"{path} is no regular file")
        Path(path).open("rb").close()  # SQLite says of anything that it is "unable to open database file"
    except OSError as error:
        raise StoreBroken(f"{path} cannot be read: {error.strerror}") from error
    try:
        with closing(open_readable(path)) as db, limited(db, seconds):
            return _checked(db, path)
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise StoreBroken(f"{path} is damaged ({error})") from error


def _checked(db: sqlite3.Connection, path: str) -> DatabaseCopy:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise StoreBroken(f"{path} is no database of bgd")
    if version > VERSION:
        raise StoreTooNew(f"{path} was written by a newer bgd (version {version} of its tables)")
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StoreBroken(f"{path} is damaged ({' '.join(verdict.split())})")
    if not has_sound_tables(db, version):
        raise StoreBroken(f"{path} is damaged ({OTHER_TABLES})")
    read.prepare(db)
    (jobs,) = db.execute("SELECT count(*) FROM jobs").fetchone()
    last_id = read.last_id(db)
    return DatabaseCopy(path=path, written_at=Path(path).stat().st_mtime, jobs=jobs, last_id=JobId(last_id))


def sync_folder(folder: str) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
