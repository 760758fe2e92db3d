"""A connection's side of the protocol without any I/O: it numbers requests and keeps their replies apart.

A shell around it moves the bytes: bgd.client.blocking.connection, bgd.client.asynchronous.connection.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from msgspec import UNSET
from msgspec.structs import replace

import bgd
from bgd.core.job import State
from bgd.errors import BgdError, DaemonUnreachable, ProtocolError, Refused
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_reply, encode
from bgd.wire.replies import ActResult, ErrorCode, Failed, Reply, Submitted, error_of
from bgd.wire.requests import Forget, Request

R = TypeVar("R")

UNNUMBERED = 0  # the id of a request that has not been sent yet


class NotSent(DaemonUnreachable):
    """The connection broke before the request was sent whole, so it was surely not taken."""


class Broken(DaemonUnreachable):
    """The connection broke after the request was sent, so nobody knows whether it was taken."""


class Session:
    """Bytes received go in with `feed`, the replies to each request come out of `take`."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._ids = itertools.count(1)
        self._inboxes: dict[int, deque[Reply]] = {}
        self.is_greeted = False
        self.newest: int | None = None  # job that the daemon told of; None: it knows no request again

    def hello(self) -> bytes:
        """Return what has to be sent first."""
        return frame(encode(Hello(PROTOCOL, bgd.__version__, "bgd client")))

    def open(self) -> int:
        """Return the id of a new request; its replies are kept from now on."""
        request_id = next(self._ids)
        self._inboxes[request_id] = deque()
        return request_id

    def close(self, request_id: int) -> None:
        """Forget a request: replies that still come are dropped."""
        self._inboxes.pop(request_id, None)

    def forget(self, request_id: int) -> bytes:
        """Close a request whose stream still runs; return what tells the daemon so."""
        self.close(request_id)
        return framed(Forget(UNNUMBERED, request_id), next(self._ids))

    def take(self, request_id: int) -> Reply | None:
        """Return the next reply to a request, None if it has not come yet."""
        inbox = self._inboxes[request_id]
        return inbox.popleft() if inbox else None

    def feed(self, data: bytes) -> None:
        """Sort what arrived into the inboxes.

        Raises:
            BgdError: the daemon turns the connection away, or does not speak this protocol; all is over.
        """
        for payload in self._frames.feed(data):
            if self.is_greeted:
                self._sort(decode_reply(payload))
            else:
                self._greet(payload)

    def end(self, path: str) -> Callable[[], DaemonUnreachable]:
        """Return what makes the error for a daemon that hung up."""
        if not self.is_greeted:
            words = f"the daemon at {path} hung up without a word: its log should say why"
            return partial(DaemonUnreachable, words)
        return partial(
            Broken,
            f"the daemon at {path} went away before it answered; running jobs run on, "
            "and what was asked of it may or may not have been taken",
        )

    def _greet(self, payload: bytes) -> None:
        try:
            hello = decode_hello(payload)
        except ProtocolError:
            self._sort(decode_reply(payload))  # turned away before the greeting, and told why
            return
        if hello.protocol != PROTOCOL:
            raise ProtocolError(
                f"the daemon (bgd {hello.version}) speaks protocol {hello.protocol}, this program (bgd "
                f"{bgd.__version__}) protocol {PROTOCOL}: upgrade the older one, and restart the daemon"
            )
        self.is_greeted = True
        self.newest = None if hello.newest is UNSET else hello.newest

    def _sort(self, reply: Reply) -> None:
        if isinstance(reply, Submitted) and self.newest is not None:
            self.newest = max(self.newest, *reply.jobs[-1:])
        inbox = self._inboxes.get(reply.id)
        if inbox is not None:
            inbox.append(reply)
        elif isinstance(reply, Failed) and reply.id == 0:  # of the connection, not of a request
            raise error_of(reply.code, reply.message)


def expected(reply: Reply, kind: type[R]) -> R:
    """Return a reply that must be of one kind.

    Raises:
        ProtocolError: it is of another.
    """
    if not isinstance(reply, kind):
        raise ProtocolError(f"the daemon answered {type(reply).__name__} where {kind.__name__} was due")
    return reply


def error_in(result: ActResult) -> BgdError | None:
    """Return why an action was not done to a job; None if it was."""
    if result.state is not None:
        return None
    return error_of(result.code or ErrorCode.REFUSED, result.message or f"job {result.job}: refused")


def state_of(result: ActResult) -> State:
    """Return the state that an action brought a job to.

    Raises:
        Refused: it was not done.
    """
    if result.state is None:
        raise error_in(result) or Refused(f"job {result.job}: refused")
    return result.state


def framed(request: Request, request_id: int) -> bytes:
    """Return a request as it is sent, under its number.

    Raises:
        Refused: it is too long, or holds text that is not UTF-8: both are in what the caller asked for.
    """
    try:
        return frame(encode(replace(request, id=request_id)))
    except ProtocolError as error:
        raise Refused(f"the request cannot be sent: {error}") from error
