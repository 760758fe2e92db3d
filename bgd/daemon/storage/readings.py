"""What can be read of the store: whoever answers questions, and changes nothing, is given only this."""

from __future__ import annotations

import builtins

from bgd.core.job import JobId
from bgd.daemon.storage import events, figures, reading
from bgd.daemon.storage.database import Database
from bgd.daemon.storage.records import Figures
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, EventView, JobError, JobProgress, JobView


class Readings:
    """Two connections that can only read.

    Args:
        reader: for what takes a moment.
        searcher: for what may look at very many rows, while nobody else waits for it.
        store_id: the database's own.
    """

    def __init__(self, reader: Database, searcher: Database, store_id: str) -> None:
        self.store_id = store_id
        self._reader = reader
        self._searcher = searcher

    async def list(self, query: List, uid: int | None) -> builtins.list[JobView]:
        """Return the newest jobs that the query selects, newest first.

        Without states in the query: what runs, then what waits, then what is finished, until its limit is
        reached. `uid` is the asking user's, for queries that want only their own.
        """
        return await self._searcher.call(reading.list_jobs, query, uid if query.mine else None)

    async def begin_list(
        self, query: List, uid: int | None
    ) -> tuple[builtins.list[JobView], builtins.list[JobId]]:
        """Return the first of these, and the ids of the rest, which `some_views` reads: jobs may be large."""
        return await self._searcher.call(reading.begin_list, query, uid if query.mine else None)

    async def some_views(
        self, job_ids: builtins.list[JobId]
    ) -> tuple[builtins.list[JobView], builtins.list[JobId]]:
        """Return those of the first of these jobs that exist, and the ids of the rest."""
        return await self._searcher.call(reading.some_views, job_ids)

    async def view(self, job_id: JobId) -> JobView | None:
        return await self._reader.call(reading.view, job_id)

    async def progress(self, job_ids: builtins.list[JobId]) -> builtins.list[JobProgress]:
        """Return what those of these jobs last said of themselves that run, and have said anything."""
        return await self._searcher.call(reading.progress, job_ids)

    async def latest(self, uid: int) -> JobId | None:
        """Return the id of the user's newest job."""
        return await self._reader.call(reading.latest, uid)

    async def attempts(self, job_id: JobId, after: int, limit: int) -> builtins.list[AttemptView]:
        """Return at most `limit` attempts after number `after`; their log paths are below the log folder."""
        return await self._reader.call(reading.attempts, job_id, after, limit)

    async def result(self, job_id: JobId) -> tuple[str | None, JobError | None]:
        """Return what the latest attempt returned, as JSON text, and what it raised; None where nothing."""
        return await self._reader.call(reading.result, job_id)

    async def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        return await self._reader.call(figures.counts)

    async def queue_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of unfinished jobs in each queue and state, where there are any."""
        return await self._searcher.call(figures.queue_counts)

    async def has_jobs_in(self, queue: str) -> bool:
        """Tell whether any job, finished ones too, is in this queue, which is not the default one."""
        return await self._reader.call(figures.has_jobs_in, queue)

    async def stats(self, since: float) -> Figures:
        """Return what the kept events tell of attempts that ended at or after `since`, in epoch time."""
        return await self._searcher.call(figures.figures, since)

    async def events(self, after: int, limit: int) -> builtins.list[EventView]:
        """Return at most `limit` events after the one with the id `after`, oldest first."""
        return await self._reader.call(events.read, after, limit)

    async def event_bounds(self) -> tuple[int, int]:
        """Return the oldest event id that is kept (none: the newest + 1), and the newest ever given out."""
        return await self._reader.call(events.bounds)
