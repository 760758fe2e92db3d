"""The launcher's end of the channel to a warm worker: a message a packet, descriptors beside it."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from bgd.launcher.spawn import unnamed


class Said(Struct, frozen=True, kw_only=True):
    """What a worker says, of itself or of the job with the number `id`: see bgd/worker/warm.py."""

    importing: str | None = None
    failed: str | None = None
    ready: int | None = None
    unfit: str | None = None
    skew: bool = False
    id: int | None = None
    stale: str | None = None
    errno: int | None = None
    lost: str | None = None
    code: int | None = None
    usage: tuple[float, float, int] | None = None
    left_children: bool = False
    spent: bool = False


class WorkerLine:
    """`heard` is called with each message and the descriptor that came with it, which is then the hearer's.

    `hung_up` is called when nothing more will come, or what came was no message.
    """

    def __init__(self, heard: Callable[[Said, int | None], None], hung_up: Callable[[], None]) -> None:
        """Make both ends; `far_end` is for the worker, and to be closed here once that has it."""
        self._heard = heard
        self._hung_up = hung_up
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, list[int], int | None]] = deque()
        self._is_full = False  # so that the loop says when there is room
        self._socket, self.far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self.hear)

    def say(self, content: object, descriptors: Sequence[int], folder: str) -> None:
        """Send a message with descriptors, which stay open until it is answered.

        Raises:
            OSError: it is too long for a packet, and there is no room for a file of it in `folder`.
        """
        text = msgspec.json.encode(content)
        sent, file = list(descriptors), None
        if len(text) > _MAX_PACKET:
            file = unnamed(folder, text)
            sent, text = [*sent, file], b""
        self._unsent.append((text, sent, file))
        if len(self._unsent) == 1:
            self._send()

    def hear(self) -> bool:
        """Take what has come, at most some messages of it in a row; return whether there may be more."""
        for _ in range(_IN_A_ROW):
            try:
                text, descriptors = self._received()
            except BlockingIOError:
                return False
            except OSError:
                text, descriptors = b"", []
            try:
                said = _decode(text)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):  # nothing, or nonsense
                _close_all(descriptors)
                self.close()
                self._hung_up()
                return False
            _close_all(descriptors[1:])
            self._heard(said, descriptors[0] if descriptors else None)
        return True

    def hear_rest(self) -> None:
        """Take all that has come; only once nobody is there who could go on for ever."""
        while self.hear():
            pass

    def close(self) -> None:
        """Hang up: the worker ends once it has done what it does."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        for _, _, file in self._unsent:
            if file is not None:
                os.close(file)
        self._unsent.clear()

    def _received(self) -> tuple[bytes, list[int]]:
        if self._socket.fileno() < 0:
            raise BlockingIOError
        text, beside, flags, _ = self._socket.recvmsg(_MAX_PACKET, _ROOM, _CLOEXEC)
        descriptors = array.array("i")
        for level, kind, data in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if flags & _CUT:
            text = b""
        return text, descriptors.tolist()

    def _send(self) -> None:
        while self._unsent:
            text, descriptors, file = self._unsent[0]
            try:
                self._socket.sendmsg([text], _beside(descriptors))
            except BlockingIOError:
                self._is_full = True
                self._loop.add_writer(self._socket, self._send)
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._loop.call_later(_AGAIN, self._send)
                    return
                break  # it is gone; who waits for an answer is told when its process has ended
            self._unsent.popleft()
            if file is not None:
                os.close(file)
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._socket)


WORKER_PROTOCOL = 1  # bgd/worker/channel.py has it too, and the next
_MAX_PACKET = 65_536  # bytes
_ROOM = socket.CMSG_SPACE(4)
# plain numbers, as an operation on an enum's takes as long as a system call
_CLOEXEC, _CUT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC)
# of the kernel's memory, or of descriptors on their way between the user's processes; they pass
_SHORTAGES = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_AGAIN = 0.1  # seconds
_IN_A_ROW = 64  # messages, so that a worker that talks for ever holds up nobody

_decode = msgspec.json.Decoder(Said).decode


def _beside(descriptors: list[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def _close_all(descriptors: Sequence[int]) -> None:
    for each in descriptors:
        os.close(each)
