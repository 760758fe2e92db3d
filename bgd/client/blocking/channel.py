# Made from bgd/client/asynchronous/channel.py by `make client`: change that.
"""The channel between a client and the daemon: opened when first used, and renewed after it broke."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from bgd.client.blocking.connection import Connection
from bgd.client.blocking.door import Door
from bgd.client.blocking.rehearsal import Rehearsal
from bgd.client.blocking.runtime import Home, Lock, pause
from bgd.client.idempotency import Frames, Marks
from bgd.client.session import Broken, NotSent, expected, framed
from bgd.client.sockets import left
from bgd.client.standin import stand_in
from bgd.errors import DaemonUnreachable
from bgd.wire.replies import Reply, Submitted
from bgd.wire.requests import Request

R = TypeVar("R")

_SHORTEST_PAUSE = 0.05  # seconds between two looks for a daemon that went away; each is twice the one before
_LONGEST_PAUSE = 1.0
_LONGEST_PAUSE_OF_A_REQUEST = 0.2  # it has only some seconds
_OTHERS_FIRST = 5.0  # seconds in which a person or a service manager may start it again, before we do


class Channel:
    """Requests and streams that outlive a connection.

    While there is time, a request that was surely not taken is sent again over a new connection. One that may
    have been taken is sent again only if that does no harm.
    """

    def __init__(self, door: Door, timeout: float) -> None:
        self._door = door
        self.timeout = timeout
        self._home = Home()
        self._connecting = Lock()
        self._connection: Connection | None = None

    def ask(self, request: Request, kind: type[R], *, repeatable: bool = False) -> R:
        """Send a request and return its one reply.

        `repeatable`: it may be taken twice, so it is sent again if the daemon goes away before it answers. If
        the daemon needs to know that, to judge what it finds done already, the request has `repeated`.

        Raises:
            DaemonUnreachable: nobody knows whether it was taken.
        """
        was_lost = False

        def send(connection: Connection | Rehearsal, deadline: float) -> Reply:
            nonlocal was_lost
            marked = was_lost and "repeated" in request.__struct_fields__
            try:
                sent = replace(request, repeated=True) if marked else request
                return connection.exchange(partial(framed, sent), deadline)
            except Broken:
                was_lost = True
                raise

        return expected(self._answered(send, lambda: repeatable), kind)

    def submit(self, frames: Frames, *, has_keys: bool) -> Submitted:
        """Send a request for new jobs, again and again if its answer is lost and the daemon recognises it.

        `has_keys`: all of its jobs have, so no daemon takes them twice while they have not finished.

        Raises:
            DaemonUnreachable: nobody knows whether it was taken.
        """
        marks = Marks(has_keys=has_keys)

        def send(connection: Connection | Rehearsal, deadline: float) -> Reply:
            mark = marks.next(connection.newest)
            try:
                return connection.exchange(partial(frames, mark=mark), deadline)
            except Broken as error:
                marks.lost = marks.lost or error
                raise

        try:
            return expected(self._answered(send, lambda: marks.are_recognised), Submitted)
        except DaemonUnreachable as error:
            if marks.lost is None:
                raise
            raise marks.lost from error  # even of NotSent: it may have been taken the first time

    def collect(self, request: Request) -> list[Reply]:
        """Return all replies of a stream that only reads and is expected to end soon."""

        def send(connection: Connection | Rehearsal, deadline: float) -> list[Reply]:
            return [reply for reply in connection.stream(request, deadline)]

        return self._answered(send, lambda: True)

    def follow(
        self, rest: Callable[[], Request | None], deadline: float | None = None, *, alone: bool = False
    ) -> Generator[Reply, None, None]:
        """Yield the replies of a stream over as many connections as it takes.

        Args:
            rest: what to ask for, asked once more whenever the daemon went away: it then takes into account
                what was yielded. None: nothing is left.
            deadline: on the monotonic clock, None: never.
            alone: over a connection of its own. The daemon sends a long stream no faster than it is taken,
                and answers to other requests must not wait for that.

        Raises:
            TimeoutError: the deadline has come.
            DaemonUnreachable: the daemon went away, and none has answered for as long as a client is patient.
        """
        connect = self._opened if alone else self.connection
        connection = connect()
        pauses = _growing_pauses()
        was_asked = False
        try:
            request = rest()
            while request is not None:
                try:
                    with closing(connection.stream(request, deadline)) as replies:
                        for reply in replies:
                            pauses = _growing_pauses()
                            yield reply
                except (NotSent, Broken) as error:
                    connection.close()
                    if (request := rest()) is None:
                        return
                    was_away = not was_asked and isinstance(error, NotSent)  # before it was asked
                    was_asked = True
                    connection = self._connected_again(connect, pauses, deadline, was_away=was_away)
                else:
                    return
        finally:
            if alone:
                connection.close()

    def connection(self, *, may_start: bool = True) -> Connection | Rehearsal:
        """Return the connection, a new one if there is none or it broke."""
        self._home.check()
        if (answerer := stand_in()) is not None:
            return Rehearsal(answerer)
        with self._connecting:
            if self._connection is not None and self._connection.is_broken:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = self._connected(may_start=may_start)
            return self._connection

    def regain(self) -> None:
        """Return as soon as there is a connection, for which this is as patient as a stream that broke off.

        Raises:
            DaemonUnreachable: no daemon has answered for as long as a client is patient.
        """
        self._connected_again(self.connection, _growing_pauses(), None)

    def persist(self, ask: Callable[[], R]) -> R:
        """Ask what may be asked twice; if the daemon goes away, once more when it is back.

        Raises:
            DaemonUnreachable: as `regain`, or it went away once more.
        """
        try:
            return ask()
        except DaemonUnreachable:
            self.regain()
            return ask()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._home.is_here:
            connection.close()

    def _answered(
        self,
        send: Callable[[Connection | Rehearsal, float], R],
        is_repeatable: Callable[[], bool],
    ) -> R:
        """Send a request over one connection after another until it is answered or the time is over.

        `is_repeatable`: whether it may be sent again although it may have been taken.
        """
        deadline = time.monotonic() + self.timeout
        connection = self.connection()
        pauses = _growing_pauses(_LONGEST_PAUSE_OF_A_REQUEST)
        failures = 0
        may_be_taken = False
        try:
            while True:
                try:
                    return send(connection, deadline)
                except NotSent:
                    if not may_be_taken and left(deadline) == 0:
                        raise
                except Broken:
                    if not is_repeatable():
                        raise
                    may_be_taken = True
                failures += 1
                if failures == 1 and not may_be_taken:  # the daemon went away before it was asked
                    connection = self.connection()
                else:
                    connection = self._connected_again(self.connection, pauses, deadline)
        except TimeoutError as error:
            raise self._unanswered() from error

    def _opened(self, *, may_start: bool = True) -> Connection | Rehearsal:
        """Return a connection for one stream alone."""
        self._home.check()
        if (answerer := stand_in()) is not None:
            return Rehearsal(answerer)
        return self._connected(may_start=may_start)

    def _connected(self, *, may_start: bool) -> Connection:
        return self._door.connect(time.monotonic() + self.timeout, may_start=may_start)

    def _connected_again(
        self,
        connect: Callable[..., Connection | Rehearsal],
        pauses: Iterator[float],
        deadline: float | None,
        *,
        was_away: bool = False,
    ) -> Connection | Rehearsal:
        """Connect to the daemon that comes after one that went away.

        `was_away`: before it was asked for anything. Nobody else is known to start it, so this does, at once.
        """
        began_at = time.monotonic()
        while True:
            remaining = left(deadline)
            if remaining == 0:
                raise TimeoutError
            seconds = next(pauses)
            pause(seconds if remaining is None else min(seconds, remaining))
            waited = time.monotonic() - began_at
            try:
                return connect(may_start=was_away or waited > _OTHERS_FIRST)
            except DaemonUnreachable:
                if waited > self.timeout:
                    raise

    def _unanswered(self) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"the daemon did not answer within {self.timeout:g} s: the request may or may not have been taken"
        )


def _growing_pauses(longest: float = _LONGEST_PAUSE) -> Iterator[float]:
    yield 0.0
    seconds = _SHORTEST_PAUSE
    while True:
        yield seconds
        seconds = min(2 * seconds, longest)
