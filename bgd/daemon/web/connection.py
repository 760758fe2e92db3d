"""One browser's connection: a request's head comes, an answer goes, within a stranger's limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING

from bgd.daemon.web.entrance import Ends
from bgd.errors import BgdError
from bgd.wire.http import Exchange, Request, RequestRefused, Response, refusal

if TYPE_CHECKING:
    from bgd.daemon.web.answers import Answer
    from bgd.daemon.web.site import Site

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
