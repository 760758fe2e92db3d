"""Leftovers: logs of jobs that are removed, until they are off the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from bgd.core.job import JobId
from bgd.daemon.logfiles import remove_logs
from bgd.daemon.storage.store import Store

AT_ONCE = 1000  # jobs whose logs a thread deletes before it is asked again


class Leftovers:
    """Deletes logs after their jobs: what a crash leaves in between is deleted at the next start.

    Args:
        clear: called with jobs of whose logs nothing is left.
    """

    def __init__(self, store: Store, log_dir: str, clear: Callable[[Collection[JobId]], None]) -> None:
        self._store = store
        self._log_dir = log_dir
        self._clear = clear
        self._jobs: list[JobId] = []
        self._come = asyncio.Event()

    def add(self, jobs: Collection[JobId]) -> None:
        """Take jobs that are off the disk, and have their logs follow."""
        self._jobs += jobs
        self._come.set()

    async def run(self) -> None:
        """Delete for ever; what cannot be deleted is tried again after the next start."""
        self.add(await self._store.leftovers())
        while True:
            await self._come.wait()
            jobs, self._jobs = frozenset(self._jobs[:AT_ONCE]), self._jobs[AT_ONCE:]
            if not self._jobs:
                self._come.clear()
            left = await asyncio.to_thread(remove_logs, self._log_dir, jobs)
            self._clear([job_id for job_id in jobs if job_id not in left])
