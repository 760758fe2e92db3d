"""The daemon as plain command lines see it: a socket, and MessagePack without msgspec."""

from __future__ import annotations

import _socket  # not `socket`, whose enums take as long to import as Python to start
import os
import struct
import sys

import bgd
from bgd.client.inherited import OWN_PREFIX, SESSION

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_TIMEOUT = 5.0  # seconds for each answer; then the client asks, which waits longer
_HEADER = 4  # bytes: the length of a frame
_UCRED = 12  # bytes: pid, uid, gid: struct ucred of unix(7)


class Unusual(Exception):
    """The client has to do it: there is something to check, to explain or to try again."""


class Daemon:
    """A connection to the daemon that the client would try first.

    Attributes:
        newest: the newest job that the daemon knew at the start.
    """

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._received = b""
        self._requests = 0
        self._connect()
        self._send(type="hello", protocol=1, version=bgd.__version__, program="bgd client")
        match self._receive():
            case {"type": "hello", "protocol": 1, "newest": int(newest)}:
                self.newest = newest
            case _:
                raise Unusual

    def _connect(self) -> None:
        named = os.environ.get("BGD_SOCKET", "")
        if named and not named.startswith("/"):
            raise Unusual
        self._socket.settimeout(_TIMEOUT)
        self._socket.connect(named or own_socket())
        credentials = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED)
        # a socket that the caller named is trusted
        if not named and int.from_bytes(credentials[4:8], sys.byteorder) not in {0, os.geteuid()}:
            raise Unusual

    def ask(
        self, kind: str, answer: str, *, waits: bool = False, **fields: object
    ) -> Iterator[dict[str, Any]]:
        """Send a request of a kind, then yield its answers up to the end mark; some wait for what happens."""
        self.request(kind, **fields)
        self._socket.settimeout(None if waits else _TIMEOUT)
        while (reply := self.reply())["type"] == answer:
            yield reply
        if reply["type"] != "end":
            raise Unusual

    def request(self, kind: str, **fields: object) -> None:
        """Send a request; a daemon does not take half of one."""
        self._requests += 1
        self._send(type=kind, id=self._requests, **fields)

    def reply(self) -> dict[str, Any]:
        """Return the next reply to the latest request, which may be its refusal."""
        reply = self._receive()
        if reply["id"] != self._requests:
            raise Unusual
        return reply

    def _send(self, **message: object) -> None:
        self._socket.sendall(frame(message))

    def _receive(self) -> dict[str, Any]:
        while len(self._received) < (end := _HEADER + int.from_bytes(self._received[:_HEADER], "big")):
            part = self._socket.recv(256 * 1024)
            if not part:
                raise ConnectionResetError
            self._received += part
        payload, self._received = self._received[_HEADER:end], self._received[end:]
        return unpacked(payload)


def own_socket() -> str:
    """Return the socket of the caller's own daemon; raise Unusual if it may be set to another place."""
    home = os.environ.get("HOME", "").rstrip("/")
    decisive = (OWN_PREFIX, "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    is_told = any(name.startswith(decisive) and name != SESSION for name in os.environ)
    if is_told or not home.startswith("/") or os.path.lexists(f"{home}/.config/bgd/bgd.toml"):
        raise Unusual
    return f"{home}/.local/state/bgd/bgd.sock"


# --- messages ---------------------------------------------------------------------------------------------
# bgd_job has similar functions: jobs import it without bgd, even in Python 3.9, and it imports slowly


def frame(message: dict[str, object]) -> bytes:
    """Return a message as a frame."""
    payload = _packed(message)
    return len(payload).to_bytes(_HEADER, "big") + payload


def _packed(value: object) -> bytes:
    """Return MessagePack, with all lengths and numbers in their longest form."""
    match value:
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return struct.pack(">BQ", 0xCF, value)
        case str():
            text = value.encode()
            return struct.pack(">BI", 0xDB, len(text)) + text
        case bytes():
            return struct.pack(">BI", 0xC6, len(value)) + value
        case list():
            return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(_packed, value))
        case dict():
            items = (_packed(key) + _packed(item) for key, item in value.items())
            return struct.pack(">BI", 0xDF, len(value)) + b"".join(items)
        case _:
            raise TypeError(value)


def unpacked(payload: bytes) -> dict[str, Any]:
    """Return a message; raise Unusual if it cannot be read."""
    try:
        message, end = _unpacked(payload, 0)
    except (LookupError, TypeError, ValueError, struct.error):
        raise Unusual from None
    if end != len(payload) or not isinstance(message, dict):
        raise Unusual
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
    return dict(zip(values[::2], values[1::2], strict=True)) if holds is dict else values, at


# What the first byte of a value says: the value itself, or what it holds (None: a number) and how much of
# that, unless a number in this form of struct follows
_CONSTANTS: dict[int, object] = {0xC0: None, 0xC2: False, 0xC3: True}
_CONSTANTS |= {each % 256: each for each in range(-0x20, 0x80)}
_KINDS: dict[int, tuple[type | None, str, int]] = {
    first + place: (holds, "", place)
    for first, holds, count in ((0x80, dict, 16), (0x90, list, 16), (0xA0, str, 32))
    for place in range(count)
} | {
    first + place: (holds, f">{form}", 0)
    for first, holds, forms in (
        (0xC4, bytes, "BHI"),
        (0xCA, None, "fdBHIQbhiq"),
        (0xD9, str, "BHI"),
        (0xDC, list, "HI"),
        (0xDE, dict, "HI"),
    )
    for place, form in enumerate(forms)
}
