"""Batches of which not every part has come: what all clients together may make the daemon hold."""

from __future__ import annotations

from bgd.errors import Full, ProtocolError
from bgd.wire.requests import MAX_BATCH, SubmitMany

SPEC_BYTES = 512  # about what a spec takes in memory beyond its bytes on the wire, which may be a single one
WORD_BYTES = 64  # likewise one of its words, or of the jobs it waits for


class Room:
    """Memory, `size` bytes of it, for the unfinished batches of all connections."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0

    def take(self, count: int) -> None:
        """Take so many bytes.

        Raises:
            Full: there are not so many left.
        """
        if self._taken + count > self._size:
            raise Full("the unfinished batches of all clients are too large together: try again later")
        self._taken += count

    def give_back(self, count: int) -> None:
        self._taken -= count


class Batch:
    """The parts of one submit_many that have come so far. Whoever drops it calls `drop`."""

    def __init__(self, request_id: int, room: Room) -> None:
        self.request_id = request_id
        self.parts: list[SubmitMany] = []
        self._room = room
        self._taken = 0
        self._jobs = 0

    def add(self, part: SubmitMany, size: int) -> None:
        """Take a part of `size` bytes.

        Raises:
            ProtocolError: it belongs to another batch.
            Full: the batch is over a limit, or all batches together are.
        """
        if part.id != self.request_id:
            raise ProtocolError(f"submit_many {self.request_id} is not complete: one at a time")
        self._jobs += len(part.specs)
        if self._jobs > MAX_BATCH:
            raise Full(f"a batch holds at most {MAX_BATCH} jobs: split it")
        words = sum(len(spec.argv or ()) + len(spec.after) + len(spec.after_any) for spec in part.specs)
        count = size + SPEC_BYTES * len(part.specs) + WORD_BYTES * words
        self._room.take(count)
        self._taken += count
        self.parts.append(part)

    def drop(self) -> None:
        """Give back the room it took."""
        self._room.give_back(self._taken)
        self._taken = 0
        self.parts = []
