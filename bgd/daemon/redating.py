"""Redating: when the clock is set, what waits for a duration is due at another time of that clock."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf

from bgd import clock
from bgd.clock import now
from bgd.core.job import WAITING, JobId
from bgd.daemon.storage.database import DiskFull
from bgd.daemon.storage.store import Store

logger = logging.getLogger(__name__)

REST = 9  # times as long as the store had work: a clock that is set all the time takes a tenth of its time


class Redating:
    """Writes down anew when jobs are due, at the start and whenever the clock was set.

    Pages and lists show these times, and another boot, whose elapsed clock begins anew, goes by them: a pause
    of seconds would be one of years, or none.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._was_set = asyncio.Event()
        self._was_set.set()
        self._alarm = clock.Alarm(asyncio.get_running_loop(), self._was_set.set, on_wall_clock=True)

    async def run(self) -> None:
        """Do this for ever."""
        try:
            while True:
                await self._was_set.wait()
                self._was_set.clear()
                self._alarm.set(inf)  # it rings all the same when the clock is set
                try:
                    await self._redate()
                except DiskFull as error:  # it hurts nothing that runs or waits now
                    logger.warning("due times stay as they were before the clock was set: %s", error)
        finally:
            self._alarm.close()

    async def _redate(self) -> None:
        for state in sorted(WAITING):
            last: JobId | None = JobId(0)
            while last is not None:
                began = time.monotonic()
                last = await self._store.redate(now(), state, last)
                await asyncio.sleep(REST * (time.monotonic() - began))
