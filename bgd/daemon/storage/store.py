"""The store: every job, attempt and result on disk; one connection writes, others only read."""

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
from bgd.daemon.storage.database import DAMAGED, DatabaseConnection, StoreBroken, transaction
from bgd.daemon.storage.records import (
    QueueControls,
    RecentStats,
    StoredSpec,
    Submission,
    UnfinishedJob,
    WriteBatch,
)
from bgd.daemon.storage.recovery import RecoveryResult
from bgd.daemon.storage.schema import open_readable, open_writable
from bgd.daemon.storage.write import BatchWriter, read_spec
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, EventView, JobError, JobProgress, JobView

# --- Due times on both clocks: the elapsed one decides, epoch time is for people and for the boot to come.


AT_ONCE = 2_000  # jobs in one transaction: some milliseconds


MOST_DOWNTIME = 86_400.0  # seconds by which jobs age while the machine is off: only the wall clock knows more


def adopt_boot(db: sqlite3.Connection, now: Now, boot_id: str) -> float:
    """Move times of an earlier boot's elapsed clock onto this boot's, by way of epoch time.

    Return the seconds since the earlier boot that do not count for retention, because the wall clock, which
    is the only one that measured them, may be wrong by years.
    """
    with transaction(db):
        known, age_ahead, noted, wall = db.execute(_KNOWN).fetchone()
        ignored = 0.0
        if age_ahead is None:  # the database is new, or an earlier bgd wrote it
            _set_age(db, now, now.wall)
            db.execute("UPDATE jobs SET aged_from = ? WHERE aged_from > ?", (now.wall, now.wall))
        elif known != boot_id:
            ignored = max(now.wall - wall - MOST_DOWNTIME, 0)
            _set_age(db, now, noted + min(max(now.wall - wall, 0), MOST_DOWNTIME))
        if known == boot_id:
            return ignored
        given = {"elapsed": now.elapsed, "wall": now.wall, "longest": MAX_DURATION}
        for state in State:
            if state not in FINAL:
                db.execute(_ADOPT, {**given, "state": state.value})
        db.execute("UPDATE meta SET boot_id = ?", (boot_id,))
    return ignored


def note_age(db: sqlite3.Connection, now: Now) -> None:
    """Write down retention's clock beside the wall clock, so that the next boot can continue it."""
    with transaction(db):
        db.execute("UPDATE meta SET age_noted = ? + age_ahead, wall_noted = ?", (now.elapsed, now.wall))


def _set_age(db: sqlite3.Connection, now: Now, age: float) -> None:
    ahead = age - now.elapsed
    db.execute("UPDATE meta SET age_ahead = ?, age_noted = ?, wall_noted = ?", (ahead, age, now.wall))


def redate(db: sqlite3.Connection, now: Now, state: State, after: JobId) -> JobId | None:
    """Bring epoch times to where this boot's elapsed clock puts them, as the wall clock may have been set.

    That of the next jobs of this state, by their ids; returns the last of these, None: there are no more.
    """
    with transaction(db):
        (last,) = db.execute(_LAST, (state.value, after, AT_ONCE)).fetchone()
        if last is None:
            return None
        ahead = now.wall - now.elapsed
        given = {"state": state.value, "after": after, "last": last, "ahead": ahead, "little": _LITTLE}
        db.execute(_REDATE, given)
    return JobId(last)


_LITTLE = 1.0  # seconds that nobody sees, by which a clock that is never set goes astray

_KNOWN = "SELECT boot_id, age_ahead, age_noted, wall_noted FROM meta"

_ADOPT = """
    UPDATE jobs SET due_elapsed = :elapsed + min(max(due_at - :wall, 0), :longest),
                    expires_elapsed = :elapsed + min(max(expires_at - :wall, 0), :longest)
    WHERE state = :state AND (due_elapsed IS NOT NULL OR expires_elapsed IS NOT NULL)
"""

# the index keeps it from reading all that has finished between one of these jobs and the next
_LAST = """
    SELECT max(id) FROM
        (SELECT id FROM jobs INDEXED BY jobs_by_state WHERE state = ? AND id > ? ORDER BY id LIMIT ?)
"""

_REDATE = """
    UPDATE jobs INDEXED BY jobs_by_state
    SET due_at = due_elapsed + :ahead, expires_at = expires_elapsed + :ahead
    WHERE state = :state AND id > :after AND id <= :last
          AND (abs(due_at - due_elapsed - :ahead) > :little
               OR abs(expires_at - expires_elapsed - :ahead) > :little)
"""


# --- What can be read of the store: whoever answers questions, and changes nothing, is given only this.


class StoreReader:
    """Two connections that can only read.

    Args:
        reader: for what takes a moment.
        searcher: for what may look at very many rows, while nobody else waits for it.
        store_id: the database's own.
    """

    def __init__(self, reader: DatabaseConnection, searcher: DatabaseConnection, store_id: str) -> None:
        self.store_id = store_id
        self._reader = reader
        self._searcher = searcher

    async def list(self, query: List, uid: int | None) -> builtins.list[JobView]:
        """Return the newest jobs that the query selects, newest first.

        Without states in the query: what runs, then what waits, then what is finished, until its limit is
        reached. `uid` is the asking user's, for queries that want only their own.
        """
        return await self._searcher.call(read.list_jobs, query, uid if query.mine else None)

    async def first_views(
        self, query: List, uid: int | None
    ) -> tuple[builtins.list[JobView], builtins.list[JobId]]:
        """Return the first of these, and the ids of the rest, which `next_views` reads: jobs may be large."""
        return await self._searcher.call(read.first_views, query, uid if query.mine else None)

    async def next_views(
        self, job_ids: builtins.list[JobId]
    ) -> tuple[builtins.list[JobView], builtins.list[JobId]]:
        """Return those of the first of these jobs that exist, and the ids of the rest."""
        return await self._searcher.call(read.next_views, job_ids)

    async def view(self, job_id: JobId) -> JobView | None:
        return await self._reader.call(read.view, job_id)

    async def progress(self, job_ids: builtins.list[JobId]) -> builtins.list[JobProgress]:
        """Return what those of these jobs last said of themselves that run, and have said anything."""
        return await self._searcher.call(read.progress_of, job_ids)

    async def latest(self, uid: int) -> JobId | None:
        """Return the id of the user's newest job."""
        return await self._reader.call(read.latest, uid)

    async def attempts(self, job_id: JobId, after: int, limit: int) -> builtins.list[AttemptView]:
        """Return at most `limit` attempts after number `after`; their log paths are below the log folder."""
        return await self._reader.call(read.attempts_of, job_id, after, limit)

    async def result(self, job_id: JobId) -> tuple[str | None, JobError | None]:
        """Return what the latest attempt returned, as JSON text, and what it raised; None where nothing."""
        return await self._reader.call(read.result_of, job_id)

    async def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        return await self._reader.call(read.counts)

    async def queue_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of unfinished jobs in each queue and state, where there are any."""
        return await self._searcher.call(read.queue_counts)

    async def has_jobs_in(self, queue: str) -> bool:
        """Tell whether any job, finished ones too, is in this queue, which is not the default one."""
        return await self._reader.call(read.has_jobs_in, queue)

    async def stats(self, since: float) -> RecentStats:
        """Return what the kept events tell of attempts that ended at or after `since`, in epoch time."""
        return await self._searcher.call(read.recent_stats, since)

    async def events(self, after: int, limit: int) -> builtins.list[EventView]:
        """Return at most `limit` events after the one with the id `after`, oldest first."""
        return await self._reader.call(write.read_events, after, limit)

    async def event_bounds(self) -> tuple[int, int]:
        """Return the oldest event id that is kept (none: the newest + 1), and the newest ever given out."""
        return await self._reader.call(write.event_bounds)


class Store(StoreReader):
    """One database file.

    There is exactly one Store a file, in the one process that holds the state folder's lock: SQLite before
    3.51.3 may lose commits when two connections write. And no other code of this process opens or copies the
    file, its -wal or its -shm: closing such a descriptor would drop SQLite's locks.
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
        self.free_bytes = 0  # bytes inside the file that are free, as of the last commit
        self.position = 0  # id of the newest event on disk: no two states of the database have the same
        self._writer = writer
        self._saver = BatchWriter()

    @classmethod
    async def open(cls, path: str) -> Store:
        """Open the file, after creating it or bringing it to this version's tables.

        Raises:
            StoreBroken: it cannot be written, is damaged, of a newer bgd or of another program.
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
        """Return what is to be said of content that cannot be as it is."""
        return StoreBroken(f"database {self._path} is damaged ({error})", DAMAGED)

    async def close(self) -> None:
        """Close all connections, the writing one last: it folds the -wal file into the database."""
        await self._searcher.close()
        await self._reader.close()
        await self._writer.close()

    # --- for the supervisor --------------------------------------------------------------------------------

    async def begin_generation(self, above: int = 0) -> int:
        """Commit the next generation number, one higher than `above` at least, and return it (R1)."""
        return await self._writer.call(_next_generation, above)

    async def generation(self) -> int:
        """Return the generation that was committed last."""
        return await self._reader.call(_generation)

    async def hold_as_outdated(self, position: int, launcher: str, at: float) -> RecoveryResult:
        """Keep an old copy of the database from running anything twice, in one transaction.

        `position`: up to which its events were known to somebody. The rest is as in `recovering.restore`.
        """
        return await self._writer.call(recovery.hold_as_outdated, position, launcher, at)

    async def adopt_boot(self, now: Now, boot_id: str) -> float:
        """Carry times on the elapsed clock of an earlier boot over to this boot's.

        Return the seconds between the two that do not count for retention.
        """
        return await self._writer.call(adopt_boot, now, boot_id)

    async def note_age(self, now: Now) -> None:
        """Write down retention's clock beside the wall clock, so that the next boot can continue it."""
        await self._writer.call(note_age, now)

    async def redate(self, now: Now, state: State, after: JobId) -> JobId | None:
        """Say anew on the wall clock when some jobs are due and expire that wait on the elapsed one.

        These are the next of this state; returns the last of them, None: there are no more.

        Raises:
            DiskFull: there is no room for it.
        """
        return await self._writer.call(redate, now, state, after)

    async def unfinished(self) -> AsyncIterator[list[UnfinishedJob]]:
        """Yield all unfinished jobs, some thousand at a time: state by state, in the order of their ids."""
        for state in State:
            after = 0
            while state not in FINAL and (
                page := await self._reader.call(read.unfinished_jobs, state, after)
            ):
                yield page
                after = page[-1].job.id

    async def last_id(self) -> int:
        """Return the highest id ever given out."""
        return await self._reader.call(read.last_id)

    async def controls(self) -> QueueControls:
        """Return what was last said of slots and queues."""
        return await self._reader.call(read.controls)

    async def commit(self, batch: WriteBatch) -> dict[JobId, StoredSpec]:
        """Write the batch in one transaction and return the specs it wants; when this returns it is on disk.

        A cancelled caller leaves the transaction to run to its end.

        Raises:
            DiskFull: there is no room for it, and none of it is written; it can be tried again.
            StoreBroken: the disk or the file failed; nothing can be written any more.
        """
        return await self._writer.call(self._commit, batch)

    async def finished(self, job_id: JobId) -> Job | None:
        """Return a finished job as the Scheduler revives it; None if no finished job has this id."""
        return await self._reader.call(read.finished_job, job_id)

    async def states(self, job_ids: list[JobId]) -> dict[JobId, State]:
        """Return the states of those jobs that exist."""
        return await self._reader.call(read.states, job_ids)

    async def spec(self, job_id: JobId) -> StoredSpec | None:
        """Return what was asked for; None if no job has this id."""
        return await self._reader.call(read_spec, job_id)

    # --- for who lets finished jobs go ----------------------------------------------------------------------

    async def prunable_jobs(
        self, limits: pruning.RetentionLimits, elapsed: float, limit: int
    ) -> list[pruning.PrunableJob]:
        """Return at most `limit` of the finished jobs that are to go at this time of the elapsed clock."""
        return await self._searcher.call(pruning.prunable_jobs, limits, elapsed, limit)

    async def next_prunable_at(self, limits: pruning.RetentionLimits) -> float | None:
        """Return the elapsed time when the next job will have been kept long enough; None: none ever will."""
        return await self._reader.call(pruning.next_prunable_at, limits)

    async def total_prunable(self, limits: pruning.RetentionLimits, elapsed: float) -> tuple[int, int]:
        """Return how many finished jobs are to go, and the bytes of their logs; it holds nobody up."""
        async with self._aside() as database:
            return await database.call(pruning.total_prunable, limits, elapsed)

    async def still_finished(self, wanted: list[pruning.PrunableJob]) -> list[Job]:
        """Return those of these jobs that have not been run again since."""
        return await self._reader.call(pruning.still_finished, wanted)

    async def leftovers(self) -> list[JobId]:
        """Return jobs that were removed, and whose logs may still be there."""
        return await self._reader.call(pruning.leftovers)

    # --- for who copies it --------------------------------------------------------------------------------

    async def copy_size(self) -> int:
        """Return about how many bytes a copy will have."""
        return await self._reader.call(copying.copy_size)

    async def copy_to(self, path: str) -> copying.DatabaseCopy:
        """Write all that is committed to a new file and check it, while others read and write.

        Raises:
            StoreBroken, OSError, sqlite3.Error: there is no whole copy; what there is of it is removed.
        """
        try:
            async with self._aside() as database:
                return await database.call(copying.write_copy, path)
        except BaseException:  # the thread writes no more: what it made stays removed
            Path(path).unlink(missing_ok=True)  # noqa: ASYNC240 - there may be no thread to be had for it
            raise

    async def copy_unlinked(self, path: str) -> copying.DatabaseCopy:
        """Do the same with the connection that is open, as nobody else can open what has lost its name."""
        return await self._writer.call(copying.write_copy, path)

    async def reserve_ids(self, job_id: int) -> None:
        """Give out no id up to this one."""
        await self._writer.call(_raise_last_id, job_id)

    async def submission(self, token: bytes, newest: int) -> Submission | None:
        """Return the request with this token whose jobs are newer than `newest`; None: there is none."""
        return await self._searcher.call(write.find_submission, token, newest)

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[DatabaseConnection]:
        """Give a connection of its own to what takes seconds."""
        database = DatabaseConnection(self._path, partial(open_readable, self._path))
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    # --- on the writer's thread -----------------------------------------------------------------------------

    def _commit(self, db: sqlite3.Connection, batch: WriteBatch) -> dict[JobId, StoredSpec]:
        try:
            with transaction(db):
                specs = self._saver.save(db, batch)
        except BaseException:
            self._saver.forget()
            raise
        self.position = self._saver.newest_event or self.position
        if self.free_bytes or batch.removed:
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
