"""The channel between a warm worker and the launcher: one message per packet, with descriptors beside it."""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct

from .job import decode, is_still

TYPE_CHECKING = False  # not typing's: a worker keeps its memory small
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 2  # raised by every change that is not an addition: a launcher of the release before may run on
MAX_PACKET = 65_536  # bytes; a longer message comes in a file
MAX_DESCRIPTORS = 3
_NUMBERS = struct.Struct("<qq")  # of the reason, of the job; bgd/launcher/warm/channel.py has it too
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * struct.calcsize("i"))


class LauncherChannel:
    """The worker's end of the channel. Messages are JSON objects."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._identity = os.fstat(fd)

    @property
    def is_intact(self) -> bool:
        """Whether its descriptor still is the channel: a job in this process may have replaced it."""
        return is_still(self._socket.fileno(), self._identity)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Wait for a message; return it with its descriptors, which the caller must close.

        None: the launcher is gone or has closed the channel.
        """
        text, beside, _, _ = self._socket.recvmsg(MAX_PACKET, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        # only descriptors can come beside a message here
        descriptors = memoryview(beside[0][2]).cast("i").tolist() if beside else []
        if not text and descriptors:
            with open(descriptors.pop(), "rb") as file:  # noqa: PTH123  a descriptor
                text = file.read()
        return (decode(text), descriptors) if text else None

    def send(self, **content: object) -> None:
        """Send a message, encoded by json; for messages that not every job needs."""
        self.send_json(json.dumps(content).encode())

    def send_json(self, text: bytes, descriptor: int | None = None) -> None:
        """Send a message that is JSON already; the descriptor stays open here too."""
        if descriptor is None:
            self._socket.send(text)
        else:
            beside = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self._socket.sendmsg([text], [beside])

    def close(self) -> None:
        os.close(self._socket.detach())


class SharedMemory:
    """Memory that a worker shares with the launcher, for what both must know without a message."""

    def __init__(self, fd: int) -> None:
        """Use the file of this descriptor, and close the descriptor."""
        self._memory = mmap.mmap(fd, _NUMBERS.size)
        os.close(fd)

    def take(self, job_id: int) -> None:
        """Record that the job may run from here on.

        If the worker dies, the launcher knows by this whether another worker must be given the job.
        """
        _NUMBERS.pack_into(self._memory, 0, 0, job_id)  # in this order

    def stop_reason(self) -> int:
        """Return why the last taken job is stopped: see stopping.py; 0: it is not."""
        reason: int = _NUMBERS.unpack_from(self._memory, 0)[0]
        return reason
