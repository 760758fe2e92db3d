"""A look through the database by the checks of a start, beside a daemon or without one: it only reads."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from bgd.daemon.storage.database import StoreBroken, broken_by, limited
from bgd.daemon.storage.schema import check, open_readable, version_of


class Examined(Struct, frozen=True, kw_only=True):
    """A file in which no damage was found: in all of it, or in what there was time for."""

    version: int  # of its tables
    is_whole: bool


def examine(path: str, seconds: float) -> Examined:
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


def _examined(db: sqlite3.Connection, path: str, seconds: float) -> Examined:
    version = version_of(db, path)
    try:
        with limited(db, seconds):
            check(db, path, version)
    except TimeoutError:
        return Examined(version=version, is_whole=False)
    return Examined(version=version, is_whole=True)
