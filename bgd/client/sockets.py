"""Sockets: connecting to a daemon's, and deadlines on the monotonic clock."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Collection

from bgd.errors import NotAllowed

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_LEAST_TIMEOUT = 0.001  # seconds; to the kernel 0 means for ever


class Socket(socket.socket):
    """A Unix socket that is closed when nobody has it any more.

    A job may outlive the block of its client and open a connection that nobody is there to close; and what
    is part of a cycle would complain, whatever is above it in the cycle.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)

    def __del__(self) -> None:
        self.close()


def connected(path: str, deadline: float | None) -> Socket:
    """Return a socket that is connected; blocks while the listener's queue is full.

    Raises:
        OSError: nobody listens there, or the queue was full until the deadline.
    """
    connection = Socket()
    try:
        _connect(connection, path, deadline)
        while not _is_connected(connection):  # a signal came: Python takes the socket for one under way
            _connect(connection, path, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def check_server(connection: socket.socket, path: str, trusted_uids: Collection[int]) -> None:
    """Refuse a server that runs as an untrusted user: it could read and forge everything.

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


def left(deadline: float | None) -> float | None:
    """Return the seconds until the deadline, None: it never comes."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _connect(connection: socket.socket, path: str, deadline: float | None) -> None:
    if (seconds := left(deadline)) is not None:
        # With a timeout of Python's, connect() to a busy Unix socket fails at once with EAGAIN.
        # The kernel's own timeout waits for room in the listener's queue.
        timeval = struct.pack("@ll", int(seconds), int(max(seconds % 1, _LEAST_TIMEOUT) * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    connection.connect(path)


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True
