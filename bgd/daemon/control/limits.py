"""Limits on the memory that clients of the control socket make the daemon hold.

Only the daemon's own user and root can connect. The harm to expect is a bug in a client, or one user's
script that runs away: it submits without end, stops in the middle of requests, or reads no answers. So each
connection has bounds of its own, and all connections share a few. The daemon does not read from a client at
one of its own bounds. At a shared bound, it does not read from clients that have unsaved jobs or have begun
a large frame; small requests of all others are still answered. Once a large frame has room, it is read until
it is complete or its deadline passes, so no client waits forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from bgd.errors import Full
from bgd.wire.requests import MAX_BATCH_BYTES

MAX_IN_FLIGHT = 1024  # requests of one connection; further ones stay unread in the socket until some are done
MAX_SHORT_TASKS = 64  # of these, requests that are neither new jobs, nor progress, nor steps, nor streams
MAX_OWN_UNSAVED_BYTES = 4 << 20  # of one connection's new jobs that are not on disk yet
MAX_UNSAVED_BYTES = 16 << 20  # of all connections' new jobs that are not on disk yet
SMALL_BYTES = 8 * 1024  # frames up to this size are read without asking for room
MAX_PARTIAL_BYTES = 4 << 20  # of all connections' larger frames that have arrived in part
MAX_STREAM_BYTES = 128 << 20  # that all streams take, by the estimates below
STREAM_BYTES = 4096  # estimate for one stream
FOLLOWED_BYTES = 512  # estimate for each job that a stream waits for


class FlowControl:
    """Decides when the daemon reads from a client, by the memory held for it and for all.

    Args:
        shared: what the daemon holds for all clients.
        pause: stops reading from the client.
        resume: handles what has arrived from the client, as far as `may_read` allows, and reads on.

    Attributes:
        is_reading: whether the daemon reads from the client; otherwise requests stay in the socket.
        large_frame: bytes of the large frame that is being read and has got room; 0: there is none.
        writable: set unless too many bytes wait for the client to read them.
    """

    def __init__(self, shared: SharedMemory, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._shared = shared
        self._pause = pause
        self._resume = resume
        self._in_flight = 0
        self._short_tasks = 0
        self._unsaved = 0  # bytes
        self._needs_room = False  # for a large frame that has begun
        self.is_reading = True
        self.large_frame = 0
        self.writable = asyncio.Event()
        self.writable.set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def in_turn(self) -> AsyncGenerator[None, None]:
        """Let one request at a time load something large and send it, and none while the client is slow."""
        async with self._turn:
            await self.writable.wait()
            yield

    def begin(self, unsaved: int = 0, *, short_task: bool = False) -> None:
        """Count a request in flight; `unsaved`: bytes of its new jobs, which wait for the disk."""
        self._in_flight += 1
        self._short_tasks += short_task
        self._unsaved += unsaved
        self._shared.unsaved += unsaved

    def finish(self, unsaved: int = 0, *, short_task: bool = False) -> None:
        """Count the same request as answered."""
        self._in_flight -= 1
        self._short_tasks -= short_task
        self._unsaved -= unsaved
        self._shared.release(unsaved=unsaved)
        self.resume_if_allowed()

    def resume_if_allowed(self) -> None:
        """Read from the client again, in the next turn of the loop, unless a bound is still reached."""
        if not self.is_reading and self.may_read():
            asyncio.get_running_loop().call_soon(self._resume)

    def begin_frame(self, size: int) -> bool:
        """Return whether the rest of a frame of `size` bytes may be read now."""
        if size > SMALL_BYTES and not self.large_frame:
            self._needs_room = True
            if not self.may_read():
                return False
            self._needs_room = False
            self.large_frame = size
            self._shared.partial += size
        return True

    def end_frame(self) -> None:
        """Give back the room of a large frame: it is complete, or its rest will never come."""
        self._needs_room = False
        if self.large_frame:
            size, self.large_frame = self.large_frame, 0
            self._shared.release(partial=size)

    def may_read(self) -> bool:
        """Return whether no bound keeps the daemon from reading from the client; otherwise pause."""
        shared = self._shared
        is_full = (self._needs_room and shared.partial >= MAX_PARTIAL_BYTES) or (
            shared.unsaved >= MAX_UNSAVED_BYTES and (self._needs_room or self._unsaved > 0)
        )
        may_read = self.large_frame > 0 or (
            not is_full
            and self._in_flight < MAX_IN_FLIGHT
            and self._short_tasks < MAX_SHORT_TASKS
            and self._unsaved < MAX_OWN_UNSAVED_BYTES
            and self.writable.is_set()
        )
        if is_full and not may_read:
            shared.waiting[self._resume] = None
        if self.is_reading and not may_read:
            self._pause()
        self.is_reading = may_read
        return may_read


class SharedMemory:
    """Memory that the daemon holds for all connections together.

    Attributes:
        batches: for batches that are still incomplete or not on disk yet.
        streams: for requests that stay open.
        unsaved: bytes of new jobs that are not on disk yet.
        partial: bytes of large frames that have arrived in part, counted as if they were complete.
        waiting: called when less is held, in this order: resumes reading from a client.
    """

    def __init__(self) -> None:
        self.batches = Budget(
            MAX_BATCH_BYTES, "the unfinished batches of all clients are too large together: try again later"
        )
        self.streams = Budget(
            MAX_STREAM_BYTES,
            "clients wait for too many jobs, or follow too many streams: end some, or try again later",
        )
        self.unsaved = 0
        self.partial = 0
        self.waiting: dict[Callable[[], None], None] = {}

    def release(self, *, unsaved: int = 0, partial: int = 0) -> None:
        """Release bytes; if that gets below a bound, let all waiting clients try again."""
        was_full = self.unsaved >= MAX_UNSAVED_BYTES
        self.unsaved -= unsaved
        self.partial -= partial
        if self.waiting and self.unsaved < MAX_UNSAVED_BYTES and (was_full or partial):
            waiting, self.waiting = self.waiting, {}
            for resume in waiting:
                asyncio.get_running_loop().call_soon(resume)


class Budget:
    """At most `size` bytes; a request for more is refused with the message `refusal`."""

    def __init__(self, size: int, refusal: str) -> None:
        self._size = size
        self._refusal = refusal
        self._used = 0

    def acquire(self, count: int) -> None:
        """Take some bytes.

        Raises:
            Full: fewer are left.
        """
        if self._used + count > self._size:
            raise Full(self._refusal)
        self._used += count

    def release(self, count: int) -> None:
        """Release bytes."""
        self._used -= count
