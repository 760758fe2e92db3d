"""The pid journal: record the first process of each attempt that lasts.

Reading a process costs a tenth of starting it, so short attempts go without a record.
"""

from __future__ import annotations

import asyncio
import logging

from bgd.launcher.journal import FirstProcess, Journal, or_without
from bgd.launcher.process import UNKNOWN_TICKS
from bgd.launcher.scan import Scanner
from bgd.launcher.tree import Execution
from bgd.wire.launching import AttemptKey

log = logging.getLogger(__name__)


class PidJournal:
    """Record first processes for the sweep, which can also work with mark and pipe alone."""

    def __init__(self, group: asyncio.TaskGroup, scanner: Scanner, journal: Journal) -> None:
        self._loop = asyncio.get_running_loop()  # kept, because finding it takes a system call
        self._group = group
        self._scanner = scanner
        self._journal = journal
        self._waiting: dict[AttemptKey, asyncio.TimerHandle] = {}
        self._lasting: list[tuple[AttemptKey, Execution]] = []  # to be recorded in this turn of the loop

    def begin(self, key: AttemptKey, execution: Execution) -> None:
        """Record this attempt's first process, if it lasts."""
        self._waiting[key] = self._loop.call_later(_LASTING, self._record, key, execution)

    def end(self, key: AttemptKey) -> None:
        """Forget an attempt whose first process has ended."""
        if (timer := self._waiting.pop(key, None)) is not None:
            timer.cancel()

    def _record(self, key: AttemptKey, execution: Execution) -> None:
        del self._waiting[key]
        if not self._lasting:
            self._group.create_task(self._record_all())
        self._lasting.append((key, execution))

    async def _record_all(self) -> None:
        lasting, self._lasting = self._lasting, []
        try:
            seen = await self._scanner.read_processes([execution.pid for _, execution in lasting])
        except OSError as error:
            log.warning("cannot read the first processes of jobs: %s", error.strerror)
            return
        for key, execution in lasting:
            first = seen.get(execution.pid)
            # an execution that is not over is not reaped, so the pid is still this process's
            if first is not None and first.ticks != UNKNOWN_TICKS and not execution.is_over:
                with or_without(f"the pid of job {key.job}"):
                    self._journal.add_step(FirstProcess(key, first.pid, first.ticks))


_LASTING = 0.05  # seconds
