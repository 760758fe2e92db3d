"""One attempt, from its Launch to its end: first it has to start, which may take patience."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.launcher.children import LostChild
from bgd.launcher.orders import Orders
from bgd.launcher.problems import CannotStart
from bgd.launcher.running import Running
from bgd.launcher.starting import Starting
from bgd.launcher.tools import Tools
from bgd.launcher.warm.workers import Workers
from bgd.wire.launching import Ended, Launch, Started

log = logging.getLogger(__name__)


class Attempt:
    """`started` is called when its process runs, `grew` when its log did."""

    def __init__(
        self,
        launch: Launch,
        tools: Tools,
        workers: Workers,
        started: Callable[[Started], None],
        grew: Callable[[], None],
    ) -> None:
        self.launch = launch
        self._deadlines = tools.deadlines
        self._started = started
        self._orders = Orders(tools.deadlines)
        self._starting = Starting(launch, tools, workers, self._orders, grew)
        self._running: Running | None = None

    @property
    def state(self) -> Started:
        pid = self._running.pid if self._running else None
        starting, is_suspended = self._starting, self._orders.is_suspended
        return Started(self.launch.key, pid, starting.started_at, is_suspended, starting.since)

    @property
    def log_bytes(self) -> int:
        return self._running.log_bytes if self._running else 0

    @property
    def log_problem(self) -> str | None:
        """Why output is missing from its log, None: none is."""
        return self._running.log_problem if self._running else None

    def stop(self, reason: Outcome, grace: float) -> None:
        """End it. May be said again; the first reason and the shortest grace count."""
        if self._running is not None:
            self._running.stop(reason, grace)
        else:
            self._orders.stop(reason, grace)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Send its processes a signal; before there are any it is kept, once, as the kernel would."""
        if self._running is not None:
            self._running.signal(signum, whole_tree=whole_tree)
        else:
            self._orders.signal(signum, whole_tree=whole_tree)

    def suspend(self) -> None:
        """Let its processes stand still; before there are any, let none be started."""
        self._orders.suspend()
        if self._running is not None:
            self._running.suspend()

    def go_on(self) -> None:
        """Let it run again after `suspend`."""
        self._orders.go_on()
        if self._running is not None:
            self._running.go_on()

    async def live(self) -> Ended:
        """Return how it ended, when nothing of it is left."""
        try:
            running = await self._start()
        except CannotStart as error:
            log_bytes = self._starting.say(error.words) if error.words else 0
            return self._never_ran(Outcome.NOT_STARTED, str(error), log_bytes)
        except LostChild as error:
            return self._never_ran(Outcome.UNKNOWN, str(error))
        if running is None:
            return self._never_ran(self._orders.reason or Outcome.CANCELLED, self._orders.problem)
        self._running = running
        self._started(self.state)
        self._orders.hand_over(running)
        return await running.end()

    def abandon(self, problem: str) -> Ended:
        """Return the end nobody saw, after an error of the launcher's own; its processes are killed."""
        if self._running is not None:
            try:
                self._running.abandon()
            except Exception:  # one job's trouble must not end the others with the launcher
                log.exception("job %d: something of it could not be given back", self.launch.key.job)
        return Ended(
            key=self.launch.key,
            outcome=Outcome.UNKNOWN,
            started_at=self._starting.started_at,
            finished_at=time.time(),
            log_bytes=self.log_bytes,
            problem=problem,
            run_seconds=elapsed() - self._starting.since if self._running else None,
        )

    async def _start(self) -> Running | None:
        """Start it as soon as the machine has room; None: asked to end before that."""
        pause = _FIRST_PAUSE
        asked = self._orders.asked
        while not asked.done():
            try:
                return await self._starting.once()
            except OSError as error:  # of the machine, not of the job: that would be CannotStart
                _complain(self.launch, error, pause)
            over = self._deadlines.passed(pause)
            await asyncio.wait({over, asked}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            pause = min(pause * 2, _LONGEST_PAUSE)
        return None

    def _never_ran(self, outcome: Outcome, problem: str | None, log_bytes: int = 0) -> Ended:
        return Ended(
            key=self.launch.key,
            outcome=outcome,
            finished_at=time.time(),
            log_bytes=log_bytes,
            problem=problem,
        )


_FIRST_PAUSE = 1.0  # seconds until the next try when the machine has no room, doubled up to the longest
_LONGEST_PAUSE = 30.0
_COMPLAINTS_APART = 10.0  # seconds: a machine without room must not drown in messages about it

_complained_at = -_COMPLAINTS_APART


def _complain(launch: Launch, error: OSError, pause: float) -> None:
    global _complained_at  # noqa: PLW0603  one machine, so one shortage, whichever jobs feel it
    if elapsed() - _complained_at >= _COMPLAINTS_APART:
        _complained_at = elapsed()
        log.warning(
            "job %d waits for the machine: %s; next try in %g s", launch.key.job, error.strerror, pause
        )
