"""What the pages are made from, and what they share: the parts of the daemon, threads, and what was read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from bgd.daemon.job_actions import JobActions
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage.store import Store
from bgd.daemon.storage.summaries import UsualTimes
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.auth import Authenticator
from bgd.daemon.web.live import LiveViews
from bgd.daemon.web.log_text import LogThreads
from bgd.daemon.web.seals import Seals
from bgd.daemon.web.shared_stream import SharedStream
from bgd.daemon.web.usage import UsageWatch

MAX_AGE = 60.0  # seconds after which all is read again although nothing happened

if TYPE_CHECKING:
    from bgd.daemon.web.search import LogsSearch

R = TypeVar("R")


class Site:
    """What the pages are made from. They ask the Supervisor only what has changed: all else is from disk."""

    def __init__(
        self,
        authenticator: Authenticator,
        seals: Seals,
        store: Store,
        supervisor: Supervisor,
        actions: JobActions,
        *,
        schedules: Schedules,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.authenticator = authenticator
        self.seals = seals
        self.store = store
        self.supervisor = supervisor
        self.actions = actions
        self.schedules = schedules
        self.tasks = tasks
        self.shared: dict[str, SharedStream] = {}  # by name: the connection of each browser
        self.views = LiveViews(tasks, supervisor, store, seals)
        self.threads = LogThreads()
        self.searches: dict[LogsSearch, str] = {}  # that run, with the cookies of their browsers
        self.usual_times = UsualTimes()
        self.usage = UsageWatch(supervisor, tasks)
        self._reading = asyncio.Lock()
        # by the function that reads: its value, the newest event on disk then, and when that was
        self._kept: dict[Callable[[sqlite3.Connection], Any], tuple[Any, int, float]] = {}

    async def fresh(self, function: Callable[[sqlite3.Connection], R]) -> R:
        """Return what a function reads from the store.

        It is read again only if something has happened since. Later callers share the next read.
        """
        came_at = time.monotonic()
        async with self._reading:
            value: Any
            value, read_at, began_at = self._kept.get(function, (None, -1, -inf))
            position, now = self.store.position, time.monotonic()
            if began_at < came_at and (read_at != position or now - began_at >= MAX_AGE):
                value = await self.store.search(function)
                self._kept[function] = value, position, now
            found: R = value
            return found
