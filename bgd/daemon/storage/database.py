"""A SQLite connection on a thread of its own, on which every call runs undivided."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Thread, current_thread
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite
import msgspec

from bgd.daemon.threads import cannot_start_thread
from bgd.errors import BgdError
from bgd.startup import file_size_limit
from bgd.units import format_size

P = ParamSpec("P")
R = TypeVar("R")


class StoreBroken(BgdError):
    """The database cannot be used, or no longer trusted; the message names the file and the remedy."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem if remedy is None else f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class StoreTooNew(StoreBroken):
    """A newer bgd wrote the database: as far as this one can tell, nothing is wrong with it."""


class DiskFull(StoreBroken):
    """There is no room for what was to be written. None of it was; it can be tried again."""


class DatabaseConnection:
    """One connection and its thread. `connect` makes the connection, on that thread.

    aiosqlite has no public call that runs a whole transaction on its thread: several awaited calls would let
    other tasks in between, and cost twice the time. So `call` goes through one private name, here only.
    """

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._connection = aiosqlite.Connection(self._connected, iter_chunk_size=1)
        self._failure: str | None = None
        self._thread: Thread | None = None

    async def open(self) -> None:
        """Open the file.

        Raises:
            Full: there is no thread for it now.
            StoreBroken: it cannot be used.
        """
        try:
            await self._connection
        except Exception as error:
            if self._thread is None:  # Python says "can't start new thread"
                raise cannot_start_thread(error) from error
            # aiosqlite does not wait for its thread, which says good-bye to a loop that may be closed by then
            await asyncio.to_thread(self._thread.join)
            raise

    async def call(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run function(connection, ...) on the thread, after all earlier calls.

        It is in the thread's queue before this waits for anything, so a cancelled caller leaves it to run to
        its end: what was asked for is done whole or, if the process dies, not at all.

        Raises:
            DiskFull: there is no room now.
            StoreBroken: the disk or the file failed, now or at an earlier call. What the kernel dropped
                after a failed sync cannot be written by trying again.
        """
        run = partial(function, self._raw, *args, **kwargs)
        result: R = await self._connection._execute(self._guarded, run)  # type: ignore[no-untyped-call]  # noqa: SLF001 (see the class; aiosqlite leaves it untyped)
        return result

    async def close(self) -> None:
        await self._connection.close()

    def _connected(self) -> sqlite3.Connection:
        self._thread = current_thread()
        self._raw = self._guarded(self._connect)
        return self._raw

    def _guarded(self, run: Callable[[], R]) -> R:
        """Translate failures here, on the thread: a cancelled caller no longer looks, yet they must stay."""
        if self._failure is not None:
            raise StoreBroken(self._failure)
        try:
            return run()
        except sqlite3.Error as error:
            broken = broken_by(error, self._path)
            if broken is None:  # not the file is wrong but the program
                raise
            if not isinstance(broken, DiskFull) and hasattr(error, "sqlite_errorcode"):
                self._failure = str(broken)
            raise broken from error
        except (msgspec.MsgspecError, ValueError) as error:
            # sound pages whose content no bgd wrote; other rows may still be read
            raise _damaged(error, self._path) from error


def broken_by(error: sqlite3.Error, path: str) -> StoreBroken | None:
    """Return what SQLite's error says of the file; None: it says something of the program."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # not SQLite's word: Python cannot read what it was given as text
        return _damaged(error, path)
    if code & PRIMARY == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(f"disk full: database {path}: {error}", _MAKE_ROOM)
    remedy = _REMEDIES.get(code) or _REMEDIES.get(code & PRIMARY)
    if code == sqlite3.SQLITE_IOERR_WRITE and (limit := file_size_limit()) is not None:
        remedy = (
            f"if it has {format_size(limit)}, raise the limit on a file's size (ulimit -f, LimitFSIZE=);"
            f" else {remedy}"
        )
    return None if remedy is None else StoreBroken(f"database {path}: {error}", remedy)


@contextmanager
def limited(db: sqlite3.Connection, seconds: float | None) -> Iterator[None]:
    """Break off what the block has SQLite do for longer; None: never.

    Raises:
        TimeoutError: it was broken off.
    """
    if seconds is None:
        yield
        return
    ends_at = time.monotonic() + seconds
    db.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise TimeoutError(f"not done in {seconds:g} s") from error
        raise
    finally:
        db.set_progress_handler(None, 0)


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit what the block does if it ends well, else undo it. `kind` DEFERRED: a snapshot to read from."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # after some errors SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise


def change(db: sqlite3.Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run an UPDATE for each row. One that finds nothing is a bug that would lose a fact silently."""
    if not rows:
        return
    changed = db.executemany(sql, rows).rowcount
    if changed != len(rows):
        raise LookupError(
            f"{len(rows) - changed} of {len(rows)} rows to change are not in the database: {sql}"
        )


def _damaged(error: Exception, path: str) -> StoreBroken:
    return StoreBroken(f"database {path} is damaged ({_in_a_line(error)})", DAMAGED)


def _in_a_line(error: Exception) -> str:
    """Return what an error says, which may quote what the damage made of a text."""
    return ascii(" ".join(str(error).split()))[1:-1][:_MOST_QUOTED]


PRIMARY = 0xFF  # the low byte of SQLite's extended result codes is the kind of error

DAMAGED = "`bgd --recover` puts the newest backup in its place; or move it away to begin anew"
FORBIDDEN = "bgd's user must be able to write the file and its folder"


_MOST_QUOTED = 200  # characters
_STEPS = 1000  # of SQLite's virtual machine: some 10 microseconds, so asking for the time costs nothing
_MAKE_ROOM = "make room on that disk"

_REMEDIES = {
    sqlite3.SQLITE_IOERR: "the disk failed (the kernel's log says more): see to it, then start bgd again",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
    sqlite3.SQLITE_READONLY: FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: FORBIDDEN,
    sqlite3.SQLITE_PERM: FORBIDDEN,
    sqlite3.SQLITE_BUSY: "another program holds it: only bgd may write there, close the other one",
}
