"""One browser's connection: a request's head comes, an answer goes, within a stranger's limits."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgd.config import Config
from bgd.daemon.folder import is_listened_on
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.web.auth import Ends, Entrance
from bgd.daemon.web.pages import Answer, Pages, Routes
from bgd.errors import BgdError
from bgd.settings import MAX_PORT, Address, TcpAddress, UnixAddress
from bgd.wire.http import Exchange, Request, RequestRefused, Response, refusal

if TYPE_CHECKING:
    from bgd.daemon.web.pages import Answer


# --- Listening for browsers: a port of the loopback, the next ones if it is taken, or a unix socket.


BACKLOG = 128

_FOR_OTHERS = 0o117  # umask: a unix socket is for its owner and group, as of a proxy


class CannotListen(BgdError):
    """Nothing can be served at this address; the message says which and why."""


def listen(address: Address, ports: int) -> tuple[socket.socket, Address]:
    """Return a listening socket and the address it has, on the first free one of so many ports.

    Raises:
        CannotListen: the address is taken, or cannot be had.
    """
    try:
        match address:
            case TcpAddress():
                listening, address = _listen_on_port(address, ports)
            case UnixAddress():
                listening = _listen_on_path(Path(address.path))
    except OSError as error:
        raise CannotListen(f"cannot serve pages at {address}: {error.strerror}; see [http] listen") from error
    listening.setblocking(False)
    return listening, address


def _listen_on_port(address: TcpAddress, ports: int) -> tuple[socket.socket, TcpAddress]:
    last = min(address.port + ports - 1, MAX_PORT)
    while True:
        try:
            listening = _bound(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or address.port >= last:
                raise
            address = TcpAddress(address.host, address.port + 1)
        else:
            return listening, TcpAddress(address.host, listening.getsockname()[1])


def _bound(address: TcpAddress) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        # a port that was ours a moment ago is not taken
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _listen_on_path(path: Path) -> socket.socket:
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "something stands there that is no socket")
    if is_listened_on(path):
        raise OSError(errno.EADDRINUSE, "somebody listens there")
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(_FOR_OTHERS)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening


logger = logging.getLogger(__name__)

HEAD_SECONDS = 5.0  # from connecting to a complete head, however many bytes come meanwhile
WRITE_SECONDS = 10.0  # in which a reader makes room for more, and in the end hangs up
HIGH_WATER = 64 * 1024  # bytes waiting for a slow reader before its answer pauses


class BrowserConnection(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._exchange = Exchange()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_heard = False  # nothing more that comes is of interest
        self._is_answered = False  # the other side may hang up
        self._is_at_end = False  # it has said all it will
        self._writable = asyncio.Event()
        self._writable.set()

    # --- what the loop tells ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._expect(HEAD_SECONDS, self._time_out)
        self._site.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._site.leave(self)
        self._expect_nothing()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_heard:
            return  # nothing more is listened to
        try:
            request = self._exchange.receive(data)
        except RequestRefused as error:
            self.refuse(error.response)
            return
        if request is not None:
            self._is_heard = True
            self._expect_nothing()
            self._site.has_work(self)
            self._task = self._site.spawn(self._answer(request))

    def eof_received(self) -> bool:
        """Let a client that has asked, and says no more, have its answer."""
        self._is_at_end = True
        return self._is_heard and not self._is_answered

    def pause_writing(self) -> None:
        self._writable.clear()
        self._expect(WRITE_SECONDS, self._transport.abort)

    def resume_writing(self) -> None:
        self._writable.set()
        self._expect_nothing()
        if self._is_answered:
            self._expect(WRITE_SECONDS, self._transport.abort)

    # --- what the site tells --------------------------------------------------------------------------

    def refuse(self, response: Response) -> None:
        """Answer in one plain line, whatever else may come."""
        self._is_heard = True
        self._transport.write(self._exchange.begin(response))
        self._part()

    def give_way(self, response: Response) -> None:
        """Hang up at once, for others to have room; say why, if nothing has been said yet."""
        if self._is_answered:
            self._transport.abort()
        else:
            self._transport.write(self._exchange.begin(response))
            self._transport.close()

    def close(self) -> None:
        self._transport.abort()

    # --- answering ------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._site.answer(request, self._ends())
        except (BgdError, OSError) as error:  # the store, or a log, that cannot be read
            logger.error("a page cannot be shown: %s", error)  # noqa: TRY400 - it says what is wrong, and where
            self.refuse(refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)))
            return
        except Exception:  # one page must not take down what serves all others
            logger.exception("a bug, in the answer to a browser")
            self.refuse(refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug in bgd: the daemon's log says more"))
            return
        try:
            await self._send(answer, request)
        except Exception:  # likewise; what has been sent shows that it is not all
            logger.exception("an answer to a browser breaks off")
            self._transport.abort()

    async def _send(self, answer: Answer, request: Request) -> None:
        self._transport.write(self._exchange.begin(answer.response))
        if answer.rest is not None:
            async with aclosing(answer.rest) as rest:
                async for piece in rest:
                    self._transport.write(self._exchange.more(piece))
                    await self._writable.wait()
                    if request.is_head or self._transport.is_closing():
                        break
            self._transport.write(self._exchange.end())
        await self._writable.wait()
        self._part()

    def _part(self) -> None:
        """Say that this was all, and wait for the other side to hang up.

        Closing at once, with bytes of the client's unread, would take the answer back on its way.
        """
        self._is_answered = True
        self._site.has_rest(self)
        if self._transport.is_closing():
            return
        if self._is_at_end:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._expect(WRITE_SECONDS, self._transport.abort)

    def _ends(self) -> Ends | None:
        """Return the ends of a connection over the loopback, None for one by a unix socket."""
        peer = self._transport.get_extra_info("peername")
        own = self._transport.get_extra_info("sockname")
        return Ends(peer[:2], own[:2]) if isinstance(peer, tuple) else None

    def _time_out(self) -> None:
        self.refuse(refusal(HTTPStatus.REQUEST_TIMEOUT, f"no request came within {HEAD_SECONDS:g} seconds"))

    def _expect(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._expect_nothing()
        self._deadline = asyncio.get_running_loop().call_later(seconds, otherwise)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


# --- The site: the pages at one address, what all connections of browsers share, and how many there may be.


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
        store: StoreReader,
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
    config: Config, store: StoreReader, is_ready: Callable[[], bool], tasks: asyncio.TaskGroup
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
