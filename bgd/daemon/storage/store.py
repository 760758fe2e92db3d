"""The store: every job, attempt and result on disk; one connection writes, and two others only read."""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from bgd.core.job import FINAL, Job, JobId, Now, State
from bgd.core.spec import MAX_DURATION
from bgd.daemon.storage import copying, pruning, read, recovery, write
from bgd.daemon.storage.database import DatabaseConnection, StoreBroken, damaged, transaction
from bgd.daemon.storage.records import (
    QueueControls,
    RecentStats,
    StoredSpec,
    Submission,
    Transaction,
    UnfinishedJob,
)
from bgd.daemon.storage.recovery import RecoveryResult
from bgd.daemon.storage.schema import open_readable, open_writable
from bgd.daemon.storage.write import TransactionWriter, read_spec
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, EventView, JobError, JobProgress, JobView

REDATED_AT_ONCE = 2_000  # jobs in one transaction: some milliseconds
_MAX_DOWNTIME = 86_400.0  # seconds that jobs age while the machine is off, which only the wall clock measures
_TOLERANCE = 1.0  # seconds between the clocks that nobody notices, and that a clock which is never set drifts


class StoreReader:
    """What can be read of the store; code that changes nothing gets only this.

    Args:
        reader: for queries that are quick.
        searcher: for queries that may read very many rows, so that quick ones do not wait for them.
        store_id: the database's own random id.
    """

    def __init__(self, reader: DatabaseConnection, searcher: DatabaseConnection, store_id: str) -> None:
        self.store_id = store_id
        self._reader = reader
        self._searcher = searcher

    async def list(self, query: List, uid: int | None) -> builtins.list[JobView]:
        """Return the newest jobs that the query selects, newest first.

        If the query names no states, return what runs, then what waits, then what has finished, up to its
        limit. `uid` is that of the user who asks, for queries of only their own jobs.
        """
        return await self._searcher.call(read.list_jobs, query, uid if query.mine else None)

    async def first_views(
        self, query: List, uid: int | None
    ) -> tuple[builtins.list[JobView], builtins.list[JobId]]:
        """Return the first of these, and the ids of the rest for `next_views`: jobs may be large."""
        return await self._searcher.call(read.first_views, query, uid if query.mine else None)

    async def next_views(
        self, job_ids: builtins.list[JobId]
    ) -> tuple[builtins.list[JobView], builtins.list[JobId]]:
        """Return the views of the first of these jobs, as far as they exist, and the ids of the rest."""
        return await self._searcher.call(read.next_views, job_ids)

    async def view(self, job_id: JobId) -> JobView | None:
        """Return what clients see of a job; None if it does not exist."""
        return await self._reader.call(read.view, job_id)

    async def progress(self, job_ids: builtins.list[JobId]) -> builtins.list[JobProgress]:
        """Return the last progress of those of these jobs that run and have reported any."""
        return await self._searcher.call(read.progress_of, job_ids)

    async def latest(self, uid: int) -> JobId | None:
        """Return the id of the user's newest job; None if there is none."""
        return await self._reader.call(read.latest, uid)

    async def attempts(self, job_id: JobId, after: int, limit: int) -> builtins.list[AttemptView]:
        """Return at most `limit` attempts after number `after`; their log paths are below the log folder."""
        return await self._reader.call(read.attempts_of, job_id, after, limit)

    async def result(self, job_id: JobId) -> tuple[str | None, JobError | None]:
        """Return what the latest attempt returned, as JSON text, and what it raised; None for nothing."""
        return await self._reader.call(read.result_of, job_id)

    async def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        return await self._reader.call(read.counts)

    async def queue_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of unfinished jobs in each queue and state, where there are any."""
        return await self._searcher.call(read.queue_counts)

    async def has_jobs_in(self, queue: str) -> bool:
        """Return whether any job, finished or not, is in this queue, which is not the default one."""
        return await self._reader.call(read.has_jobs_in, queue)

    async def stats(self, since: float) -> RecentStats:
        """Return statistics of attempts that ended at or after `since`, in epoch time."""
        return await self._searcher.call(read.recent_stats, since)

    async def events(self, after: int, limit: int) -> builtins.list[EventView]:
        """Return at most `limit` events after the one with the id `after`, oldest first."""
        return await self._reader.call(write.read_events, after, limit)

    async def event_bounds(self) -> tuple[int, int]:
        """Return the oldest event id on disk, and the newest ever given out; 1 and 0 at first."""
        return await self._reader.call(write.event_bounds)


class Store(StoreReader):
    """One database file.

    A file has exactly one Store, in the process that holds the lock of the state folder: SQLite before 3.51.3
    may lose commits if two connections write. No other code of this process may open or copy the file, its
    -wal or its -shm: closing such a descriptor would drop SQLite's locks.

    Attributes:
        free_bytes: inside the file, as of the last commit.
        position: id of the newest event on disk; no two states of the database have the same.
    """

    def __init__(
        self,
        writer: DatabaseConnection,
        reader: DatabaseConnection,
        searcher: DatabaseConnection,
        store_id: str,
        path: str,
    ) -> None:
        super().__init__(reader, searcher, store_id)
        self._path = path
        self.free_bytes = 0
        self.position = 0
        self._writer = writer
        self._transaction_writer = TransactionWriter()

    @classmethod
    async def open(cls, path: str) -> Store:
        """Open the file; create it or upgrade its tables if necessary.

        Raises:
            StoreBroken: it cannot be written, is damaged, or belongs to a newer bgd or another program.
        """
        async with AsyncExitStack() as opened:
            writer = await _opened(path, open_writable, opened)
            reader = await _opened(path, open_readable, opened)
            searcher = await _opened(path, open_readable, opened)
            store_id = await reader.call(read.prepare)
            free_bytes = await reader.call(copying.free_bytes)
            position = await reader.call(write.newest_event)
            await searcher.call(read.prepare)
            opened.pop_all()
        store = cls(writer, reader, searcher, store_id, path)
        store.free_bytes = free_bytes
        store.position = position
        return store

    def damaged(self, error: Exception) -> StoreBroken:
        """Return the error for rows that contradict each other."""
        return damaged(error, self._path)

    async def close(self) -> None:
        """Close all connections, the writing one last: that moves the -wal file into the database."""
        await self._searcher.close()
        await self._reader.close()
        await self._writer.close()

    # --- for the Supervisor --------------------------------------------------------------------------------

    async def begin_generation(self, above: int = 0) -> int:
        """Commit the next generation number, which is higher than `above`, and return it (R1)."""
        return await self._writer.call(_next_generation, above)

    async def generation(self) -> int:
        """Return the generation number that was committed last."""
        return await self._reader.call(_generation)

    async def hold_as_outdated(self, position: int, launcher: str, at: float) -> RecoveryResult:
        """Keep an old copy of the database from running anything twice, in one transaction.

        `position`: the highest event id that was given out. The rest is as in `recovery.restore`.
        """
        return await self._writer.call(recovery.hold_as_outdated, position, launcher, at)

    async def adopt_boot(self, now: Now, boot_id: str) -> float:
        """Convert times on an earlier boot's elapsed clock to this boot's.

        Return the seconds between the two boots that do not count for retention.
        """
        return await self._writer.call(adopt_boot, now, boot_id)

    async def save_retention_clock(self, now: Now) -> None:
        """Save retention's clock together with the wall clock, so that the next boot can continue it."""
        await self._writer.call(save_retention_clock, now)

    async def redate(self, now: Now, state: State, after: JobId) -> JobId | None:
        """Correct the epoch times at which some jobs are due or expire, after the wall clock was set.

        These are the next jobs of this state after `after`; return the last of them, None if there are none.

        Raises:
            DiskFull: the disk is full.
        """
        return await self._writer.call(redate, now, state, after)

    async def unfinished(self) -> AsyncIterator[list[UnfinishedJob]]:
        """Yield all unfinished jobs, some thousand at a time: state by state, by their ids."""
        for state in State:
            after = 0
            while state not in FINAL and (
                page := await self._reader.call(read.unfinished_jobs, state, after)
            ):
                yield page
                after = page[-1].job.id

    async def last_id(self) -> int:
        """Return the highest job id ever given out."""
        return await self._reader.call(read.last_id)

    async def controls(self) -> QueueControls:
        """Return what people have set for slots and queues."""
        return await self._reader.call(read.controls)

    async def commit(self, transaction: Transaction) -> dict[JobId, StoredSpec]:
        """Write a transaction to the disk as a whole, and return the specs of `transaction.wanted`.

        If the caller is cancelled, it runs to its end all the same.

        Raises:
            DiskFull: the disk is full; nothing is written, and it can be tried again.
            StoreBroken: the disk or the file failed; nothing can be written any more.
        """
        return await self._writer.call(self._commit, transaction)

    async def finished(self, job_id: JobId) -> Job | None:
        """Return a finished job without what it waited for; None if no finished job has this id."""
        return await self._reader.call(read.finished_job, job_id)

    async def states(self, job_ids: list[JobId]) -> dict[JobId, State]:
        """Return the states of those jobs that exist."""
        return await self._reader.call(read.states, job_ids)

    async def spec(self, job_id: JobId) -> StoredSpec | None:
        """Return a job's spec with its environment; None if no job has this id."""
        return await self._reader.call(read_spec, job_id)

    async def reserve_ids(self, job_id: int) -> None:
        """Never give out this id or a lower one."""
        await self._writer.call(_raise_last_id, job_id)

    async def submission(self, token: bytes, newest: int) -> Submission | None:
        """Return the request with this token whose jobs are newer than `newest`; None if there is none."""
        return await self._searcher.call(write.find_submission, token, newest)

    # --- for retention --------------------------------------------------------------------------------------

    async def prunable_jobs(
        self, limits: pruning.RetentionLimits, elapsed: float, limit: int
    ) -> list[pruning.PrunableJob]:
        """Return at most `limit` finished jobs to delete at this time of the elapsed clock."""
        return await self._searcher.call(pruning.prunable_jobs, limits, elapsed, limit)

    async def next_prunable_at(self, limits: pruning.RetentionLimits) -> float | None:
        """Return the elapsed time at which the next job reaches its age limit; None if none ever will."""
        return await self._reader.call(pruning.next_prunable_at, limits)

    async def total_prunable(self, limits: pruning.RetentionLimits, elapsed: float) -> tuple[int, int]:
        """Return how many finished jobs there are to delete, and the bytes of their logs."""
        async with self._extra_connection() as database:
            return await database.call(pruning.total_prunable, limits, elapsed)

    async def still_finished(self, wanted: list[pruning.PrunableJob]) -> list[Job]:
        """Return those of these jobs that have not been run again since."""
        return await self._reader.call(pruning.still_finished, wanted)

    async def leftovers(self) -> list[JobId]:
        """Return the jobs that were deleted and whose logs may still be on disk."""
        return await self._reader.call(pruning.leftovers)

    # --- for backups ----------------------------------------------------------------------------------------

    async def copy_size(self) -> int:
        """Return about how many bytes a copy will have."""
        return await self._reader.call(copying.copy_size)

    async def copy_to(self, path: str) -> copying.DatabaseCopy:
        """Write everything committed to a new file and check it, while others read and write.

        Raises:
            StoreBroken, OSError, sqlite3.Error: there is no complete copy; the partial one is deleted.
        """
        try:
            async with self._extra_connection() as database:
                return await database.call(copying.write_copy, path)
        except BaseException:  # the thread has stopped writing, so the file stays deleted
            Path(path).unlink(missing_ok=True)  # noqa: ASYNC240 - there may be no thread left for it
            raise

    async def copy_unlinked(self, path: str) -> copying.DatabaseCopy:
        """Do the same through the open connection, as nobody can open a file that has been deleted."""
        return await self._writer.call(copying.write_copy, path)

    @asynccontextmanager
    async def _extra_connection(self) -> AsyncIterator[DatabaseConnection]:
        """Open another connection, for what takes seconds."""
        database = DatabaseConnection(self._path, partial(open_readable, self._path))
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    # --- on the writer's thread -----------------------------------------------------------------------------

    def _commit(self, db: sqlite3.Connection, everything: Transaction) -> dict[JobId, StoredSpec]:
        try:
            with transaction(db):
                specs = self._transaction_writer.save(db, everything)
        except BaseException:
            self._transaction_writer.forget()
            raise
        self.position = self._transaction_writer.newest_event or self.position
        if self.free_bytes or everything.removed:
            self.free_bytes = copying.free_bytes(db)
        return specs


async def _opened(
    path: str, connect: Callable[[str], sqlite3.Connection], opened: AsyncExitStack
) -> DatabaseConnection:
    database = DatabaseConnection(path, partial(connect, path))
    await database.open()
    opened.push_async_callback(database.close)
    return database


def _raise_last_id(db: sqlite3.Connection, job_id: int) -> None:
    with transaction(db):
        db.execute("UPDATE meta SET last_id = max(last_id, ?)", (job_id,))


def _next_generation(db: sqlite3.Connection, above: int) -> int:
    with transaction(db):
        db.execute("UPDATE meta SET generation = max(generation, ?) + 1", (above,))
        return _generation(db)


def _generation(db: sqlite3.Connection) -> int:
    (generation,) = db.execute("SELECT generation FROM meta").fetchone()
    return int(generation)


# --- due times on two clocks: the elapsed clock decides; epoch time is for people and for the next boot


def adopt_boot(db: sqlite3.Connection, now: Now, boot_id: str) -> float:
    """Convert times on an earlier boot's elapsed clock to this boot's, by way of epoch time.

    Return the seconds between the two boots that do not count for retention: only the wall clock measured
    them, and it may be wrong by years.
    """
    with transaction(db):
        known, age_ahead, noted, wall = db.execute(_KNOWN).fetchone()
        ignored = 0.0
        if age_ahead is None:  # the database is new, or from an earlier bgd
            _set_age(db, now, now.wall)
            db.execute("UPDATE jobs SET aged_from = ? WHERE aged_from > ?", (now.wall, now.wall))
        elif known != boot_id:
            ignored = max(now.wall - wall - _MAX_DOWNTIME, 0)
            _set_age(db, now, noted + min(max(now.wall - wall, 0), _MAX_DOWNTIME))
        if known == boot_id:
            return ignored
        given = {"elapsed": now.elapsed, "wall": now.wall, "longest": MAX_DURATION}
        for state in State:
            if state not in FINAL:
                db.execute(_ADOPT, {**given, "state": state.value})
        db.execute("UPDATE meta SET boot_id = ?", (boot_id,))
    return ignored


def save_retention_clock(db: sqlite3.Connection, now: Now) -> None:
    """Save retention's clock together with the wall clock, so that the next boot can continue it."""
    with transaction(db):
        db.execute("UPDATE meta SET age_noted = ? + age_ahead, wall_noted = ?", (now.elapsed, now.wall))


def _set_age(db: sqlite3.Connection, now: Now, age: float) -> None:
    ahead = age - now.elapsed
    db.execute("UPDATE meta SET age_ahead = ?, age_noted = ?, wall_noted = ?", (ahead, age, now.wall))


def redate(db: sqlite3.Connection, now: Now, state: State, after: JobId) -> JobId | None:
    """Correct the epoch times of due times after the wall clock was set: the elapsed clock decides.

    Do so for some jobs of this state with ids above `after`. Return the last of them; None if there are none.
    """
    with transaction(db):
        (last,) = db.execute(_LAST, (state.value, after, REDATED_AT_ONCE)).fetchone()
        if last is None:
            return None
        ahead = now.wall - now.elapsed
        given = {"state": state.value, "after": after, "last": last, "ahead": ahead, "tolerance": _TOLERANCE}
        db.execute(_REDATE, given)
    return JobId(last)


_KNOWN = "SELECT boot_id, age_ahead, age_noted, wall_noted FROM meta"

_ADOPT = """
    UPDATE jobs SET due_elapsed = :elapsed + min(max(due_at - :wall, 0), :longest),
                    expires_elapsed = :elapsed + min(max(expires_at - :wall, 0), :longest)
    WHERE state = :state AND (due_elapsed IS NOT NULL OR expires_elapsed IS NOT NULL)
"""

# The index keeps SQLite from reading all finished jobs between one of these and the next
_LAST = """
    SELECT max(id) FROM
        (SELECT id FROM jobs INDEXED BY jobs_by_state WHERE state = ? AND id > ? ORDER BY id LIMIT ?)
"""

_REDATE = """
    UPDATE jobs INDEXED BY jobs_by_state
    SET due_at = due_elapsed + :ahead, expires_at = expires_elapsed + :ahead
    WHERE state = :state AND id > :after AND id <= :last
          AND (abs(due_at - due_elapsed - :ahead) > :tolerance
               OR abs(expires_at - expires_elapsed - :ahead) > :tolerance)
"""
