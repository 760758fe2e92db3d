"""Limits on the memory that clients of the control socket make the daemon hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from bgd.errors import Full
from bgd.wire.requests import MAX_BATCH_BYTES

MAX_IN_FLIGHT = 1024  # requests of one connection; further ones stay unread in the socket until some are done
MAX_SHORT_TASKS = 64  # of these, requests that are neither new jobs, nor progress, nor streams
SMALL_BYTES = 8 * 1024  # requests up to this size are read without asking for room
# Small requests of a connection are always admitted while it has fewer bytes of new jobs not on disk yet
MAX_SMALL_UNSAVED_BYTES = 64 * 1024
MAX_UNSAVED_BYTES = 16 << 20  # of all clients' new jobs that are not on disk yet
MAX_UNREAD_BYTES = 4 << 20  # of all clients' requests over SMALL_BYTES that have arrived in part
MAX_STREAM_BYTES = 128 << 20  # that all streams take, by the estimates below
STREAM_BYTES = 4096  # estimate for one stream
FOLLOWED_BYTES = 512  # estimate for each job that a stream waits for


class FlowControl:
    """Decides when the daemon reads from one client, by what it holds for that client and for all.

    Args:
        changed: called whenever `is_reading` changes.

    Attributes:
        is_reading: whether to read from the client; otherwise its requests stay in the socket.
        writable: set unless too many bytes wait for the client to read them.
    """

    def __init__(self, budgets: Budgets, changed: Callable[[], None]) -> None:
        self._budgets = budgets
        self._changed = changed
        self._in_flight = 0
        self._short_tasks = 0
        self._unsaved = 0  # bytes
        self._reserved = 0  # bytes of `budgets.unread`
        self._waiting_for: FairBudget | None = None
        self._was_woken = False
        self._is_closed = False
        self.is_reading = True
        self.writable = asyncio.Event()
        self.writable.set()
        self._turn = asyncio.Lock()

    def pause_writing(self) -> None:
        """Note that the client reads too slowly."""
        self.writable.clear()
        self._update()

    def resume_writing(self) -> None:
        """Note that the client has read enough."""
        self.writable.set()
        self._update()

    @asynccontextmanager
    async def in_turn(self) -> AsyncGenerator[None, None]:
        """Let one request at a time load something large and send it, and none while the client is slow."""
        async with self._turn:
            await self.writable.wait()
            yield

    # --- requests in flight -----------------------------------------------------------------------------

    def begin(self, unsaved: int = 0, *, short_task: bool = False) -> None:
        """Count a request in flight; `unsaved`: bytes of its new jobs, which wait for the disk."""
        self._in_flight += 1
        self._short_tasks += short_task
        self._unsaved += unsaved
        self._budgets.unsaved.acquire(unsaved)
        self._update()

    def finish(self, unsaved: int = 0, *, short_task: bool = False) -> None:
        """Count the same request as answered."""
        self._in_flight -= 1
        self._short_tasks -= short_task
        self._unsaved -= unsaved
        self._budgets.unsaved.release(unsaved)
        self._update()

    # --- requests that arrive ---------------------------------------------------------------------------

    def admit(self, size: int) -> bool:
        """Return whether a complete request may be handled now; if not, the client waits for its turn."""
        is_small = size <= SMALL_BYTES and self._unsaved < MAX_SMALL_UNSAVED_BYTES
        return is_small or self._may_enter(self._budgets.unsaved, size)

    def reserve(self, announced: int, missing: int) -> bool:
        """Return whether the rest of a partial request may be read; if not, the client waits for its turn."""
        if announced <= SMALL_BYTES or self._reserved:
            return True
        if not self._may_enter(self._budgets.unread, missing):
            return False
        self._reserved = missing
        self._budgets.unread.acquire(missing)
        return True

    def release(self) -> None:
        """Give back what `reserve` took, once the request is complete."""
        if self._reserved:
            reserved, self._reserved = self._reserved, 0
            self._budgets.unread.release(reserved)

    def read_size(self, missing: int) -> int:
        """Return how many bytes to read at most; `missing`: of the partial request, 0 if there is none."""
        return missing if self._reserved and missing else SMALL_BYTES

    @property
    def has_reserved(self) -> bool:
        """Whether room is reserved for a partial request."""
        return self._reserved > 0

    @property
    def blocks_others(self) -> bool:
        """Whether others wait for that room."""
        return self.has_reserved and self._budgets.unread.has_waiters

    def close(self) -> None:
        """Give back what `reserve` took, and pass on any turn in line: the client is gone."""
        self._is_closed = True
        self.release()

    def wake_others(self) -> None:
        """Wake the next clients in line, once this one has been read as far as possible."""
        self._budgets.unsaved.wake_next()
        self._budgets.unread.wake_next()

    # --- waiting in line --------------------------------------------------------------------------------

    def _may_enter(self, budget: FairBudget, size: int) -> bool:
        """Return whether there is room now; if not, wait in line and stop reading from the client."""
        if budget.fits(size) and (self._was_woken or not budget.has_waiters):
            self._was_woken = False
            return True
        self._waiting_for = budget
        budget.wait(size, self._wake, first=self._was_woken)
        self._update()
        return False

    def _wake(self) -> None:
        self._waiting_for = None
        self._was_woken = True
        self._update()
        if self._is_closed or not self.is_reading:
            self.wake_others()

    def _update(self) -> None:
        """Stop reading while the client is owed too much, is slow to read, or waits for a budget."""
        is_reading = (
            self._in_flight < MAX_IN_FLIGHT
            and self._short_tasks < MAX_SHORT_TASKS
            and self._waiting_for is None
            and self.writable.is_set()
        )
        if is_reading is not self.is_reading:
            self.is_reading = is_reading
            self._changed()


class Budgets(Struct, frozen=True):
    """Bytes that all connections share.

    Attributes:
        batches: for batches that are still incomplete or not on disk yet.
        streams: for requests that stay open.
        unsaved: for new jobs that are not on disk yet.
        unread: for large requests that have arrived in part.
    """

    batches: Budget
    streams: Budget
    unsaved: FairBudget
    unread: FairBudget


def new_budgets() -> Budgets:
    """Return unused budgets."""
    return Budgets(
        batches=Budget(
            MAX_BATCH_BYTES, "the unfinished batches of all clients are too large together: try again later"
        ),
        streams=Budget(
            MAX_STREAM_BYTES,
            "clients wait for too many jobs, or follow too many streams: end some, or try again later",
        ),
        unsaved=FairBudget(MAX_UNSAVED_BYTES),
        unread=FairBudget(MAX_UNREAD_BYTES),
    )


class Budget:
    """At most `size` bytes; a request for more is refused with the message `refusal`."""

    def __init__(self, size: int, refusal: str) -> None:
        self._size = size
        self._refusal = refusal
        self._used = 0

    def acquire(self, count: int) -> None:
        """Use some bytes.

        Raises:
            Full: fewer are left.
        """
        if self._used + count > self._size:
            raise Full(self._refusal)
        self._used += count

    def release(self, count: int) -> None:
        """Give bytes back."""
        self._used -= count


class FairBudget:
    """About `size` bytes, for which clients wait in line.

    It suits only memory that becomes free without the help of those who wait.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiters: deque[tuple[int, Callable[[], None]]] = deque()

    def fits(self, count: int) -> bool:
        """Return whether `count` bytes are left; more than `size` bytes fit when none are used."""
        return self._used == 0 or self._used + count <= self._size

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits in line."""
        return bool(self._waiters)

    def acquire(self, count: int) -> None:
        """Use bytes, even more than there are."""
        self._used += count

    def release(self, count: int) -> None:
        """Give bytes back and wake the next in line."""
        self._used -= count
        self.wake_next()

    def wait(self, count: int, callback: Callable[[], None], *, first: bool) -> None:
        """Call back once `count` bytes are left; `first`: ahead of all others, after waking in vain."""
        if first:
            self._waiters.appendleft((count, callback))
        else:
            self._waiters.append((count, callback))

    def wake_next(self) -> None:
        """Wake the next in line if there is room; it calls this again for the next one."""
        if self._waiters and self.fits(self._waiters[0][0]):
            _, callback = self._waiters.popleft()
            asyncio.get_running_loop().call_soon(callback)
