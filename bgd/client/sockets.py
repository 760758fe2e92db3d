"""Sockets: connecting to a daemon's, and deadlines on the monotonic clock."""

from __future__ import annotations

import socket
import struct
import time

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
