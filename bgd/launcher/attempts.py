"""Every attempt this launcher knows: starting, running, or ended and not yet acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator

from bgd.core.job import Outcome
from bgd.launcher.attempt import Attempt
from bgd.launcher.line import Line
from bgd.launcher.tools import Tools
from bgd.launcher.warm.workers import Workers
from bgd.wire.launching import Ended, Grew, Key, Launch, Started

log = logging.getLogger(__name__)


class Attempts:
    """What the master asks of attempts and is told of them. `idle` is called when none runs any more."""

    def __init__(self, tools: Tools, workers: Workers, line: Line, idle: Callable[[], None]) -> None:
        self._tools = tools
        self._workers = workers
        self._line = line
        self._idle = idle
        self._known: dict[Key, Attempt | Ended] = {}
        self._running = 0
        self._is_closing = False
        self._unbegun: set[Key] = set()  # asked for while closing
        self._watched: set[Key] = set()
        self._grown: set[Key] = set()

    @property
    def running(self) -> int:
        """How many have not ended."""
        return self._running

    def remember(self, ends: Iterable[Ended]) -> None:
        """Take over ends that a predecessor left to be told."""
        self._known.update((ended.key, ended) for ended in ends)

    def snapshot(self) -> Iterator[Started | Ended]:
        for known in self._known.values():
            yield known if isinstance(known, Ended) else known.state

    def launch(self, launch: Launch) -> None:
        """Start an attempt, once: if its key is known, say again how it stands (R2)."""
        known = self._known.get(launch.key)
        if known is not None:
            self._line.tell(known if isinstance(known, Ended) else known.state)
            return
        attempt = Attempt(
            launch, self._tools, self._workers, self._line.tell_soon, lambda: self._note_growth(launch.key)
        )
        self._known[launch.key] = attempt
        if self._is_closing:
            # nothing of it is written down, so it was never started and the next launcher is given it; to
            # interrupt it would fail, one after the other, all jobs that are queued
            self._unbegun.add(launch.key)
        else:
            self._begin(attempt)

    def stop(self, key: Key, grace: float) -> None:
        if attempt := self._unended(key):
            attempt.stop(Outcome.CANCELLED, grace)
            if key in self._unbegun:
                self._unbegun.remove(key)
                self._begin(attempt)  # so that it ends

    def signal(self, key: Key, signum: int, *, whole_tree: bool) -> None:
        if attempt := self._unended(key):
            attempt.signal(signum, whole_tree=whole_tree)

    def suspend(self, key: Key) -> None:
        if attempt := self._unended(key):
            attempt.suspend()

    def go_on(self, key: Key) -> None:
        if attempt := self._unended(key):
            attempt.go_on()

    def renew_workers(self) -> None:
        """Start what is launched from now on in new warm workers."""
        self._workers.renew()

    def interrupt(self) -> None:
        """End all that runs, and begin nothing more."""
        self._is_closing = True
        for known in self._known.values():
            if isinstance(known, Attempt):
                known.stop(Outcome.INTERRUPTED, known.launch.grace)

    def acknowledge(self, key: Key) -> None:
        """Forget an attempt that has ended (R4)."""
        if not isinstance(self._known.get(key), Ended):
            return
        del self._known[key]
        self._watched.discard(key)
        try:
            self._tools.journal.forget(key)
        except OSError as error:  # told again after a restart, and acknowledged again
            log.warning("the journal cannot forget job %d: %s", key.job, error.strerror)

    def watch(self, key: Key, *, on: bool) -> None:
        if not on:
            self._watched.discard(key)
            self._grown.discard(key)
        elif key in self._known:
            self._watched.add(key)
            self._note_growth(key)

    def unwatch_all(self) -> None:
        self._watched.clear()
        self._grown.clear()

    def tell_growth(self) -> None:
        """Say Grew of each log in `_grown`; a master that is slow to read hears of it later, once."""
        if self._line.is_slow:
            return
        for key in self._grown:
            if known := self._known.get(key):
                self._line.tell(Grew(key, known.log_bytes, known.log_problem))
        self._grown.clear()

    def _begin(self, attempt: Attempt) -> None:
        self._running += 1
        self._tools.group.create_task(self._see_to_its_end(attempt))

    async def _see_to_its_end(self, attempt: Attempt) -> None:
        try:
            ended = await attempt.live()
        except Exception as error:  # one job's trouble must not end the others with the launcher
            log.exception("job %d: its launcher failed it", attempt.launch.key.job)
            ended = attempt.abandon(f"its launcher failed it: {type(error).__name__}: {error}")
        try:
            self._tools.journal.finish(ended, durable=self._is_closing or not self._line.is_attended)
        except OSError as error:  # telling it is better than waiting for room: who hears it stores it
            log.warning("the journal cannot take the end of job %d: %s", ended.key.job, error.strerror)
        self._known[ended.key] = ended
        self._running -= 1
        self._line.tell(ended)
        if not self._running:
            self._idle()

    def _unended(self, key: Key) -> Attempt | None:
        known = self._known.get(key)
        return known if isinstance(known, Attempt) else None

    def _note_growth(self, key: Key) -> None:
        known = self._known[key]
        if key in self._watched or known.log_problem is not None:
            if not self._grown:
                asyncio.get_running_loop().call_soon(self.tell_growth)
            self._grown.add(key)
