"""The default client: one for the whole process, for whoever hands over a job and names no client."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from bgd.client.background import TIMEOUT
from bgd.client.blocking import Client

if TYPE_CHECKING:
    import asyncio

    from bgd.client.asynchronous import AsyncClient

# what the environment says of where a daemon is
_WHERE = (
    "BGD_SOCKET",
    "BGD_CONFIG",
    "BGD_DAEMON_SOCKET",
    "BGD_DAEMON_STATE_DIR",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
)

_Place = tuple[str | None, ...]

_chosen: ContextVar[Client | None] = ContextVar("bgd client", default=None)
_chosen_to_await: ContextVar[AsyncClient | None] = ContextVar("bgd asynchronous client", default=None)


@contextmanager
def using(client: Client | AsyncClient) -> Iterator[None]:
    """Let what names no client use this one, in this thread or task: functions under `bgd.job`, executors.

    A Client serves `submit`, an AsyncClient `submit_async`.
    """
    if isinstance(client, Client):
        token = _chosen.set(client)
        try:
            yield
        finally:
            _chosen.reset(token)
    else:
        token_to_await = _chosen_to_await.set(client)
        try:
            yield
        finally:
            _chosen_to_await.reset(token_to_await)


def chosen_client() -> Client | None:
    """Return the client of `using`, None outside of it."""
    return _chosen.get()


def default_client() -> Client:
    """Return the client of `using`, else the process's own, which waits no longer than a web request can."""
    if (chosen := chosen_client()) is not None:
        return chosen
    place = _place()
    # two threads may both make one, and the first is kept: it has not connected yet
    return _clients.get(place) or _clients.setdefault(place, Client(timeout=TIMEOUT))


def default_async_client() -> AsyncClient:
    """Return the client of `using`, else that of this thread's event loop."""
    from bgd.client.asynchronous.client import AsyncClient  # noqa: PLC0415 - who does not await needs no loop

    if (chosen := _chosen_to_await.get()) is not None:
        return chosen
    owner = (_running_loop(), _place())
    if _of_thread.client is None or _of_thread.owner != owner:
        _of_thread.owner, _of_thread.client = owner, AsyncClient(timeout=TIMEOUT)
    return _of_thread.client


class _OfThread(threading.local):
    """A thread runs one loop at a time, so it keeps one client."""

    owner: tuple[asyncio.AbstractEventLoop, _Place] | None = None
    client: AsyncClient | None = None


def _place() -> _Place:
    """Return where a daemon would be looked for now: a test may change it on the way."""
    return tuple(map(os.environ.get, _WHERE))


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # noqa: PLC0415 - as above

    return asyncio.get_running_loop()


def _forget() -> None:
    """Drop what belongs to the parent of a forked child, and the connections with it."""
    _clients.clear()
    _of_thread.owner = _of_thread.client = None


_clients: dict[_Place, Client] = {}
_of_thread = _OfThread()
os.register_at_fork(after_in_child=_forget)
