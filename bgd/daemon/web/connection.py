"""Serve pages: listen for browsers, and read one request and answer it on each of their connections."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path

from bgd.daemon.folder import BACKLOG
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import NOTHING_HELD, LauncherLink
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.auth import Authenticator, Endpoints, Sessions, derived
from bgd.daemon.web.listening import open_sockets
from bgd.daemon.web.responses import PageResponse, set_site
from bgd.daemon.web.router import answer
from bgd.daemon.web.seals import Seals
from bgd.daemon.web.site import Site
from bgd.errors import BgdError, ConfigError
from bgd.settings.config import Config
from bgd.settings.startup import described
from bgd.settings.values import TcpAddress
from bgd.wire.http import HttpExchange, HttpRequest, HttpResponse, RequestRefused, refusal, unavailable

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256  # without streams
MAX_STREAMS = 256  # one of each browser with open pages, and those of programs
HEAD_SECONDS = 5.0  # from connecting to a complete head, however many bytes come meanwhile
WRITE_SECONDS = 10.0  # for a slow reader to make room for more, and in the end to hang up
HIGH_WATER = 64 * 1024  # bytes that wait for a slow reader before its answer pauses


async def start_web_server(
    config: Config,
    supervisor: Supervisor,
    actions: JobActions,
    store: Store,
    *,
    schedules: Schedules,
    link: LauncherLink,
    tasks: asyncio.TaskGroup,
) -> WebServer | None:
    """Serve the pages where the configuration says; return None if it says nowhere, or that fails.

    A daemon whose address is taken goes on without pages: its jobs matter more, also after an upgrade.
    `link` holds the sockets for the next daemon; `tasks` owns the answers.
    """
    if config.http.listen is None:
        await link.hold_sockets(NOTHING_HELD)  # an earlier daemon may have served pages
        return None
    sessions = Sessions(Path(config.daemon.state_dir, "sessions.json"))
    try:
        opened = await open_sockets(config.http.listen, config.http.ports, sessions.port, link)
    except ConfigError as error:
        logger.error("%s; there are no pages until the next start", error)  # noqa: TRY400 - it says all
        return None
    if isinstance(opened.address, TcpAddress):
        sessions.key = derived(
            opened.secret, "sessions"
        )  # a program that gets the port later gets cookies, too
        if opened.address.port != sessions.port:
            sessions.port = opened.address.port
            await asyncio.to_thread(sessions.save)
    authenticator = Authenticator(opened.address, config.http, os.geteuid(), sessions, opened.secret)
    set_site(config.http.base, has_proxy_users=bool(config.http.user_header))
    seals = Seals(derived(opened.secret, "pages"))
    server = WebServer(
        Site(authenticator, seals, store, supervisor, actions, schedules=schedules, tasks=tasks)
    )
    await server.start(opened.sockets)
    logger.info("pages at %s", authenticator.url)
    return server


class WebServer:
    """All connections of browsers, and what they share."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._servers: list[asyncio.Server] = []
        self._answering: set[HttpConnection] = set()
        self._streaming: set[HttpConnection] = set()
        self._idle: dict[HttpConnection, None] = {}  # not yet asked, or already answered; oldest first

    async def start(self, listening: list[socket.socket]) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        for each in listening:
            serve = loop.create_unix_server if each.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await serve(lambda: HttpConnection(self), sock=each, backlog=BACKLOG))

    def close(self) -> None:
        """Accept no more connections, and break off those that there are; open pages try again."""
        for server in self._servers:
            server.close()
        for connection in [*self._answering, *self._streaming, *self._idle]:
            connection.abort()

    # --- called by connections --------------------------------------------------------------------------

    def add(self, connection: HttpConnection) -> None:
        """Count a connection; if there are too many, drop the oldest one that is not being answered.

        A client that opens many connections and asks for nothing therefore keeps no other out. There may be
        many, because clients that are dropped come back at once, which costs more than to keep them.
        """
        self._idle[connection] = None
        if len(self._idle) + len(self._answering) > MAX_CONNECTIONS:
            oldest = next(iter(self._idle))  # the new one, if all others are being answered
            self.remove(oldest)
            oldest.drop(
                refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"there are {MAX_CONNECTIONS} connections already")
            )

    def mark_answering(self, connection: HttpConnection) -> None:
        del self._idle[connection]
        self._answering.add(connection)

    def mark_streaming(self, connection: HttpConnection) -> None:
        """Count a connection as a stream, which may last for hours.

        Raises:
            RequestRefused: there are too many.
        """
        if len(self._streaming) >= MAX_STREAMS:
            raise unavailable(f"{MAX_STREAMS} streams are open already.")
        self._answering.remove(connection)
        self._streaming.add(connection)

    def mark_idle(self, connection: HttpConnection) -> None:
        self.remove(connection)
        self._idle[connection] = None

    def remove(self, connection: HttpConnection) -> None:
        self._idle.pop(connection, None)
        self._answering.discard(connection)
        self._streaming.discard(connection)


class HttpConnection(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._exchange = HttpExchange()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_input_done = False  # whatever else comes is ignored
        self._is_begun = False  # a page may be sent in part
        self._is_answered = False  # the client may hang up
        self._is_at_eof = False  # the client sends no more
        self._writable = asyncio.Event()
        self._writable.set()

    # --- called by the loop -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._set_deadline(HEAD_SECONDS, self._time_out)
        self._server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.remove(self)
        self._clear_deadline()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_input_done:
            return
        try:
            request = self._exchange.receive(data)
        except RequestRefused as error:
            self._refuse(error.response)
            return
        if request is not None:
            self._is_input_done = True
            self._clear_deadline()
            self._server.mark_answering(self)
            self._task = self._server.site.tasks.create_task(self._answer(request))

    def eof_received(self) -> bool:
        """Keep the connection of a client that has asked and sends no more, until it is answered."""
        self._is_at_eof = True
        return self._is_input_done and not self._is_answered

    def pause_writing(self) -> None:
        self._writable.clear()
        self._set_deadline(WRITE_SECONDS, self._transport.abort)

    def resume_writing(self) -> None:
        self._writable.set()
        self._clear_deadline()
        if self._is_answered:
            self._set_deadline(WRITE_SECONDS, self._transport.abort)

    # --- called by the server -------------------------------------------------------------------------

    def drop(self, response: HttpResponse) -> None:
        """Hang up at once to make room for others; say why if nothing has been answered yet."""
        if self._is_answered:
            self._transport.abort()
        else:
            self._transport.write(self._exchange.begin(response))
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- answering ------------------------------------------------------------------------------------

    async def _answer(self, request: HttpRequest) -> None:
        try:
            page = await answer(self._server.site, request, self._endpoints())
            if page.is_stream:
                self._server.mark_streaming(self)
            await self._send(page, request)
        except RequestRefused as error:
            self._give_up(error)
        except (BgdError, OSError) as error:  # the store or a log cannot be read
            words = described(error)
            logger.error("a page cannot be shown: %s", words)  # noqa: TRY400 - it says what is wrong, and where
            self._give_up(RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, words))
        except Exception:  # one page must not end what serves all others
            logger.exception("a bug, in the answer to a browser")
            message = "a bug in bgd: see the daemon's log"
            self._give_up(RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, message))

    def _give_up(self, why: RequestRefused) -> None:
        """Send the reason instead of a page; cut the connection if a part of the page is already sent."""
        if self._is_begun:
            logger.error("an answer to a browser was cut off: %s", why)
            self._transport.abort()
        else:
            self._refuse(why.response)

    async def _send(self, page: PageResponse, request: HttpRequest) -> None:
        self._is_begun = True
        self._transport.write(self._exchange.begin(page.response))
        if page.chunks is not None:
            async with aclosing(page.chunks) as chunks:
                async for chunk in chunks:
                    self._transport.write(self._exchange.more(chunk))
                    await self._writable.wait()
                    if request.is_head or self._transport.is_closing():
                        break
            self._transport.write(self._exchange.end())
        await self._writable.wait()
        self._finish()

    def _refuse(self, response: HttpResponse) -> None:
        """Answer in one plain line, and ignore whatever else comes."""
        self._is_input_done = True
        self._transport.write(self._exchange.begin(response))
        self._finish()

    def _finish(self) -> None:
        """Send the end of the answer, and wait until the client hangs up.

        If we closed at once, with bytes of the client unread, the answer on its way would be thrown away.
        """
        self._is_answered = True
        self._server.mark_idle(self)
        if self._transport.is_closing():
            return
        if self._is_at_eof:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._set_deadline(WRITE_SECONDS, self._transport.abort)

    def _endpoints(self) -> Endpoints | None:
        """Return the two ends of a connection over the loopback, or None for a unix socket."""
        peer = self._transport.get_extra_info("peername")
        own = self._transport.get_extra_info("sockname")
        return (peer[:2], own[:2]) if isinstance(peer, tuple) else None

    def _time_out(self) -> None:
        self._refuse(
            refusal(HTTPStatus.REQUEST_TIMEOUT, f"no request arrived within {HEAD_SECONDS:g} seconds")
        )

    def _set_deadline(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = asyncio.get_running_loop().call_later(seconds, on_timeout)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
