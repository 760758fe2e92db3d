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
    if kind in _SHORT:
        return _container(data, at, *_SHORT[kind])
    holds, form = _FORMS[kind]
    end = at + struct.calcsize(form)
    [number] = struct.unpack(form, data[at:end])
    return (number, end) if holds is None else _container(data, end, holds, number)


def _container(data: bytes, at: int, holds: type, size: int) -> tuple[Any, int]:
    if holds is bytes:
        return data[at : at + size], at + size
    if holds is str:
        return data[at : at + size].decode(), at + size
    values = []
    for _ in range(size * 2 if holds is dict else size):
        value, at = _unpacked(data, at)
        values.append(value)
    if holds is dict:
        found = iter(values)
        return dict(zip(found, found)), at  # noqa: B905 - Python 3.9 has no `strict`
    return values, at


# What the first byte of a value says: the value itself, or what it holds and how much of that, or what it
# holds (None: a number) and the form of the number that follows, for struct.
_CONSTANTS: dict[int, object] = {
    **{each: each for each in range(0x80)},
    **{0x100 + each: each for each in range(-0x20, 0)},
    0xC0: None,
    0xC2: False,
    0xC3: True,
}
_SHORT: dict[int, tuple[type, int]] = {
    **{0x80 + size: (dict, size) for size in range(16)},
    **{0x90 + size: (list, size) for size in range(16)},
    **{0xA0 + size: (str, size) for size in range(32)},
}
_FORMS: dict[int, tuple[type | None, str]] = {
    first + place: (holds, f">{form}")
    for first, holds, forms in (
        (0xC4, bytes, "BHI"),
        (0xCA, None, "fdBHIQbhiq"),
        (0xD9, str, "BHI"),
        (0xDC, list, "HI"),
        (0xDE, dict, "HI"),
    )
    for place, form in enumerate(forms)
}
