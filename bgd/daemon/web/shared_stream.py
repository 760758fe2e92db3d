"""Send the streams of all pages of a browser over one connection: a browser opens only six to a host.

The script that these pages share opens the connection under a random name. A request for a stream that has
this name gets an empty answer: its events go over the connection, each with the nonce of the request and a
seal. So each page still checks with its own key what it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from bgd.daemon.web.live import HEARTBEAT
from bgd.daemon.web.responses import PageResponse, event_stream
from bgd.daemon.web.seals import Seal
from bgd.errors import BgdError
from bgd.wire.http import HttpRequest, HttpResponse, unavailable

if TYPE_CHECKING:
    from bgd.daemon.web.site import Site

logger = logging.getLogger(__name__)

MAX_SHARED = 256  # streams of one browser: a hundred pages, each with a log, and some to spare


async def open_shared(site: Site, request: HttpRequest, name: str) -> PageResponse:
    """Return the events of all streams that are added under this name."""
    del request
    shared = SharedStream(site.tasks)
    return event_stream(_events(site, name, shared))


async def _events(site: Site, name: str, shared: SharedStream) -> AsyncGenerator[bytes, None]:
    site.shared[name] = shared
    try:
        yield HEARTBEAT
        while True:
            yield await shared.next_event()
    finally:
        site.shared.pop(name, None)
        shared.close()


async def add_to_shared(site: Site, seal: Seal, events: AsyncGenerator[bytes, None]) -> PageResponse:
    """Send events over the connection that their request names; return an empty answer.

    Raises:
        RequestRefused: the connection is gone, or has too many streams.
    """
    shared = site.shared.get(seal.shared)
    if shared is None or shared.is_full:
        await events.aclose()
        raise unavailable(
            "The connection of this browser is lost, or has too many streams: reload the page.",
        )
    shared.add(seal, events)
    return PageResponse(HttpResponse())


async def drop_from_shared(site: Site, request: HttpRequest, name: str, nonce: str) -> PageResponse:
    """End a stream whose page is closed; return an empty answer."""
    del request
    if shared := site.shared.get(name):
        shared.drop(nonce)
    return PageResponse(HttpResponse())


class SharedStream:
    """One connection of a browser, and the streams that it carries."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._streams: dict[str, asyncio.Task[None]] = {}  # by their nonces
        self._next: asyncio.Queue[tuple[Seal, bytes]] = asyncio.Queue(1)  # small: a slow browser holds up all

    @property
    def is_full(self) -> bool:
        return len(self._streams) >= MAX_SHARED

    def add(self, seal: Seal, events: AsyncGenerator[bytes, None]) -> None:
        """Send these events, until the stream is dropped; a new stream with its nonce takes its place."""
        self.drop(seal.nonce)
        self._streams[seal.nonce] = self._tasks.create_task(self._forward(seal, events))

    def drop(self, nonce: str) -> None:
        """End a stream, if there is such a one."""
        if found := self._streams.pop(nonce, None):
            found.cancel()

    def close(self) -> None:
        """End all streams."""
        for nonce in [*self._streams]:
            self.drop(nonce)

    async def next_event(self) -> bytes:
        """Return the next event of any stream. It is sealed last, because seals count what is sent."""
        seal, event = await self._next.get()
        return seal.put_on_event(event) if event else seal.end_of_events()

    async def _forward(self, seal: Seal, events: AsyncGenerator[bytes, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._next.put((seal, event))
        except (BgdError, OSError) as error:
            logger.error("an open page is not updated: %s", error)  # noqa: TRY400 - it says what is wrong
        except Exception:  # one page must not end what serves all others
            logger.exception("a bug, in the stream of an open page")
        await self._next.put((seal, b""))
        del self._streams[seal.nonce]  # it is this one: one whose place was taken has been cancelled
