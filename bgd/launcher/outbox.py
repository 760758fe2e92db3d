"""The outbox of a pilot: output of its jobs that is not yet stored in the logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from bgd.wire.launching import AttemptKey, OutputPart

_MOST = 1 << 18  # bytes to keep of one attempt; then the job waits, as on a full pipe
_PART = 1 << 16  # bytes of a message


class Outbox:
    """Output of all attempts that the other launcher has not stored yet."""

    def __init__(self, send: Callable[[OutputPart], None]) -> None:
        self._send = send
        self._unstored: dict[AttemptKey, UnstoredOutput] = {}

    def open(self, key: AttemptKey) -> UnstoredOutput:
        """Return an empty output for an attempt. An earlier try to start it wrote nothing."""
        output = self._unstored[key] = UnstoredOutput(key, self._send)
        return output

    def parts(self) -> Iterator[OutputPart]:
        """Yield all of it, to be sent again over a new connection."""
        for output in self._unstored.values():
            yield from output.parts()

    def stored(self, key: AttemptKey, offset: int) -> None:
        """Forget output of an attempt before this offset, so that it may write again if it waits."""
        if (output := self._unstored.get(key)) is not None:
            output.stored(offset)

    def forget(self, key: AttemptKey) -> None:
        """Forget an attempt."""
        self._unstored.pop(key, None)


class UnstoredOutput:
    """The output of one attempt, as a Log."""

    def __init__(self, key: AttemptKey, send: Callable[[OutputPart], None]) -> None:
        self.total = 0
        self.lost = 0
        self.problem: str | None = None
        self.is_over_cap = False  # the log's owner knows the cap
        self.go_on: Callable[[], None] = lambda: None  # called when there is room again
        self._key = key
        self._send = send
        self._kept = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether the job has to wait until something is stored."""
        return len(self._kept) >= _MOST

    def take(self, pipe: int, most: int) -> int:
        """Take up to `most` bytes from the pipe, and send them; return how many, 0 if the pipe is at its end.

        Raises:
            BlockingIOError: there is nothing now.
        """
        data = os.read(pipe, min(most, _PART))
        if data:
            self._kept += data
            self._send(OutputPart(self._key, self.total, data))
            self.total += len(data)
        return len(data)

    def close(self) -> None:
        """Keep the content, which must still be stored."""

    def parts(self) -> Iterator[OutputPart]:
        """Yield all that is kept."""
        begin = self.total - len(self._kept)
        for start in range(0, len(self._kept), _PART):
            yield OutputPart(self._key, begin + start, bytes(self._kept[start : start + _PART]))

    def stored(self, offset: int) -> None:
        """Forget the output before this offset; let a job go on that waits for room."""
        was_full = self.is_full
        del self._kept[: max(len(self._kept) - (self.total - offset), 0)]
        if was_full and not self.is_full:
            self.go_on()
