"""The store: every job, attempt and result on disk; one connection writes, others only read."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from bgd.core.job import FINAL, Job, JobId, Now, State
from bgd.daemon.storage import copying, events, pruning, reading, recovering, restoring, submissions
from bgd.daemon.storage.database import DAMAGED, Database, StoreBroken, transaction
from bgd.daemon.storage.dates import adopt_boot, note_age, redate
from bgd.daemon.storage.readings import Readings
from bgd.daemon.storage.records import (
    AttemptEnd,
    AttemptPid,
    Batch,
    Controls,
    Event,
    Figures,
    NewAttempt,
    NewJob,
    QueueSetting,
    Restored,
    SavedJob,
    StoredSpec,
    Submission,
)
from bgd.daemon.storage.recovering import Recovered
from bgd.daemon.storage.saving import Saver
from bgd.daemon.storage.schema import open_readable, open_writable
from bgd.daemon.storage.specs import read_spec

__all__ = [
    "AttemptEnd",
    "AttemptPid",
    "Batch",
    "Controls",
    "Event",
    "Figures",
    "NewAttempt",
    "NewJob",
    "QueueSetting",
    "Restored",
    "SavedJob",
    "Store",
    "StoreBroken",
    "StoredSpec",
]


class Store(Readings):
    """One database file.

    There is exactly one Store a file, in the one process that holds the state folder's lock: SQLite before
    3.51.3 may lose commits when two connections write. And no other code of this process opens or copies the
    file, its -wal or its -shm: closing such a descriptor would drop SQLite's locks.
    """

    def __init__(
        self, writer: Database, reader: Database, searcher: Database, store_id: str, path: str
    ) -> None:
        super().__init__(reader, searcher, store_id)
        self._path = path
        self.unused = 0  # bytes inside the file that are free, as of the last commit
        self.position = 0  # id of the newest event on disk: no two states of the database have the same
        self._writer = writer
        self._saver = Saver()

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
            store_id = await reader.call(reading.prepare)
            unused = await reader.call(copying.unused)
            position = await reader.call(events.newest)
            await searcher.call(reading.prepare)
            opened.pop_all()
        store = cls(writer, reader, searcher, store_id, path)
        store.unused = unused
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

    async def hold_as_outdated(self, position: int, launcher: str, at: float) -> Recovered:
        """Keep an old copy of the database from running anything twice, in one transaction.

        `position`: up to which its events were known to somebody. The rest is as in `recovering.restore`.
        """
        return await self._writer.call(recovering.hold_as_outdated, position, launcher, at)

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

    async def unfinished(self) -> AsyncIterator[list[Restored]]:
        """Yield all unfinished jobs, some thousand at a time: state by state, in the order of their ids."""
        for state in State:
            after = 0
            while state not in FINAL and (
                page := await self._reader.call(restoring.unfinished, state, after)
            ):
                yield page
                after = page[-1].job.id

    async def last_id(self) -> int:
        """Return the highest id ever given out."""
        return await self._reader.call(restoring.last_id)

    async def controls(self) -> Controls:
        """Return what was last said of slots and queues."""
        return await self._reader.call(restoring.controls)

    async def commit(self, batch: Batch) -> dict[JobId, StoredSpec]:
        """Write the batch in one transaction and return the specs it wants; when this returns it is on disk.

        A cancelled caller leaves the transaction to run to its end.

        Raises:
            DiskFull: there is no room for it, and none of it is written; it can be tried again.
            StoreBroken: the disk or the file failed; nothing can be written any more.
        """
        return await self._writer.call(self._commit, batch)

    async def finished(self, job_id: JobId) -> Job | None:
        """Return a finished job as the Scheduler revives it; None if no finished job has this id."""
        return await self._reader.call(restoring.finished, job_id)

    async def states(self, job_ids: list[JobId]) -> dict[JobId, State]:
        """Return the states of those jobs that exist."""
        return await self._reader.call(restoring.states, job_ids)

    async def spec(self, job_id: JobId) -> StoredSpec | None:
        """Return what was asked for; None if no job has this id."""
        return await self._reader.call(read_spec, job_id)

    # --- for who lets finished jobs go ----------------------------------------------------------------------

    async def due(self, keep: pruning.Keep, elapsed: float, limit: int) -> list[pruning.Due]:
        """Return at most `limit` of the finished jobs that are to go at this time of the elapsed clock."""
        return await self._searcher.call(pruning.due, keep, elapsed, limit)

    async def next_due_at(self, keep: pruning.Keep) -> float | None:
        """Return the elapsed time when the next job will have been kept long enough; None: none ever will."""
        return await self._reader.call(pruning.next_due_at, keep)

    async def total_due(self, keep: pruning.Keep, elapsed: float) -> tuple[int, int]:
        """Return how many finished jobs are to go, and the bytes of their logs; it holds nobody up."""
        async with self._aside() as database:
            return await database.call(pruning.total, keep, elapsed)

    async def still_finished(self, wanted: list[pruning.Due]) -> list[Job]:
        """Return those of these jobs that have not been run again since."""
        return await self._reader.call(pruning.still_finished, wanted)

    async def leftovers(self) -> list[JobId]:
        """Return jobs that were removed, and whose logs may still be there."""
        return await self._reader.call(pruning.leftovers)

    # --- for who copies it --------------------------------------------------------------------------------

    async def size_of_copy(self) -> int:
        """Return about how many bytes a copy will have."""
        return await self._reader.call(copying.needed)

    async def copy_to(self, path: str) -> copying.Copy:
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

    async def save_nameless(self, path: str) -> copying.Copy:
        """Do the same with the connection that is open, as nobody else can open what has lost its name."""
        return await self._writer.call(copying.write_copy, path)

    async def begin_after(self, job_id: int) -> None:
        """Give out no id up to this one."""
        await self._writer.call(_raise_last_id, job_id)

    async def submission(self, token: bytes, newest: int) -> Submission | None:
        """Return the request with this token whose jobs are newer than `newest`; None: there is none."""
        return await self._searcher.call(submissions.find, token, newest)

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[Database]:
        """Give a connection of its own to what takes seconds."""
        database = Database(self._path, partial(open_readable, self._path))
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    # --- on the writer's thread -----------------------------------------------------------------------------

    def _commit(self, db: sqlite3.Connection, batch: Batch) -> dict[JobId, StoredSpec]:
        try:
            with transaction(db):
                specs = self._saver.save(db, batch)
        except BaseException:
            self._saver.forget()
            raise
        self.position = self._saver.newest_event or self.position
        if self.unused or batch.removed:
            self.unused = copying.unused(db)
        return specs


async def _opened(
    path: str, connect: Callable[[str], sqlite3.Connection], opened: AsyncExitStack
) -> Database:
    database = Database(path, partial(connect, path))
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
