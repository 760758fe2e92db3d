# Made from bgd/client/asynchronous/rehearsal.py by `make client`: change that.
"""A connection to a stand-in, which needs no socket."""

from __future__ import annotations

from collections.abc import Callable, Generator

from bgd.client.blocking.runtime import apart
from bgd.client.session import UNNUMBERED, framed
from bgd.client.standin import StandIn
from bgd.errors import Refused
from bgd.wire.replies import End, Failed, Reply, error_of
from bgd.wire.requests import Request


class Rehearsal:
    """What Connection is to a daemon. It does not break, and takes the time that what is asked for takes."""

    is_broken = False
    newest = None

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in

    def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request, and return its one reply."""
        del deadline
        replies = apart(list, self._stand_in.answer(frames(UNNUMBERED)))
        return _said(replies[0])

    def stream(self, request: Request, deadline: float | None) -> Generator[Reply, None, None]:
        """Send a request and yield its replies up to the end mark."""
        del deadline
        for reply in self._stand_in.answer(framed(request, UNNUMBERED)):
            if callable(reply):
                apart(reply)
            elif isinstance(reply, End):
                return
            else:
                yield _said(reply)

    def wait_for_end(self, deadline: float | None) -> None:
        """Raise Refused: it has none."""
        del deadline
        raise Refused("there is no daemon that could end: jobs are run inline")

    def close(self) -> None:
        """Do nothing: there is nothing open."""


def _said(reply: object) -> Reply:
    if isinstance(reply, Failed):
        raise error_of(reply.code, reply.message)
    if not isinstance(reply, Reply):
        raise TypeError(f"{reply!r} is no reply")
    return reply
