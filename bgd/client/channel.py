"""The channel between a client and the daemon: opened when first used, and renewed after it broke."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TypeVar

from bgd.client.connection import Connection, NotSent
from bgd.client.door import Door
from bgd.client.session import framed
from bgd.errors import BgdError, DaemonUnreachable, ProtocolError
from bgd.wire.replies import Reply
from bgd.wire.requests import Request

R = TypeVar("R")


class Channel:
    """Requests and streams that outlive a connection.

    A request that was surely not taken is sent again once over a new connection; one that may have been
    taken never is.
    """

    def __init__(self, door: Door, timeout: float) -> None:
        self._door = door
        self._timeout = timeout
        self._pid = os.getpid()
        self._connecting = threading.Lock()
        self._connection: Connection | None = None

    def ask(self, request: Request, kind: type[R]) -> R:
        """Send a request and return its one reply."""
        return self.exchange(partial(framed, request), kind)

    def exchange(self, frames: Callable[[int], bytes], kind: type[R]) -> R:
        """Send a request of any number of frames and return its one reply.

        Raises:
            DaemonUnreachable: nobody knows whether it was taken.
        """
        deadline = time.monotonic() + self._timeout
        try:
            try:
                reply = self.connection().exchange(frames, deadline)
            except NotSent:
                reply = self.connection().exchange(frames, deadline)
        except TimeoutError as error:
            raise self._unanswered() from error
        return expected(reply, kind)

    def collect(self, request: Request) -> list[Reply]:
        """Return all replies of a stream that is expected to end soon."""
        try:
            return list(self.stream(request, time.monotonic() + self._timeout))
        except TimeoutError as error:
            raise self._unanswered() from error

    def stream(self, request: Request, deadline: float | None) -> Iterator[Reply]:
        """Yield the replies of a stream.

        Raises:
            TimeoutError: it has not ended in time.
        """
        try:
            yield from self.connection().stream(request, deadline)
        except NotSent:  # so nothing was yielded yet
            yield from self.connection().stream(request, deadline)

    def stream_apart(self, request: Request) -> Iterator[Reply]:
        """Yield the replies of a long stream, over a connection of its own.

        The daemon sends it no faster than it is taken, and answers to other requests must not wait for that.
        """
        self._check_process()
        with closing(self._opened()) as connection:
            yield from connection.stream(request, None)

    def connection(self) -> Connection:
        """Return the connection, a new one if there is none or it broke."""
        self._check_process()
        with self._connecting:
            if self._connection is None or self._connection.is_broken:
                self._connection = self._opened()
            return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and os.getpid() == self._pid:  # a forked child would end its parent's
            connection.close()

    def _opened(self) -> Connection:
        return self._door.connect(time.monotonic() + self._timeout)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise BgdError("this process was forked from the Client's own: make a new Client after fork")

    def _unanswered(self) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"the daemon did not answer within {self._timeout:g} s: "
            "the request may or may not have been taken"
        )


def expected(reply: Reply, kind: type[R]) -> R:
    """Return a reply that must be of one kind.

    Raises:
        ProtocolError: it is of another.
    """
    if not isinstance(reply, kind):
        raise ProtocolError(f"the daemon answered {type(reply).__name__} where {kind.__name__} was due")
    return reply
