"""A SQLite connection on a thread of its own, and what SQLite's errors mean for the database file."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain, islice, repeat
from pathlib import Path
from threading import Thread, current_thread
from traceback import clear_frames
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import aiosqlite
import msgspec

from bgd.daemon.threads import cannot_start_thread
from bgd.errors import BgdError
from bgd.settings.startup import file_size_limit
from bgd.text.units import format_size

BESIDE = ("", "-journal", "-wal", "-shm")  # ends of the names of a database's files; a kill leaves them
PRIMARY = 0xFF  # mask: the low byte of SQLite's extended result codes is the kind of error

CONTENT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
FATAL = CONTENT | {sqlite3.SQLITE_IOERR}

DAMAGED = "`bgd --recover` restores the newest backup, if any; or move it away to start with an empty one"
FORBIDDEN = "bgd's user must be able to write the file and its folder"

P = ParamSpec("P")
R = TypeVar("R")


class StoreBroken(BgdError):
    """The database cannot be used, or no longer be trusted; the message names the file and the remedy."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem if remedy is None else f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class StoreOfOtherVersion(StoreBroken):
    """A newer bgd, or one before 1.0, wrote the database; as far as this bgd can tell, it is sound."""


class Unreadable(StoreBroken):
    """A value cannot be read, or is none that bgd wrote; other rows may be sound."""


# What a function may raise that reads a damaged row, as any column may hold any value
DECODE_ERRORS = (
    *(Unreadable, sqlite3.Error, msgspec.MsgspecError, ValueError),
    *(TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),  # a check tells it from a bug
)


class DiskFull(StoreBroken):
    """The disk is full. Nothing of the transaction was written, and it can be tried again."""


class Health:
    """Whether a database can still be trusted; all connections to it share this.

    Attributes:
        failure: the error after which nothing may be acknowledged any more; None before.
        is_lost: is set once the event loop knows of it.
        repairs: how often rows that could not be read were set aside.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.is_lost = asyncio.Event()
        self.repairs = 0

    async def until_lost(self) -> NoReturn:
        """Wait until the database cannot be trusted any more.

        Raises:
            StoreBroken: always, in the end.
        """
        await self.is_lost.wait()
        raise StoreBroken(self.failure or "")


class DatabaseConnection:
    """One SQLite connection and its thread; `connect` makes the connection, on that thread.

    aiosqlite has no public call that runs a whole transaction on its thread. Several awaited calls would let
    other tasks in between, and take twice the time. So `call` uses one private name, and only here. A call
    tells the loop itself that it is done, by a descriptor. With aiosqlite's `call_soon_threadsafe` the thread
    would hold Python's lock while it wakes the loop, which then waits for it, and takes a turn more.

    `fatal`: kinds of errors after which the database cannot be trusted.

    Attributes:
        set_aside: sets aside the rows that a function cannot read, and returns whether there were any, also
            since this number of repairs.
    """

    def __init__(
        self,
        path: str,
        connect: Callable[[], sqlite3.Connection],
        health: Health | None = None,
        fatal: Collection[int] = FATAL,
    ) -> None:
        self.set_aside: Callable[[Callable[..., object], int], Awaitable[bool]] | None = None
        self._path = path
        self._connect = connect
        self._connection = aiosqlite.Connection(self._connect_guarded, iter_chunk_size=1)
        self._health = health or Health()
        self._fatal = fatal
        self._thread: Thread | None = None
        self._loop = asyncio.get_running_loop()
        self._done = deque[tuple[asyncio.Future[Any], Callable[[Any], object], Any]]()

    async def open(self) -> None:
        """Open the file.

        Raises:
            Full: no thread can be started now.
            StoreBroken: the file cannot be used.
        """
        try:
            await self._connection
        except Exception as error:
            if self._thread is None:  # Python says "can't start new thread"
                raise cannot_start_thread(error) from error
            # aiosqlite does not wait for its thread, which may still call a loop that is closed by then
            await asyncio.to_thread(self._thread.join)
            raise
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._loop.add_reader(self._wakeup, self._deliver)

    async def call(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run function(connection, ...) on the thread, after all earlier calls.

        If it cannot read some rows, run it again once these are set aside.

        The call is in the thread's queue before this awaits anything. So a cancelled caller leaves it to run
        to its end: it is done as a whole or, if the process dies, not at all.

        Raises:
            DiskFull: the disk is full.
            StoreBroken: the disk or the file failed, in this call or one before the end of this call, also
                on another connection. Trying again cannot write what the kernel dropped after a failed sync.
        """
        has_tried = False
        while True:
            future: asyncio.Future[R] = self._loop.create_future()
            repairs = self._health.repairs
            call = partial(self._run, future, [partial(function, self._raw, *args, **kwargs)])
            self._connection._tx.put_nowait((None, call))  # noqa: SLF001 (see the class)
            try:
                answer = await future
            except DECODE_ERRORS:
                if has_tried or self.set_aside is None or not await self.set_aside(function, repairs):
                    raise
                has_tried = True
                continue
            if self._health.failure is not None:
                raise StoreBroken(self._health.failure)
            return answer

    async def close(self) -> None:
        """Close the connection and end its thread."""
        try:
            await self._connection.close()
        finally:
            self._loop.remove_reader(self._wakeup)
            self._settle()  # calls that ended after the loop was last woken
            os.close(self._wakeup)

    def _run(self, future: asyncio.Future[R], run: list[Callable[[], R]]) -> None:
        try:
            self._done.append((future, future.set_result, self._guarded(run)))
        except BaseException as error:  # noqa: BLE001  the caller gets it
            clear_frames((error.__cause__ or error).__traceback__)  # its cursors would keep their snapshot
            self._done.append((future, future.set_exception, error))
        os.eventfd_write(self._wakeup, 1)

    def _deliver(self) -> None:
        os.eventfd_read(self._wakeup)
        self._settle()

    def _settle(self) -> None:
        if self._health.failure is not None:
            self._health.is_lost.set()
        while self._done:
            future, settle, outcome = self._done.popleft()
            if not future.cancelled():
                settle(outcome)

    def _connect_guarded(self) -> sqlite3.Connection:
        self._thread = current_thread()
        self._raw = self._guarded([self._connect])
        return self._raw

    def _guarded(self, run: list[Callable[[], R]]) -> R:
        """Take the one call from the list and run it.

        aiosqlite's thread keeps its last function until it gets the next one. That may be hours later, so the
        list must not hold the arguments any more: they can be a batch of a hundred megabytes.

        Errors are translated here on the thread: a cancelled caller does not see them, and they must last.
        """
        if self._health.failure is not None:
            raise StoreBroken(self._health.failure)
        try:
            return run.pop()()
        except sqlite3.Error as error:
            broken = translate_error(error, self._path)
            if broken is None:  # a bug in the program, or a row contradicts another
                raise
            is_fatal = getattr(error, "sqlite_errorcode", 0) & PRIMARY in self._fatal
            if is_fatal and not isinstance(broken, DiskFull):
                self._health.failure = self._health.failure or str(broken)
            raise broken from error
        except (msgspec.MsgspecError, ValueError) as error:
            # the pages are sound, but no bgd wrote this content; other rows may still be readable
            raise damaged(error, self._path) from error


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit the block as a whole, or undo it if it raises; kind DEFERRED: read from one snapshot."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # after some errors SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise


@contextmanager
def time_limit(db: sqlite3.Connection, seconds: float | None) -> Iterator[None]:
    """Interrupt SQLite if the block takes longer; None means no limit.

    Raises:
        TimeoutError: it was interrupted.
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


def plain_cursor(db: sqlite3.Connection) -> sqlite3.Cursor:
    """Return a cursor whose rows are tuples, which are faster."""
    cursor = db.cursor()
    cursor.row_factory = None
    return cursor


def rows_of(db: sqlite3.Connection, sql: str, ids: Sequence[int]) -> Iterator[Any]:
    """Yield the rows that a SELECT finds for these ids; it ends in `id IN`."""
    for start in range(0, len(ids), _IDS_PER_QUERY):
        asked = ids[start : start + _IDS_PER_QUERY]
        yield from db.execute(f"{sql} ({', '.join('?' * len(asked))})", asked)


def insert_rows(db: sqlite3.Connection, sql: str, values: str, rows: Iterable[Sequence[object]]) -> None:
    """Run an INSERT with many rows in each statement, which takes half the time of one row in each.

    `sql` ends in VALUES, and `values` is what follows it for one row. The number of rows in a statement is a
    power of two: there are few such statements, so the connection keeps them prepared.
    """
    rest = iter(rows)
    while some := list(islice(rest, _ROW_COUNTS[0])):
        left = len(some)
        for count in _ROW_COUNTS:
            if left & count:
                db.execute(_with_rows(sql, values, count), list(chain.from_iterable(some[:count])))
                some = some[count:]


@cache
def _with_rows(sql: str, values: str, count: int) -> str:
    return f"{sql} {', '.join(repeat(values, count))}"


def update_rows(
    db: sqlite3.Connection, sql: str, rows: Sequence[tuple[object, ...]], count: int | None = None
) -> None:
    """Run an UPDATE once for each tuple of values; it changes `count` rows, None: one for each tuple.

    Raises:
        LookupError: a row was not found. That is a bug, and would lose a fact silently.
    """
    if not rows:
        return
    wanted = len(rows) if count is None else count
    changed = db.executemany(sql, rows).rowcount
    if changed != wanted:
        raise LookupError(f"{wanted - changed} of {wanted} rows to change are not in the database: {sql}")


def runs_of(ids: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of consecutive ids, which one statement can find."""
    runs: list[tuple[int, int]] = []
    for each in sorted(set(ids)):
        if runs and each == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], each
        else:
            runs.append((each, each))
    return runs


def fsync_path(path: str) -> None:
    """Write a file, or the names in a folder, to the disk; never while SQLite has the file open.

    Closing any descriptor of a file drops all locks that this process has on it, including SQLite's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_copy(path: str) -> None:
    """Delete a copy, if it exists, with the files that SQLite has left beside it."""
    for end in BESIDE:
        Path(f"{path}{end}").unlink(missing_ok=True)


def translate_error(error: sqlite3.Error, path: str) -> StoreBroken | None:
    """Return what SQLite's error says about the file; None if it says something about the program."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by Python, which cannot decode a value as text
        return damaged(error, path)
    is_full = code & PRIMARY == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE
    limit = file_size_limit() if code == sqlite3.SQLITE_IOERR_WRITE else None
    if is_full or (code == sqlite3.SQLITE_IOERR_WRITE and limit is None and _is_over_quota(path)):
        return DiskFull(f"disk full: database {path}: {error}", _MAKE_ROOM)
    remedy = _REMEDIES.get(code) or _REMEDIES.get(code & PRIMARY)
    if limit is not None:
        remedy = (
            f"if it has {format_size(limit)}, raise the limit on a file's size (ulimit -f, LimitFSIZE=);"
            f" else {remedy}"
        )
    return None if remedy is None else StoreBroken(f"database {path}: {error}", remedy)


def _is_over_quota(path: str) -> bool:
    """Return whether a quota leaves no room beside the database, which SQLite calls an I/O error."""
    try:
        folder = os.path.dirname(path)  # noqa: PTH120 - a plain string here
        probe = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            return os.write(probe, bytes(_PROBE)) < _PROBE
        finally:
            os.close(probe)
    except OSError as error:
        return error.errno == errno.EDQUOT


def damaged(error: Exception, path: str) -> StoreBroken:
    """Return the error for content that no bgd wrote, or that cannot be read."""
    return Unreadable(f"database {path} is damaged ({on_one_line(error)})", DAMAGED)


def on_one_line(error: Exception) -> str:
    """Return the error's message in printable characters; it may quote damaged text."""
    return ascii(" ".join(str(error).split()))[1:-1][:_MAX_QUOTED]


_MAX_QUOTED = 200  # characters
_IDS_PER_QUERY = 500  # SQLite takes 999 values even in its oldest form
_ROW_COUNTS = (32, 16, 8, 4, 2, 1)  # with more, the time no longer shrinks; SQLite takes 32,766 values in all
_PROBE = 1 << 16  # bytes, more than the write that has failed
_STEPS = 1000  # of SQLite's virtual machine, some 10 microseconds between two looks at the clock
_MAKE_ROOM = "make room on that disk"

_REMEDIES = {
    sqlite3.SQLITE_IOERR: "the disk failed (the kernel's log says more): repair it, then start bgd again",
    sqlite3.SQLITE_IOERR_SHORT_READ: DAMAGED,  # the file was cut
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
    sqlite3.SQLITE_READONLY: FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: FORBIDDEN,
    sqlite3.SQLITE_PERM: FORBIDDEN,
    sqlite3.SQLITE_BUSY: "another program, or a bgd that does not answer, has it open: stop it",
}
