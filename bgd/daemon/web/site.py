"""The site: the pages at one address, what all connections of browsers share, and how many there may be."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from bgd.addresses import Address
from bgd.config import Config
from bgd.daemon.storage.store import Readings
from bgd.daemon.web.answers import Answer
from bgd.daemon.web.connection import BrowserConnection
from bgd.daemon.web.entrance import Ends, Entrance
from bgd.daemon.web.listening import CannotListen, listen
from bgd.daemon.web.pages import Pages
from bgd.daemon.web.routes import Routes
from bgd.wire.http import Request, refusal

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64


class Site:
    """The pages, served from `start` to `close`.

    Args:
        listening: the socket that browsers reach.
        address: where that is.
        config: says who has to log in, and where the logs are.
        store: where the jobs are; it is only read.
        is_ready: whether jobs can be started now.
        tasks: owns the answers.
    """

    def __init__(
        self,
        listening: socket.socket,
        address: Address,
        config: Config,
        store: Readings,
        is_ready: Callable[[], bool],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._listening = listening
        self._entrance = Entrance(address, config.http.auth, os.geteuid())
        self._routes = Routes(self._entrance, Pages(store, config.log_dir), is_ready)
        self._tasks = tasks
        self._server: asyncio.Server
        self._answering: set[BrowserConnection] = set()
        self._idle: dict[BrowserConnection, None] = {}  # have not asked yet, or were answered; oldest first

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        is_unix = self._listening.family == socket.AF_UNIX
        serve = loop.create_unix_server if is_unix else loop.create_server
        self._server = await serve(lambda: BrowserConnection(self), sock=self._listening)

    def close(self) -> None:
        self._server.close()
        for connection in [*self._answering, *self._idle]:
            connection.close()

    @property
    def place(self) -> str:
        """Where the pages are, for people: the address of the list, or the unix socket."""
        return self._entrance.place

    def invite(self, uid: int) -> str:
        """Return a link that logs this user in, once and soon."""
        return self._entrance.invite(uid)

    # --- what connections use ---------------------------------------------------------------------------

    def enter(self, connection: BrowserConnection) -> None:
        """Count a connection; if they are too many, the oldest that is not being answered has to go.

        So whoever opens many and asks for nothing keeps nobody out.
        """
        self._idle[connection] = None
        if len(self._idle) + len(self._answering) > MAX_CONNECTIONS:
            oldest = next(iter(self._idle))  # the new one, if all others are being answered
            self.leave(oldest)
            oldest.give_way(
                refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"there are {MAX_CONNECTIONS} connections already")
            )

    def has_work(self, connection: BrowserConnection) -> None:
        del self._idle[connection]
        self._answering.add(connection)

    def has_rest(self, connection: BrowserConnection) -> None:
        self._answering.discard(connection)
        self._idle[connection] = None

    def leave(self, connection: BrowserConnection) -> None:
        self._idle.pop(connection, None)
        self._answering.discard(connection)

    async def answer(self, request: Request, ends: Ends | None) -> Answer:
        return await self._routes.answer(request, ends)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)


async def open_site(
    config: Config, store: Readings, is_ready: Callable[[], bool], tasks: asyncio.TaskGroup
) -> Site | None:
    """Serve the pages where the configuration says; None: nowhere.

    A daemon whose address is taken goes on without pages: its jobs are what it is there for, and a restart,
    as after an upgrade, must not fail by whoever took a port meanwhile.
    """
    if config.http.listen is None:
        return None
    try:
        listening, address = listen(config.http.listen, config.http.ports)
    except CannotListen as error:
        logger.error("%s; there are no pages until the next start", error)  # noqa: TRY400 - it says all
        return None
    site = Site(listening, address, config, store, is_ready, tasks)
    await site.start()
    logger.info("pages at %s", site.place)
    return site
