"""The default client of the process, and `run_background_job`, for callers without a client."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Unpack

from bgd.client.blocking.client import Client
from bgd.client.blocking.job import Job
from bgd.client.options import Duration, FurtherOptions
from bgd.core.target import target_of_class

if TYPE_CHECKING:
    from bgd.client.async_.client import AsyncClient

TIMEOUT = 5.0  # seconds; a web request cannot wait longer for a daemon that is dead

# the environment variables that say where the daemon is
_LOCATION_VARIABLES = (
    "BGD_SOCKET",
    "BGD_CONFIG",
    "BGD_DAEMON_SOCKET",
    "BGD_DAEMON_STATE_DIR",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
)

_Location = tuple[str | None, ...]


def run_background_job(
    class_path: str,
    method: str,
    params: Sequence[object] | Mapping[str, object] | None = None,
    *,
    priority: int = 0,
    delay: Duration = 0.0,
    timeout: Duration = TIMEOUT,
    **options: Unpack[FurtherOptions],
) -> Job:
    """Queue a call of a class's method.

    Args:
        class_path: `package.module.Class`.
        method: its name.
        params: positional arguments, or a mapping of named ones.
        priority: higher runs first.
        delay: how long to wait before the job may start.
        timeout: how long to wait for the daemon, not for the job.
        options: as of `Client.call`.

    Raises:
        DaemonUnreachable: no daemon answered in time.
        Refused: the daemon does not accept the job.
        TypeError: JSON cannot represent `params`, a name is not a string, or the class is a module.
    """
    if not (isinstance(class_path, str) and isinstance(method, str)):
        raise TypeError(
            f"class and method are strings such as 'package.module.Class' and 'method', "
            f"not {class_path!r} and {method!r}"
        )
    if class_path in sys.modules:
        raise TypeError(
            f"{class_path} is a module, not a class: Client().call({f'{class_path}:{method}'!r}, ...) calls "
            "its function"
        )
    target = target_of_class(class_path, method)
    args, kwargs = ((), params) if isinstance(params, Mapping) else (params or (), {})
    with Client(timeout=timeout) as client:
        return client.call(target, args, kwargs, priority=priority, delay=delay, **options)


@contextmanager
def using(client: Client | AsyncClient) -> Iterator[None]:
    """Set the default client of this thread or task, which `bgd.job` functions and executors use.

    A Client serves `submit`, an AsyncClient `submit_async`.
    """
    chosen: ContextVar[Any] = _chosen if isinstance(client, Client) else _chosen_async
    token = chosen.set(client)
    try:
        yield
    finally:
        chosen.reset(token)


def chosen_client() -> Client | None:
    """Return the Client set by `using`, None outside of it."""
    return _chosen.get()


def default_client() -> Client:
    """Return the Client set by `using`, else the process's own, which waits only TIMEOUT seconds."""
    if (chosen := chosen_client()) is not None:
        return chosen
    location = _location()
    # two threads may both make one, and the first is kept: the other has not connected yet
    return _clients.get(location) or _clients.setdefault(location, Client(timeout=TIMEOUT))


def default_async_client() -> AsyncClient:
    """Return the AsyncClient set by `using`, else that of this thread's event loop."""
    # programs that do not await need not import an event loop
    import asyncio  # noqa: PLC0415

    from bgd.client.async_.client import AsyncClient  # noqa: PLC0415

    if (chosen := _chosen_async.get()) is not None:
        return chosen
    owner = (os.getpid(), asyncio.get_running_loop(), _location())
    known, client = getattr(_per_thread, "latest", (None, None))
    if client is None or known != owner:
        client = AsyncClient(timeout=TIMEOUT)
        _per_thread.latest = owner, client
    return client


def _location() -> _Location:
    """Return the location of the daemon now; a test may change it between two calls."""
    return tuple(map(os.environ.get, _LOCATION_VARIABLES))


_chosen: ContextVar[Client | None] = ContextVar("bgd client", default=None)
_chosen_async: ContextVar[AsyncClient | None] = ContextVar("bgd async client", default=None)
_clients: dict[_Location, Client] = {}
_per_thread = threading.local()  # the latest AsyncClient and its owner: a thread runs one loop at a time
