"""Wait: for many deadlines on the elapsed clock with one alarm, and for a descriptor."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

from bgd.system.clock import Alarm, elapsed


class Deadlines:
    """A heap of deadlines. Cancelled ones leave it when they come up, or when they outnumber the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alarm = Alarm(loop, self._expire_due)
        self._heap: list[Deadline] = []
        self._dead = 0
        self._armed_for: float | None = None

    def after(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call back after this many seconds, time in suspend included."""
        deadline = Deadline(elapsed() + seconds, callback, self._note_dead)
        heapq.heappush(self._heap, deadline)
        self._arm()
        return deadline

    def timer(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that is done after this many seconds; cancel it when it is no longer needed."""
        future: asyncio.Future[None] = self._loop.create_future()
        deadline = self.after(seconds, lambda: settle(future))
        future.add_done_callback(lambda _: deadline.cancel())
        return future

    async def wait(self, seconds: float, *until: asyncio.Future[Any]) -> None:
        """Return after this many seconds, or once something is done."""
        over = self.timer(seconds)
        await asyncio.wait({over, *until}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()

    def close(self) -> None:
        """Release the alarm; no deadline comes any more."""
        self._alarm.close()

    def __len__(self) -> int:
        return len(self._heap)

    def _note_dead(self) -> None:
        self._dead += 1
        if self._dead > _MIN_DEAD and self._dead * 2 > len(self._heap):
            self._heap = [each for each in self._heap if each.is_live]
            heapq.heapify(self._heap)
            self._dead = 0

    def _expire_due(self) -> None:
        self._armed_for = None
        now = elapsed()
        try:
            while (first := self._first()) is not None and first.at <= now:
                heapq.heappop(self._heap).expire()
        finally:  # the loop logs an error of one callback; the alarm rings again for the others
            self._arm()

    def _arm(self) -> None:
        first = self._first()
        # an alarm that was set for a cancelled deadline rings once for nothing, which costs no more than this
        if first is not None and (self._armed_for is None or first.at < self._armed_for):
            self._armed_for = first.at
            self._alarm.set(first.at)

    def _first(self) -> Deadline | None:
        while self._heap and not self._heap[0].is_live:
            heapq.heappop(self._heap)
            self._dead = max(0, self._dead - 1)
        return self._heap[0] if self._heap else None


class Deadline:
    """One callback, due at `at` of the elapsed clock."""

    __slots__ = ("_callback", "_note_dead", "at")

    def __init__(self, at: float, callback: Callable[[], None], note_dead: Callable[[], None]) -> None:
        self.at = at
        self._callback: Callable[[], None] | None = callback
        self._note_dead = note_dead

    @property
    def is_live(self) -> bool:
        """Whether it was neither cancelled nor has expired."""
        return self._callback is not None

    def cancel(self) -> None:
        """Cancel the callback; may be called again, and after it was due."""
        if self._callback is not None:
            self._callback = None
            self._note_dead()

    def expire(self) -> None:
        """Call back, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __lt__(self, other: Deadline) -> bool:
        return self.at < other.at


class Countdown:
    """A deadline that can be paused and resumed; with `seconds` None it never comes."""

    def __init__(self, deadlines: Deadlines, seconds: float | None, callback: Callable[[], None]) -> None:
        self._deadlines = deadlines
        self._callback = callback
        self._rest = seconds
        self._deadline: Deadline | None = None
        self.resume()

    def resume(self) -> None:
        """Let the rest of the time run."""
        if self._deadline is None and self._rest is not None:
            self._deadline = self._deadlines.after(self._rest, self._callback)

    def pause(self) -> None:
        """Stop the time."""
        if self._deadline is not None:
            self._rest = self._deadline.at - elapsed()
            self._deadline.cancel()
            self._deadline = None


_MIN_DEAD = 64  # fewer cancelled entries are cheaper to keep than to remove


def settle(future: asyncio.Future[None]) -> None:
    """Let a future be done, which it may be."""
    if not future.done():
        future.set_result(None)


async def readable(fd: int, until: asyncio.Future[None]) -> None:
    """Return when there is something to read from a descriptor, or `until` is done."""
    loop = asyncio.get_running_loop()
    has_some: asyncio.Future[None] = loop.create_future()

    def read() -> None:
        loop.remove_reader(fd)
        has_some.set_result(None)

    loop.add_reader(fd, read)
    try:
        await asyncio.wait({has_some, until}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(fd)
