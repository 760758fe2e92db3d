"""Notes down the first process of each attempt that lasts; to look at one costs a tenth of starting it."""

from __future__ import annotations

import asyncio
import logging

from bgd.launcher.journal import FirstProcess, Journal
from bgd.launcher.process import UNKNOWN_TICKS
from bgd.launcher.scan import Looker
from bgd.launcher.tree import Execution
from bgd.wire.launching import AttemptKey

log = logging.getLogger(__name__)


class Noting:
    """Which process it is helps the sweep; until that is noted, and without it, mark and pipe suffice.

    One timer does for all attempts, as each waits equally long.
    """

    def __init__(self, group: asyncio.TaskGroup, looker: Looker, journal: Journal) -> None:
        self._loop = asyncio.get_running_loop()
        self._group = group
        self._looker = looker
        self._journal = journal
        self._waiting: dict[AttemptKey, tuple[float, Execution]] = {}  # until when, the longest waiting first
        self._is_timed = False

    def begin(self, key: AttemptKey, execution: Execution) -> None:
        """Take it that an attempt runs in this now."""
        self._waiting[key] = self._loop.time() + _LASTING, execution
        self._time()

    def end(self, key: AttemptKey) -> None:
        """Take it that the attempt's first process has ended, or that nobody cares any more."""
        self._waiting.pop(key, None)

    def _time(self) -> None:
        if not self._is_timed and self._waiting:
            due_at, _ = next(iter(self._waiting.values()))
            self._loop.call_at(due_at, self._note)
            self._is_timed = True

    def _note(self) -> None:
        self._is_timed = False
        now = self._loop.time()
        lasting: list[tuple[AttemptKey, Execution]] = []
        for key, (due_at, execution) in self._waiting.items():
            if due_at > now:
                break
            lasting.append((key, execution))
        for key, _ in lasting:
            del self._waiting[key]
        if lasting:
            self._group.create_task(self._note_all(lasting))
        self._time()

    async def _note_all(self, lasting: list[tuple[AttemptKey, Execution]]) -> None:
        try:
            seen = await self._looker.see([execution.pid for _, execution in lasting])
        except OSError as error:
            log.warning("processes cannot be looked at: %s", error.strerror)
            return
        for key, execution in lasting:
            first = seen.get(execution.pid)
            # what is not over has not been reaped, so that it was this process that was seen
            if first is not None and first.ticks != UNKNOWN_TICKS and not execution.is_over:
                self._note_one(key, first.pid, first.ticks)

    def _note_one(self, key: AttemptKey, pid: int, ticks: int) -> None:
        try:
            self._journal.note(FirstProcess(key, pid, ticks))
        except OSError as error:
            log.warning("job %d: the journal cannot take its pid: %s", key.job, error.strerror)


_LASTING = 0.05  # seconds
