"""The control socket: what all connections of clients share, and how many there may be."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Coroutine
from typing import Any

from bgd.daemon.control.connection import ClientConnection
from bgd.daemon.control.flow import new_rooms
from bgd.daemon.control.verbs import Verbs

MAX_CONNECTIONS = 1000
SPARE_DESCRIPTORS = 64  # for files, logs that are read, the launcher, and for refusing one connection more


class Control:
    """Everything the connections share.

    Args:
        verbs: what requests do.
        uid: the daemon's own user.
        tasks: owns the streams and slower requests.
    """

    def __init__(self, verbs: Verbs, uid: int, tasks: asyncio.TaskGroup) -> None:
        self.verbs = verbs
        self.uid = uid
        self.connections: set[ClientConnection] = set()
        self.most_connections = _most_connections()
        self.rooms = new_rooms()
        self._tasks = tasks

    def connection(self) -> ClientConnection:
        return ClientConnection(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    def close(self) -> None:
        for connection in list(self.connections):
            connection.close()


def _most_connections() -> int:
    """Return how many connections leave room for the daemon's other descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(descriptors - SPARE_DESCRIPTORS, descriptors // 4))
