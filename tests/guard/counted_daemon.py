"""Run bgd as `python -m bgd` does; count the SQL statements of its writing connection in a shared file."""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from bgd.__main__ import main
from bgd.daemon import supervisor
from bgd.daemon.storage import schema, store

COUNTS = struct.Struct("=QQ")  # statements, and those of them that commit
VARIABLE = "COUNTS_OF_STATEMENTS"  # names the file, which holds COUNTS


def counting(
    connect: Callable[..., sqlite3.Connection], shared: mmap.mmap
) -> Callable[..., sqlite3.Connection]:
    """Return a `connect` whose connections count their statements, including those of triggers."""

    def count(statement: str) -> None:
        statements, commits = COUNTS.unpack_from(shared)
        COUNTS.pack_into(shared, 0, statements + 1, commits + (statement == "COMMIT"))

    def connect_and_count(path: str, **options: bool) -> sqlite3.Connection:
        connection = connect(path, **options)
        connection.set_trace_callback(count)
        return connection

    return connect_and_count


def read_counts(file: Path) -> tuple[int, int]:
    """Return how many statements and commits the daemon that writes to `file` has run."""
    statements, commits = COUNTS.unpack(file.read_bytes())
    return statements, commits


if __name__ == "__main__":
    with Path(os.environ[VARIABLE]).open("r+b") as file:
        shared = mmap.mmap(file.fileno(), COUNTS.size)
    store.open_writable = counting(schema.open_writable, shared)  # type: ignore[attr-defined]
    # the pid of a job that ends within a minute is saved with its end, on a slow machine as on a fast one
    supervisor.PID_DELAY = 60.0
    sys.exit(main())
