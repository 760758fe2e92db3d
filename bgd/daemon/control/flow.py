"""The flow of one connection: when its client is served, and when what it sends is left in the socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from bgd.daemon.control.rooms import Hall, Room
from bgd.wire.requests import MAX_BATCH_BYTES

MAX_IN_FLIGHT = 1024  # requests of one connection; more are left unread in the socket until some are done
MAX_QUESTIONS = 64  # of these, such as take a turn or more of the loop and then end
SMALL = 8 * 1024  # bytes of a request that is taken in without asking for room
MODEST = (
    64 * 1024
)  # bytes of one connection that are not yet on disk, up to which small ones are always taken
MAX_UNSAVED_BYTES = 16 << 20  # of new jobs of all clients that are not yet on disk
MAX_UNREAD_BYTES = 4 << 20  # of requests of all clients, larger than small, of which a part has come
MAX_STREAM_BYTES = 128 << 20  # that all streams take, about
STREAM_BYTES = 4096  # about what one takes
FOLLOWED_BYTES = 512  # and each job that it waits for


class Rooms(Struct, frozen=True):
    """What all connections share."""

    batches: Room
    streams: Room
    unsaved: Hall
    unread: Hall


def new_rooms() -> Rooms:
    """Return rooms with nobody in them."""
    return Rooms(
        batches=Room(
            MAX_BATCH_BYTES, "the unfinished batches of all clients are too large together: try again later"
        ),
        streams=Room(
            MAX_STREAM_BYTES,
            "clients wait for too many jobs at once, or follow too much: end some of it, or try again later",
        ),
        unsaved=Hall(MAX_UNSAVED_BYTES),
        unread=Hall(MAX_UNREAD_BYTES),
    )


class Flow:
    """Counts what the daemon holds for one client, and owes it.

    Args:
        changed: called whenever the client is served from now on, or is not.
    """

    def __init__(self, rooms: Rooms, changed: Callable[[], None]) -> None:
        self._rooms = rooms
        self._changed = changed
        self._in_flight = 0
        self._questions = 0
        self._unsaved = 0
        self._reserved = 0  # of the hall of what is unread
        self._line: Hall | None = None  # in which it stands
        self._was_called = False
        self._is_over = False
        self.is_serving = True
        self.writable = asyncio.Event()
        self.writable.set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def in_turn(self) -> AsyncGenerator[None, None]:
        """Give a turn to read something and send it, once the client has read what others sent in theirs."""
        async with self._turn:
            await self.writable.wait()
            yield

    def pause(self) -> None:
        """Note that the client reads too slowly."""
        self.writable.clear()
        self._regulate()

    def resume(self) -> None:
        self.writable.set()
        self._regulate()

    # --- requests in flight -----------------------------------------------------------------------------

    def begin(self, unsaved: int = 0, *, question: bool = False) -> None:
        """Note a request in flight; `unsaved`: bytes of new jobs that wait for the disk."""
        self._in_flight += 1
        self._questions += question
        self._unsaved += unsaved
        self._rooms.unsaved.take(unsaved)
        self._regulate()

    def finish(self, unsaved: int = 0, *, question: bool = False) -> None:
        """Note that such a request has been answered."""
        self._in_flight -= 1
        self._questions -= question
        self._unsaved -= unsaved
        self._rooms.unsaved.give_back(unsaved)
        self._regulate()

    # --- requests that come -----------------------------------------------------------------------------

    def admits(self, size: int) -> bool:
        """Tell whether a request of this size is taken now; if not it is to wait until served again."""
        is_small = size <= SMALL and self._unsaved < MODEST
        return is_small or self._may_enter(self._rooms.unsaved, size)

    def expects(self, announced: int, missing: int) -> bool:
        """Tell whether the rest of a request may come now; if not, likewise."""
        if announced <= SMALL or self._reserved:
            return True
        if not self._may_enter(self._rooms.unread, missing):
            return False
        self._reserved = missing
        self._rooms.unread.take(missing)
        return True

    def at_once(self, missing: int) -> int:
        """Return how many bytes may be read at once, where the request that has begun lacks so many."""
        return missing if self._reserved and missing else SMALL

    @property
    def holds_room(self) -> bool:
        """Whether others may wait for room that this client has, as it has begun a request."""
        return self._reserved > 0

    @property
    def keeps_others_waiting(self) -> bool:
        """Whether it does."""
        return self.holds_room and self._rooms.unread.has_line

    def take(self) -> None:
        """Note that the request that came was taken in hand."""
        if self._reserved:
            reserved, self._reserved = self._reserved, 0
            self._rooms.unread.give_back(reserved)

    def end(self) -> None:
        """Note that the client is gone."""
        self._is_over = True
        self.take()

    def pass_on(self) -> None:
        """Let the next in line come, after this client was served as far as it can be now."""
        self._rooms.unsaved.call()
        self._rooms.unread.call()

    def _may_enter(self, hall: Hall, size: int) -> bool:
        if hall.has_room(size) and (self._was_called or not hall.has_line):
            self._was_called = False
            return True
        self._line = hall
        hall.line_up(size, self._be_called, first=self._was_called)
        self._regulate()
        return False

    def _be_called(self) -> None:
        self._line = None
        self._was_called = True
        self._regulate()
        if self._is_over or not self.is_serving:
            self.pass_on()

    def _regulate(self) -> None:
        """Leave what the client sends where it is while it is owed too much, reads nothing, or is in line."""
        is_serving = (
            self._in_flight < MAX_IN_FLIGHT
            and self._questions < MAX_QUESTIONS
            and self._line is None
            and self.writable.is_set()
        )
        if is_serving is not self.is_serving:
            self.is_serving = is_serving
            self._changed()
