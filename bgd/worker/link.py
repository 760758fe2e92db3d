"""The line between a warm worker and the launcher: a message a packet, descriptors beside it."""

from __future__ import annotations

import array
import json
import os
import socket

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


class Link:
    """This worker's end. Messages are JSON objects."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear(self) -> Message | None:
        """Wait for the next message; None: the launcher is gone, or wants nothing more."""
        fds = array.array("i")
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * fds.itemsize)
        text, beside, _, _ = self._socket.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        descriptors = fds.tolist()
        if not text and descriptors:
            with open(descriptors.pop(), "rb") as file:  # noqa: PTH123  a descriptor
                text = file.read()
        return (json.loads(text), descriptors) if text else None  # type: ignore[return-value]  # such a tuple

    def tell(self, descriptor: int | None = None, **content: object) -> None:
        """Say something; the descriptor stays the teller's too."""
        beside = []
        if descriptor is not None:
            beside.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])))
        self._socket.sendmsg([json.dumps(content).encode()], beside)

    def close(self) -> None:
        self._socket.close()
