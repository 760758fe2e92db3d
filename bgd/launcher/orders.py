"""What is asked of an attempt before it runs: it waits no longer than that allows, and then runs with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from bgd.core.job import Outcome
from bgd.launcher.deadlines import Countdown, Deadlines
from bgd.launcher.running import Running


class Orders:
    """`asked` is done once it is to end: `reason` says why, and `problem` where that says too little."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_suspended = False
        self.reason: Outcome | None = None
        self.problem: str | None = None
        self._grace = 0.0
        self._deadlines = deadlines
        self._let_go: asyncio.Future[None] | None = None  # while it waits for that
        self._limit: Countdown | None = None  # while it waits for what takes of its time
        self._signals: dict[int, bool] = {}  # whether for the whole tree

    def stop(self, reason: Outcome, grace: float) -> None:
        if self.reason is None:
            self.reason, self._grace = reason, grace
            self.asked.set_result(None)

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        """Keep a signal, once, as the kernel would."""
        self._signals[signum] = whole_tree or self._signals.get(signum, False)

    def suspend(self) -> None:
        self.is_suspended = True
        if self._limit is not None:
            self._limit.stand_still()

    def go_on(self) -> None:
        self.is_suspended = False
        if self._limit is not None:
            self._limit.go_on()
        if self._let_go is not None and not self._let_go.done():
            self._let_go.set_result(None)

    async def let_go(self) -> bool:
        """Wait as long as it is suspended; return False if it is to end instead."""
        while self.is_suspended and self.reason is None:
            self._let_go = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._let_go, self.asked}, return_when=asyncio.FIRST_COMPLETED)
        return self.reason is None

    @contextmanager
    def limited(self, seconds: float | None, problem: str) -> Iterator[None]:
        """Have it end, for this problem, if what is done meanwhile takes so long; None: no limit."""

        def time_out() -> None:
            self.problem = problem
            self.stop(Outcome.TIMEOUT, 0.0)

        self._limit = Countdown(self._deadlines, seconds, time_out)
        if self.is_suspended:
            self._limit.stand_still()
        try:
            yield
        finally:
            self._limit.stand_still()
            self._limit = None

    def hand_over(self, running: Running) -> None:
        """Pass on to what runs now what was asked of it before."""
        if self.is_suspended:
            running.suspend()
        for signum, whole_tree in self._signals.items():
            running.signal(signum, whole_tree=whole_tree)
        if self.reason is not None:
            running.stop(self.reason, self._grace)
