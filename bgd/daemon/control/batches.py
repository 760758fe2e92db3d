"""Batches that are not yet on disk, or of which not every part has come."""

from __future__ import annotations

from bgd.daemon.control.rooms import Room
from bgd.errors import Full, ProtocolError
from bgd.wire.requests import MAX_BATCH, SubmitMany

SPEC_BYTES = 512  # about what a spec takes in memory beyond its bytes on the wire, which may be a single one
WORD_BYTES = 64  # likewise one of its words, or of the jobs it waits for


class Batch:
    """The parts of one submit_many that have come so far. Whoever is done with it calls `drop`."""

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
