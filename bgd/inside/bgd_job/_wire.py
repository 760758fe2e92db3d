"""The connection of a job to bgd, and the small part of bgd's docs/protocol.md that a job speaks."""

from __future__ import annotations

import os
import socket
import struct
from functools import lru_cache

TYPE_CHECKING = False  # not typing's, to avoid its import
if TYPE_CHECKING:
    from typing import Any

_PROTOCOL = 1
_LIBRARY = "1.0.0"
_STREAMS = 3  # descriptors below this are the job's standard streams, open or not


class Connection(socket.socket):
    """A connection to the daemon.

    The job may close its descriptor, or use the number for another file: check `is_ours` before each use.
    `close` leaves such a file alone. Another process that has the connection keeps it.
    """

    def __init__(self, path: str) -> None:
        """Connect without waiting.

        Raises:
            OSError, ValueError: there is no daemon; the path is not valid.
        """
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        if self.fileno() < _STREAMS:
            super().close()
            raise OSError("the job has closed a standard stream, and this socket would get its number")
        try:
            self.setblocking(False)
            self.connect(path)
            self._file = os.fstat(self.fileno())
        except BaseException:
            super().close()
            raise

    def is_ours(self) -> bool:
        """Return whether the descriptor still is the connection."""
        try:
            return os.path.samestat(os.fstat(self.fileno()), self._file)
        except OSError:
            return False

    def close(self) -> None:
        if self.is_ours():
            super().close()
        else:
            self.detach()


def hello() -> bytes:
    """Return the frame that begins a connection."""
    return frame(type="hello", protocol=_PROTOCOL, version=_LIBRARY, program="bgd_job")


def frame(**message: object) -> bytes:
    """Return a message of at most 15 fields as a frame."""
    payload = bytes([0x80 | len(message)])
    for name, value in message.items():
        payload += _packed_name(name) + _packed(value)
    return struct.pack(">I", len(payload)) + payload


def _packed(value: object) -> bytes:
    """Return the MessagePack of what a job says."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    text = str(value).encode()
    return b"\xda" + struct.pack(">H", len(text)) + text


_packed_name = lru_cache(_packed)  # a job names the same fields in each message


def unpacked(payload: bytes) -> dict[str, Any]:
    """Return a message of the daemon."""
    message: dict[str, Any] = _unpacked(payload, 0)[0]
    return message


def _unpacked(data: bytes, at: int) -> tuple[Any, int]:
    """Return the value at this offset, and the offset after it."""
    kind = data[at]
    at += 1
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    holds, form, size = _KINDS[kind]
    if form:
        [size] = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
    if holds is None:
        return size, at
    if holds in {bytes, str}:
        piece = data[at : at + size]
        return piece if holds is bytes else piece.decode(), at + size
    values = []
    for _ in range(size * 2 if holds is dict else size):
        value, at = _unpacked(data, at)
        values.append(value)
    # without `strict`, which Python 3.9 does not have
    return dict(zip(values[::2], values[1::2])) if holds is dict else values, at  # noqa: B905


# What the first byte of a value says: the value itself, or what it holds (None: a number) and how much of
# that, unless a number in this form of struct follows. `bgctl.plain_wire` has this too
_CONSTANTS: dict[int, object] = {0xC0: None, 0xC2: False, 0xC3: True}
_CONSTANTS.update((each % 256, each) for each in range(-0x20, 0x80))
_KINDS: dict[int, tuple[type | None, str, int]] = {
    first + place: (holds, "", place)
    for first, holds, count in ((0x80, dict, 16), (0x90, list, 16), (0xA0, str, 32))
    for place in range(count)
}
_KINDS.update(
    (first + place, (holds, f">{form}", 0))
    for first, holds, forms in (
        (0xC4, bytes, "BHI"),
        (0xCA, None, "fdBHIQbhiq"),
        (0xD9, str, "BHI"),
        (0xDC, list, "HI"),
        (0xDE, dict, "HI"),
    )
    for place, form in enumerate(forms)
)
