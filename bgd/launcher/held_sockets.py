"""Keep the listening sockets of the pages while no daemon runs, so that no other user takes their port."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress

from bgd.wire.launching import MAX_HELD_SOCKETS, MAX_SOCKETS_PACKET, NO_SOCKETS

log = logging.getLogger(__name__)


class HeldSockets:
    """The sockets that a daemon gave to the launcher last, with what it said about them."""

    def __init__(self) -> None:
        self._packet = NO_SOCKETS
        self._fds: list[int] = []

    def trade(self, transport: asyncio.Transport) -> None:
        """Send what is held on a connection, then take what comes on it instead, if anything comes."""
        try:
            connection = transport.get_extra_info("socket").dup()
        except OSError as error:
            log.warning("cannot hold sockets for bgd: %s", error.strerror)
            return
        finally:
            transport.abort()  # it would read a packet without its descriptors
        try:
            socket.send_fds(connection, [self._packet], self._fds)
        except OSError:  # the daemon is gone
            connection.close()
        else:
            asyncio.get_running_loop().add_reader(connection, self._take, connection)

    def _take(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        packet, fds, flags = b"", list[int](), 0
        with connection, suppress(OSError):  # the daemon is gone
            packet, fds, flags, _ = socket.recv_fds(connection, MAX_SOCKETS_PACKET, MAX_HELD_SOCKETS)
        for fd in fds:
            os.set_inheritable(fd, False)  # jobs must not get them
        if packet and not flags & socket.MSG_CTRUNC:  # cut: this process has no descriptors left
            self._packet, self._fds, fds = packet, fds, self._fds
        for fd in fds:
            os.close(fd)
