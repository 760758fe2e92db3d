"""The service manager that started us: what it hands over (sd_listen_fds(3)) and is told (sd_notify(3))."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import time
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

FIRST_FD = 3  # of those that are handed over
TELLING_SECONDS = 1.0  # for a manager that does not listen, and whose queue is full
PINGS = 2  # within the time of the watchdog, as sd_watchdog_enabled(3) advises


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that were opened for us; nobody started by us inherits them."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = range(FIRST_FD, FIRST_FD + int(count))
    for fd in fds:  # before anything is started: a job that held a listening socket would answer clients
        os.set_inheritable(fd, False)
    return [socket.socket(fileno=fd) for fd in fds]


class ServiceManager:
    """Listens at a datagram socket, a path or an abstract name after "@"; None: there is no manager.

    `watchdog` is how many seconds it lets pass without hearing from our loop; None: any number.
    """

    def __init__(self, address: str | None, watchdog: float | None) -> None:
        self._address = address and (f"\0{address[1:]}" if address[0] == "@" else address)
        self._watchdog = watchdog
        # open from the start: a service that is short of descriptors must not seem to hang
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.settimeout(TELLING_SECONDS)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Return who the environment names, and take the names out: nobody started by us inherits them."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", None)
        is_watched = microseconds.isdecimal() and pid in {None, str(os.getpid())}
        return cls(address, int(microseconds) / 1e6 if is_watched else None)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def ready(self, status: str) -> None:
        """Say that the service does its work, at first or after a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    async def keep_informed(self) -> None:
        """Say for ever that the loop turns; return at once if nobody listens for that."""
        if self._socket is None or not self._watchdog:
            return
        faulthandler.enable()  # so that the watchdog's SIGABRT puts into the log where the loop hung
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / PINGS)

    def _tell(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address or "")
        except OSError as error:
            logger.warning("the service manager cannot be told %s: %s", assignments[0], error)
