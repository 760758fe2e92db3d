"""The launcher's end of the channel to a warm worker: one message per packet, with descriptors beside it."""

from __future__ import annotations

import array
import asyncio
import errno
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec
from msgspec import Struct

from bgd.launcher.spawn import unnamed_file
from bgd.launcher.tree import StopReason


class WorkerMessage(Struct, frozen=True, kw_only=True):
    """A message of a worker, about itself or about the job with the number `id`: see bgd/worker/warm.py."""

    importing: str | None = None
    failed: str | None = None
    is_lasting: bool = False
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
    result: str | None = None


class WorkerChannel:
    """The channel to one worker.

    `received` is called with each message and the descriptor that came with it, which is closed afterwards;
    if it raises an OSError, it is called again later with the same. `closed` is called when nothing more will
    come, or when a packet was not a message. `memory` is for a worker that runs jobs in its own process, None
    for one that forks.
    """

    def __init__(
        self,
        received: Callable[[WorkerMessage, int | None], None],
        closed: Callable[[], None],
        *,
        shares_memory: bool = False,
    ) -> None:
        """Make both ends; `far_end` is for the worker, and must be closed here once the worker has it."""
        self._received = received
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, list[int], int | None]] = deque()
        self._is_full = False  # whether the loop waits for room
        self._unhandled: tuple[WorkerMessage, list[int]] | None = None
        with ExitStack() as opened:
            self.memory = SharedMemory() if shares_memory else None
            opened.callback(self.close_memory)
            self._socket, self.far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.enter_context(self._socket)
            opened.enter_context(self.far_end)
            self._socket.setblocking(False)
            self._loop.add_reader(self._socket, self.receive)
            opened.pop_all()  # nothing failed

    def send(self, content: object, descriptors: Sequence[int], folder: str) -> None:
        """Send a message with descriptors, which must stay open until it is answered.

        Raises:
            OSError: it is too long for a packet, and there is no room for a file of it in `folder`.
        """
        text = msgspec.json.encode(content)
        sent, file = list(descriptors), None
        if len(text) > _MAX_PACKET:
            file = unnamed_file(folder, text)
            sent, text = [*sent, file], b""
        self._unsent.append((text, sent, file))
        if len(self._unsent) == 1:
            self._flush()

    def receive(self) -> bool:
        """Handle received messages, up to a limit; return whether there may be more."""
        for _ in range(_MAX_MESSAGES):
            try:
                message, descriptors = self._unhandled or self._next_message()
            except BlockingIOError:
                return False
            except OSError:  # no descriptor for the one in the next message
                self._wait_for_room()
                return False
            except _NO_MESSAGE:
                self.close()
                self._closed()
                return False
            try:
                self._received(message, descriptors[0] if descriptors else None)
            except OSError:
                self._unhandled = message, descriptors
                self._wait_for_room()
                return False
            self._unhandled = None
            _close_all(descriptors)
        return True

    def _wait_for_room(self) -> None:
        """Stop reading until the shortage may be over."""
        self._loop.remove_reader(self._socket)
        self._loop.call_later(_RETRY_DELAY, self._go_on)

    def _go_on(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self.receive)
            self.receive()

    def receive_rest(self) -> None:
        """Handle all received messages; only once no process is left that could send forever."""
        while self.receive():
            pass

    def close(self) -> None:
        """Close the channel: the worker ends once it has finished its jobs."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        for _, _, file in self._unsent:
            if file is not None:
                os.close(file)
        self._unsent.clear()
        if self._unhandled is not None:
            _close_all(self._unhandled[1])
            self._unhandled = None

    def close_memory(self) -> None:
        """Close the shared memory; only once the end of the worker is dealt with, which depends on it."""
        if self.memory is not None:
            self.memory.close()

    def _next_message(self) -> tuple[WorkerMessage, list[int]]:
        """Receive a message.

        Raises:
            BlockingIOError: there is none now.
            OSError: there is no descriptor for what may come with it.
            Exception: one of _NO_MESSAGE: there is none any more, or it is not a message.
        """
        text, descriptors = self._receive_packet()
        try:
            return _decode(text), descriptors
        except _NO_MESSAGE:
            _close_all(descriptors)
            raise

    def _receive_packet(self) -> tuple[bytes, list[int]]:
        if self._socket.fileno() < 0:
            raise BlockingIOError
        if self.memory is None:
            os.close(os.dup(self._socket.fileno()))  # without room for it the kernel drops a descriptor
        try:
            text, ancillary, flags, _ = self._socket.recvmsg(_MAX_PACKET, _ANCILLARY, _CLOEXEC)
        except BlockingIOError:
            raise
        except OSError:  # the worker is gone
            return b"", []
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if flags & _CUT:
            text = b""
        return text, descriptors.tolist()

    def _flush(self) -> None:
        while self._unsent:
            text, descriptors, file = self._unsent[0]
            try:
                self._socket.sendmsg([text], _ancillary(descriptors))
            except BlockingIOError:
                self._is_full = True
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._loop.call_later(_RETRY_DELAY, self._flush)
                    return
                break  # the worker is gone; waiting callers learn that from its end
            self._unsent.popleft()
            if file is not None:
                os.close(file)
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._socket)


WORKER_PROTOCOL = 2  # bgd/worker/channel.py has this and the next one too
_MAX_PACKET = 65_536  # bytes
_ANCILLARY = socket.CMSG_SPACE(4)
# plain integers, because an operation on enum members takes as long as a system call
_CLOEXEC, _CUT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC)
# temporary: kernel memory, or descriptors in flight between the user's processes
_SHORTAGES = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_RETRY_DELAY = 0.1  # seconds
_MAX_MESSAGES = 64  # handled in a row, so that a worker that sends forever does not block the loop

_decode = msgspec.json.Decoder(WorkerMessage).decode
_NO_MESSAGE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def _ancillary(descriptors: list[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def _close_all(descriptors: Sequence[int]) -> None:
    for each in descriptors:
        os.close(each)


# --- Memory that a worker of isolation `reuse` shares with the launcher: bgd/worker/channel.py has it too.


class SharedMemory:
    """Memory for what both sides must know without a message; `fd` is the file behind it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("bgd-worker")
        try:
            os.truncate(self.fd, _NUMBERS.size)
            self._memory = mmap.mmap(self.fd, _NUMBERS.size)  # duplicates the descriptor
        except OSError:
            os.close(self.fd)
            raise

    @property
    def taken(self) -> int:
        """The number of the job that the worker took last, 0 for none: that job runs, or has run."""
        number: int = _NUMBERS.unpack_from(self._memory, 0)[1]
        return number

    def note_stop(self, reason: StopReason) -> None:
        """Let the last taken job read why it is stopped, before it gets the stop signal."""
        _REASON.pack_into(self._memory, 0, reason)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


_NUMBERS = struct.Struct("<qq")  # of the reason, of the job
_REASON = struct.Struct("<q")
