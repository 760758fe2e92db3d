# Made from bgd/client/asynchronous/door.py by `make client`: change that.
"""The door: which socket a client goes to, and whether a daemon is started when nobody is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from bgd.client.blocking.connection import Connection
from bgd.client.blocking.runtime import apart
from bgd.config import ClientSocket, client_sockets
from bgd.errors import DaemonUnreachable, NotAllowed
from bgd.paths import SYSTEM_PATHS

_NOBODY_THERE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class Door(Struct, frozen=True, kw_only=True):
    """Where to look: see `bgd.config.client_sockets`.

    `autostart`: start the caller's own daemon if none answers, and tell `on_autostart` its pid and log.
    """

    socket: str | None = None
    config: str | None = None
    user: bool = False
    system: bool = False
    autostart: bool = True
    on_autostart: Callable[[int, str], None] | None = None

    def connect(self, deadline: float, *, may_start: bool = True) -> Connection:
        """Connect to the first daemon that answers; `may_start` False: start none this time.

        Raises:
            DaemonUnreachable: none does, and none was to be started, or it did not start.
            NotAllowed: one is there that is not for this user.
            ConfigError: the configuration that names the socket cannot be used.
        """
        closed: list[tuple[ClientSocket, OSError]] = []
        places = client_sockets(self.socket, config=self.config, user=self.user, system=self.system)
        while (place := apart(next, places, None)) is not None:
            try:
                return opened(place, deadline)
            except (*_NOBODY_THERE, PermissionError) as error:
                closed.append((place, error))
        own = next((place for place, _ in closed if place.is_own), None)
        if not (self.autostart and may_start) or own is None:
            raise _unreachable(closed)
        self._start(own, deadline)
        try:
            return opened(own, deadline)
        except OSError as error:
            raise _unreachable([(own, error)]) from error

    def _start(self, own: ClientSocket, deadline: float) -> None:
        from bgd.client.autostart import start_daemon  # noqa: PLC0415 - few calls need what it imports

        started = apart(start_daemon, self.config, own, deadline)
        if started is not None and self.on_autostart is not None:
            self.on_autostart(started.pid, started.log)


def opened(place: ClientSocket, deadline: float) -> Connection:
    """Connect to a place.

    Raises:
        OSError: nobody is there, or it may not be used.
        NotAllowed: another user serves a place that the caller did not name.
        DaemonUnreachable: somebody is, but does not answer as a daemon does.
    """
    try:
        return Connection.open(place.path, deadline, _trusted_uids(place))
    except (*_NOBODY_THERE, PermissionError):
        raise
    except (BlockingIOError, TimeoutError) as error:
        raise DaemonUnreachable(
            f"the daemon at {place.path} does not answer: it is stopped or very busy"
        ) from error
    except OSError as error:
        raise DaemonUnreachable(f"{place.path} is no daemon's socket: {error.strerror}") from error


def _trusted_uids(place: ClientSocket) -> set[int] | None:
    """Return the users that may serve a place; None: any, because the caller named the socket."""
    if place.is_explicit:
        return None
    if place.is_own:
        return {0, os.geteuid()}
    return {0, Path(place.path).parent.stat().st_uid}  # the system's daemon owns its folder in /run


def _unreachable(closed: list[tuple[ClientSocket, OSError]]) -> DaemonUnreachable | NotAllowed:
    for place, error in closed:
        if isinstance(error, PermissionError):
            return NotAllowed(f"you may not use the daemon at {place.path}: {error.strerror}")
    paths = " or ".join(place.path for place, _ in closed)
    if closed[0][0].is_own:
        remedy = "start it with `bgd`"
    elif closed[0][0].path == SYSTEM_PATHS.socket:
        remedy = "start it with `systemctl restart bgd`"
    else:
        remedy = "is the daemon running, and is that its socket?"
    return DaemonUnreachable(f"no daemon answers at {paths}: {remedy}")
