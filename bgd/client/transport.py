"""Ways to a daemon: its Unix socket, and a backend in this process that answers in place of every daemon."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from bgd.errors import NotAllowed
from bgd.wire.replies import Reply

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
READ_SIZE = 64 * 1024  # bytes; malloc maps and unmaps much larger ones each time


class Socket(socket.socket):
    """A Unix socket that closes without a warning when its last reference goes.

    A job object may outlive the block of its client and open a connection that nobody closes. In a reference
    cycle, a plain socket would warn about that.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)

    def __del__(self) -> None:
        self.close()


def check_server(connection: socket.socket, path: str, trusted_uids: Collection[int]) -> None:
    """Refuse a server of an untrusted user, which could read and forge everything.

    Raises:
        NotAllowed: the message names the user.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)  # of the process that called listen()
    if uid not in trusted_uids:
        trusted = " or ".join(map(str, sorted(trusted_uids)))
        raise NotAllowed(
            f"{path} is served by uid {uid}, not by uid {trusted}, so nothing was sent: "
            "if you trust that user, name the socket with --socket or BGD_SOCKET"
        )


@contextmanager
def process_descriptor(pid: int | None) -> Iterator[int | None]:
    """Give a descriptor that becomes readable when a process ends.

    None if there is no such process here: `pid` is None, the process has ended, or it runs in a container.
    """
    try:
        descriptor = None if pid is None else os.pidfd_open(pid)
    except OSError:
        # ESRCH; on some kernels EINVAL while it is reaped; EINVAL or ENOENT if a thread has the number by now
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline on the monotonic clock, None if there is no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


# --- a backend in this process, which bgd.testing.inline installs -----------------------------------------

Pause = Callable[[], None]
"""Blocks until there is more to reply, or never will be."""


class Backend(Protocol):
    """Answers requests in the place of a daemon: in frames, but over no socket."""

    def answer(self, frames: bytes) -> Iterator[Reply | Pause]:
        """Yield the replies to a request, including a stream's end mark, and a Pause before each wait."""


def installed_backend() -> Backend | None:
    """Return the backend that answers in this process, None if clients connect to daemons."""
    return _backends[-1] if _backends else None


@contextmanager
def install_backend(backend: Backend) -> Iterator[None]:
    """Let a backend answer all clients of this process, in all threads; the latest one wins."""
    _backends.append(backend)
    try:
        yield
    finally:
        _backends.remove(backend)


_backends: list[Backend] = []
