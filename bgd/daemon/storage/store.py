"""The store: every job, attempt and result on disk; one connection writes, and two others only read."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from time import monotonic, perf_counter
from typing import Concatenate

from bgd.core.job import ACTIVE, FINAL, JobId, Now, State
from bgd.core.spec import MAX_DURATION
from bgd.daemon.storage import change_stream, read, recovery, unreadable
from bgd.daemon.storage.database import (
    CONTENT,
    DatabaseConnection,
    Health,
    P,
    R,
    delete_copy,
    transaction,
)
from bgd.daemon.storage.records import StoredSpec, Transaction, UnfinishedJob
from bgd.daemon.storage.schema import open_readable, open_writable
from bgd.daemon.storage.write import TransactionWriter
from bgd.text.units import counted

logger = logging.getLogger(__name__)

_SOUND_SECONDS = 60.0  # that the result of a check of all rows holds which has found nothing
_MOST_LINES = 20  # of the log about rows that are set aside together
_MAX_DOWNTIME = 86_400.0  # seconds that jobs age while the machine is off, which only the wall clock measures


class StoreReader:
    """What can be read of the store; code that changes nothing gets only this.

    Attributes:
        read: `await read(function, ...)` runs function(connection, ...), a query that is quick.
        search: the same for queries that may read very many rows, so that quick ones do not wait for them.
        store_id: the database's own random id.
    """

    def __init__(self, reader: DatabaseConnection, searcher: DatabaseConnection, store_id: str) -> None:
        self.read = reader.call
        self.search = searcher.call
        self.store_id = store_id


class Store(StoreReader):
    """One database file.

    A file has exactly one Store, in the process that holds the lock of the state folder: SQLite before 3.51.3
    may lose commits if two connections write. No other process can open it meanwhile. No other code of this
    process may open or copy the file or its -wal: closing such a descriptor would drop SQLite's locks.

    Rows that cannot be read are set aside when a function meets them, and the function runs again.

    Attributes:
        write: `await write(function, ...)` runs function(connection, ...), which begins and ends its own
            transaction.
        until_lost: raises StoreBroken once the database cannot be trusted any more.
        when_set_aside: is called with the jobs that were set aside, and why.
        free_bytes: inside the file, as of the last commit.
        position: id of the newest event on disk; no two states of the database have the same.
        commit_seconds, committed_at: how long the last commit took, and its end by time.perf_counter.
    """

    def __init__(
        self,
        writer: DatabaseConnection,
        reader: DatabaseConnection,
        searcher: DatabaseConnection,
        store_id: str,
        path: str,
        health: Health,
    ) -> None:
        super().__init__(reader, searcher, store_id)
        self.write = writer.call
        self.free_bytes = 0
        self.position = 0
        self.commit_seconds = self.committed_at = 0.0
        self._connections = (searcher, reader, writer)
        for connection in self._connections:
            connection.set_aside = self._set_aside
        self._health = health
        self.until_lost = health.until_lost
        self.when_set_aside: Callable[[dict[JobId, str]], object] = lambda _jobs: None
        self._setting_aside = asyncio.Lock()
        self._found_sound_at = -inf
        self._path = path
        self._transaction_writer = TransactionWriter()

    @classmethod
    async def open(cls, path: str) -> Store:
        """Open the file; create it or upgrade its tables if necessary.

        Raises:
            StoreBroken: it cannot be written, is damaged, or belongs to a newer bgd or another program.
        """
        health = Health()
        async with AsyncExitStack() as opened:
            writer = await _opened(path, partial(open_writable, keep_copy=True), health, opened)
            reader = await _opened(path, open_readable, health, opened)
            searcher = await _opened(path, open_readable, health, opened)
            store_id = await reader.call(read.prepare)
            free_bytes = await reader.call(recovery.free_bytes)
            position = await reader.call(change_stream.newest_event)
            await searcher.call(read.prepare)
            opened.pop_all()
        store = cls(writer, reader, searcher, store_id, path, health)
        store.free_bytes = free_bytes
        store.position = position
        try:
            await store.read(unreadable.check_settings)
            await store.read(read.check_states)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close all connections, the writing one last: that moves the -wal file into the database."""
        for connection in self._connections:
            await connection.close()

    async def unfinished(self) -> AsyncIterator[list[UnfinishedJob]]:
        """Yield all unfinished jobs, some thousand at a time: active ones first; by state and id."""
        for state in sorted(State, key=lambda state: state not in ACTIVE):
            after = 0
            while state not in FINAL and (page := await self.read(read.unfinished_jobs, state, after)):
                yield page
                after = page[-1].job.id + page[-1].count - 1

    async def commit(self, transaction: Transaction) -> dict[JobId, StoredSpec]:
        """Write a transaction to the disk as a whole, and return the specs of `transaction.wanted`.

        If the caller is cancelled, it runs to its end all the same.

        Raises:
            DiskFull: the disk is full; nothing is written, and it can be tried again.
            StoreBroken: the disk or the file failed; nothing can be written any more.
        """
        return await self.write(self._commit, transaction)

    async def read_apart(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run function(connection, ...) on a connection of its own, as it takes seconds.

        A failing disk may be another one, that of a copy.
        """
        database = DatabaseConnection(self._path, partial(open_readable, self._path), self._health, CONTENT)
        await database.open()
        try:
            return await database.call(function, *args, **kwargs)
        finally:
            await database.close()

    async def copy_to(self, path: str) -> recovery.DatabaseCopy:
        """Write everything committed to a new file and check it, while others read and write.

        Raises:
            StoreBroken, OSError, sqlite3.Error: there is no complete copy; the partial one is deleted.
        """
        try:
            return await self.read_apart(recovery.write_copy, path)
        except BaseException:  # the thread has stopped writing, so the file stays deleted
            delete_copy(path)  # here: there may be no thread left for it
            raise

    async def _set_aside(self, function: Callable[..., object], repairs: int) -> bool:
        """Set aside what cannot be read, after a function failed; return whether there was something.

        `repairs`: how many there were when it began.
        """
        if function == self._repair:
            return False
        async with self._setting_aside:
            if self._health.repairs > repairs:
                return True
            if monotonic() - self._found_sound_at < _SOUND_SECONDS:
                return False
            rows = await self.read_apart(unreadable.find)
            if not rows:
                self._found_sound_at = monotonic()
                return False
            done = await self.write(self._repair, rows)
            self._health.repairs += 1
        for line in unreadable.in_words(done)[:_MOST_LINES]:
            logger.warning("database %s: set aside: %s", self._path, line)
        logger.warning("%s set aside, and bgctl doctor names them", counted(len(done), "row"))
        self.when_set_aside(
            {row.job: unreadable.reason_for(row.problem) for row in done if row.job is not None}
        )
        return True

    # --- on the writer's thread -----------------------------------------------------------------------------

    def _repair(self, db: sqlite3.Connection, rows: list[unreadable.BadRow]) -> list[unreadable.BadRow]:
        self._transaction_writer.forget()
        return unreadable.set_aside(db, rows)

    def _commit(self, db: sqlite3.Connection, everything: Transaction) -> dict[JobId, StoredSpec]:
        began = perf_counter()
        try:
            with transaction(db):
                specs = self._transaction_writer.save(db, everything)
        except BaseException:
            self._transaction_writer.forget()
            raise
        self.position = self._transaction_writer.newest_event or self.position
        self.committed_at = perf_counter()
        self.commit_seconds = self.committed_at - began
        if self.free_bytes or everything.removed:
            self.free_bytes = recovery.free_bytes(db)
        return specs


async def _opened(
    path: str, connect: Callable[[str], sqlite3.Connection], health: Health, opened: AsyncExitStack
) -> DatabaseConnection:
    database = DatabaseConnection(path, partial(connect, path), health)
    await database.open()
    opened.push_async_callback(database.close)
    return database


# --- numbers that only grow


def begin_generation(db: sqlite3.Connection, above: int = 0) -> int:
    """Commit the next generation number, which is higher than `above`, and return it (R1)."""
    with transaction(db):
        db.execute("UPDATE meta SET generation = max(generation, ?) + 1", (above,))
        return generation(db)


def generation(db: sqlite3.Connection) -> int:
    """Return the generation number that was committed last."""
    (number,) = db.execute("SELECT generation FROM meta").fetchone()
    return int(number)


def reserve_ids(db: sqlite3.Connection, job_id: int) -> None:
    """Never give out this id or a lower one."""
    with transaction(db):
        db.execute("UPDATE meta SET last_id = max(last_id, ?)", (job_id,))


# --- clocks: the elapsed clock decides; the wall clock is for people, and for the next boot


def adopt_boot(db: sqlite3.Connection, now: Now, boot_id: str) -> float:
    """Convert times on an earlier boot's elapsed clock to this boot's, by way of epoch time.

    Return the seconds between the two boots that do not count for retention: only the wall clock measured
    them, and it may be wrong by years.
    """
    with transaction(db):
        known, wall_ahead, age_ahead, noted = db.execute(_KNOWN).fetchone()
        ignored = 0.0
        if age_ahead is None:  # the database is new
            _set_age(db, now, now.wall)
        elif known != boot_id:
            off = max(now.wall - (noted - age_ahead + wall_ahead), 0)
            ignored = max(off - _MAX_DOWNTIME, 0)
            _set_age(db, now, noted + off - ignored)
        if known != boot_id:
            given = {"now": now.wall - (wall_ahead or 0), "elapsed": now.elapsed, "longest": MAX_DURATION}
            for state in State:
                if state not in FINAL:
                    db.execute(_ADOPT, {**given, "state": state.value})
        db.execute("UPDATE meta SET boot_id = ?, wall_ahead = ?", (boot_id, now.wall - now.elapsed))
    return ignored


def save_retention_clock(db: sqlite3.Connection, elapsed: float) -> None:
    """Save retention's clock, so that the next boot can continue it."""
    with transaction(db):
        db.execute("UPDATE meta SET age_noted = ? + age_ahead", (elapsed,))


def _set_age(db: sqlite3.Connection, now: Now, age: float) -> None:
    db.execute("UPDATE meta SET age_ahead = ?, age_noted = ?", (age - now.elapsed, age))


_KNOWN = "SELECT boot_id, wall_ahead, age_ahead, age_noted FROM meta"

# :now is the present on the elapsed clock of the earlier boot
_ADOPT = """
    UPDATE jobs SET due_elapsed = :elapsed + min(max(due_elapsed - :now, 0), :longest),
                    expires_elapsed = :elapsed + min(max(expires_elapsed - :now, 0), :longest)
    WHERE state = :state AND (due_elapsed IS NOT NULL OR expires_elapsed IS NOT NULL)
"""
