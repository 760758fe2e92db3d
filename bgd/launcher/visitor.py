"""One connection to the launcher's socket: whoever comes is a visitor, and may become the master."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

from bgd.errors import ProtocolError
from bgd.wire.framing import FrameReader
from bgd.wire.launching import MAX_LAUNCHING_FRAME, decode_to_launcher

if TYPE_CHECKING:
    from bgd.launcher.masters import Masters

log = logging.getLogger(__name__)


class Visitor(asyncio.BufferedProtocol):
    """What it says comes into one buffer: one for each piece would be had from the kernel, and given back."""

    transport: asyncio.Transport

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)
        self._room = bytearray(_ROOM)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream socket's is
        self.transport = transport
        uid = _peer_uid(transport.get_extra_info("socket"))
        if uid not in {0, os.getuid()}:
            log.warning("turned a process of user %d away from the socket", uid)
            transport.abort()

    def get_buffer(self, _sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, count: int) -> None:
        try:
            for payload in self._frames.feed(self._room[:count]):
                self._masters.hear(self, decode_to_launcher(payload))
                if self.transport.is_closing():
                    return
        except ProtocolError as error:
            self.drop(error)

    def drop(self, error: ProtocolError) -> None:
        """Hang up on who does not speak the protocol."""
        log.warning("dropped a connection: %s", error)
        self.transport.abort()

    def eof_received(self) -> bool:
        return self._masters.finish(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._masters.lose(self)

    def pause_writing(self) -> None:
        self._masters.listen(self, is_slow=True)

    def resume_writing(self) -> None:
        self._masters.listen(self, is_slow=False)


_ROOM = 1 << 16  # bytes: some launches with their environments


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
