"""Frames: a length in 4 bytes, big-endian, then as many bytes."""

from __future__ import annotations

from collections.abc import Iterator

from bgd.errors import ProtocolError

MAX_FRAME = 1 << 20  # bytes, on the clients' socket: a client can make the daemon hold this much
HEADER = 4


def frame(payload: bytes, limit: int = MAX_FRAME) -> bytes:
    """Return a payload as one frame.

    Raises:
        ProtocolError: the payload is longer than `limit` bytes.
    """
    if len(payload) > limit:
        raise ProtocolError(f"a message of {len(payload)} bytes is over the limit of {limit}")
    return len(payload).to_bytes(HEADER, "big") + payload


class FrameReader:
    """Cuts a stream of bytes into payloads."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Yield the payloads that `data` completes.

        Raises:
            ProtocolError: a frame is longer than the limit; nothing after it can be read.
        """
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= HEADER:
                length = int.from_bytes(self._buffer[start : start + HEADER], "big")
                if length > self._limit:
                    raise ProtocolError(f"a frame of {length} bytes is over the limit of {self._limit}")
                end = start + HEADER + length
                if len(self._buffer) < end:
                    return
                payload = bytes(self._buffer[start + HEADER : end])
                start = end
                yield payload
        finally:
            del self._buffer[:start]

    @property
    def is_mid_frame(self) -> bool:
        """Whether the stream is inside a frame."""
        return bool(self._buffer)

    @property
    def announced(self) -> int:
        """The length of the frame that has begun, with its header; 0: none has, or it is not known yet."""
        if len(self._buffer) < HEADER:
            return 0
        return HEADER + int.from_bytes(self._buffer[:HEADER], "big")

    @property
    def missing(self) -> int:
        """How many bytes of that frame are still to come; 0: none has begun, or it is not known yet."""
        return max(self.announced - len(self._buffer), 0)
