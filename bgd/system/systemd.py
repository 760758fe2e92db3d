"""Talk to the service manager: take its sockets (sd_listen_fds(3)) and notify it (sd_notify(3))."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import time
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

FIRST_FD = 3  # of the sockets that are handed over
SEND_SECONDS = 1.0  # to wait for a manager that does not read while its queue is full
PINGS = 2  # per watchdog interval, as sd_watchdog_enabled(3) advises


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that the manager opened for this process; its children do not inherit them."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = range(FIRST_FD, FIRST_FD + int(count))
    for fd in fds:  # before anything is started: a job with the listening socket would answer clients
        os.set_inheritable(fd, False)
    return [socket.socket(fileno=fd) for fd in fds]


class ServiceManager:
    """The service manager that started this process, if there is one.

    Args:
        address: its datagram socket, a path or an abstract name after "@"; None if there is no manager.
        watchdog: seconds that it waits for a sign of life from the event loop; None if it does not watch.
    """

    def __init__(self, address: str | None, watchdog: float | None) -> None:
        self._address = address and (f"\0{address[1:]}" if address[0] == "@" else address)
        self._watchdog = watchdog
        # opened at once: a service that runs out of descriptors later must not seem to hang
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.settimeout(SEND_SECONDS)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Return the manager that the environment names, and remove its variables: children get none."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", None)
        is_watched = microseconds.isdecimal() and pid in {None, str(os.getpid())}
        return cls(address, int(microseconds) / 1e6 if is_watched else None)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def ready(self, status: str) -> None:
        """Report that the service works, after its start or after a reload."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload has begun; `ready` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str) -> None:
        """Report that the service is shutting down."""
        self._notify("STOPPING=1", f"STATUS={status}")

    async def ping_watchdog(self) -> None:
        """Send signs of life forever while the event loop runs; return at once if there is no watchdog."""
        if self._socket is None or not self._watchdog:
            return
        faulthandler.enable()  # the watchdog's SIGABRT then logs where the loop hung
        while True:
            self._notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / PINGS)

    def _notify(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address or "")
        except OSError as error:
            logger.warning("cannot notify the service manager of %s: %s", assignments[0], error)
