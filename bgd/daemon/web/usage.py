"""What running jobs use, for open pages: read every two seconds while a job runs and a page shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.wire.views import JobUsage

INTERVAL = 2.0  # seconds between two readings


class UsageWatch:
    """Asks the launcher while it is watched.

    `jobs`: what running jobs use, by id; empty while no page watches.
    """

    def __init__(self, supervisor: Supervisor, tasks: asyncio.TaskGroup) -> None:
        self.jobs: dict[int, JobUsage] = {}
        self._supervisor = supervisor
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._watchers = 0

    @contextmanager
    def watch(self, subscription: Subscription, look: Callable[[], object]) -> Iterator[None]:
        """Keep `jobs` up to date meanwhile; wake the subscription when `look` returns another value."""
        self._watchers += 1
        if self._task is None:
            self._task = self._tasks.create_task(self._read_again_and_again())
        try:
            with self._supervisor.subscriptions.watch(subscription, look):
                yield
        finally:
            self._watchers -= 1
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task, self.jobs = None, {}

    async def _read_again_and_again(self) -> None:
        supervisor = self._supervisor
        with supervisor.subscriptions.subscribe_to_all() as change:
            while True:
                change.changed.clear()
                if supervisor.scheduler.running:
                    self.jobs, _ = await supervisor.dispatcher.usage()
                    supervisor.subscriptions.look_soon()
                    await asyncio.sleep(INTERVAL)
                else:  # an open page costs nothing while no job runs
                    self.jobs = {}
                    await change.changed.wait()
