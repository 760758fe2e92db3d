"""Notes down the first process of each attempt that lasts; to look at one costs a tenth of starting it."""

from __future__ import annotations

import asyncio
import logging

from bgd.launcher.execution import Execution
from bgd.launcher.journal import Journal
from bgd.launcher.records import FirstProcess
from bgd.wire.launching import Key

log = logging.getLogger(__name__)


class Noting:
    """Which process it is helps the sweep; until that is noted, and without it, mark and pipe suffice.

    One timer does for all attempts, as each waits equally long.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal
        self._waiting: dict[Key, tuple[float, Execution]] = {}  # until when, the longest waiting first
        self._is_timed = False

    def begin(self, key: Key, execution: Execution) -> None:
        """Take it that an attempt runs in this now."""
        self._waiting[key] = self._loop.time() + _LASTING, execution
        self._time()

    def end(self, key: Key) -> None:
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
        for key, (due_at, execution) in list(self._waiting.items()):
            if due_at > now:
                break
            del self._waiting[key]
            self._note_one(key, execution)
        self._time()

    def _note_one(self, key: Key, execution: Execution) -> None:
        first = execution.seen()
        if first is None:
            return
        try:
            self._journal.note(FirstProcess(key, first.pid, first.ticks))
        except OSError as error:
            log.warning("job %d: the journal cannot take its pid: %s", key.job, error.strerror)


_LASTING = 0.05  # seconds
