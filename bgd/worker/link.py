"""The line between a warm worker and the launcher: a message a packet, descriptors beside it."""

from __future__ import annotations

import json
import os
import socket
import struct

from .notation import decoded

TYPE_CHECKING = False  # as typing's: the worker keeps its memory small
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Message(NamedTuple):
        """What the launcher said, and the descriptors that came with it, which are now the hearer's."""

        content: dict[str, Any]
        descriptors: list[int]


PROTOCOL = 1  # a launcher lives longer than this file: it goes up with every change that is no addition
MAX_PACKET = 65_536  # bytes; a longer message comes in a file
MAX_DESCRIPTORS = 3
_ROOM = socket.CMSG_SPACE(MAX_DESCRIPTORS * struct.calcsize("i"))


class Link:
    """This worker's end. Messages are JSON objects."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._identity = os.fstat(fd)

    @property
    def is_intact(self) -> bool:
        """Whether its descriptor is still this line: a job in this process may have put another there."""
        try:
            return os.path.samestat(os.fstat(self._socket.fileno()), self._identity)
        except OSError:
            return False

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear(self) -> Message | None:
        """Wait for the next message; None: the launcher is gone, or wants nothing more."""
        text, beside, _, _ = self._socket.recvmsg(MAX_PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
        # nothing but descriptors can come beside a message here
        descriptors = memoryview(beside[0][2]).cast("i").tolist() if beside else []
        if not text and descriptors:
            with open(descriptors.pop(), "rb") as file:  # noqa: PTH123  a descriptor
                text = file.read()
        return (decoded(text), descriptors) if text else None  # type: ignore[return-value]  # such a tuple

    def tell(self, **content: object) -> None:
        """Say what is no matter of every job."""
        self.say(json.dumps(content).encode())

    def say(self, text: bytes, descriptor: int | None = None) -> None:
        """Say what is JSON already; the descriptor stays the sayer's too."""
        if descriptor is None:
            self._socket.send(text)
        else:
            beside = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self._socket.sendmsg([text], [beside])

    def close(self) -> None:
        os.close(self._socket.detach())
