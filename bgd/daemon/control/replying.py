"""Replying: how whoever answers a request reaches the client that sent it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bgd.wire.replies import Reply


class Replies(Protocol):
    """Where replies go: the connection.

    A reply is sent; one of many is sent in step with the client's reading. What is large is read and sent
    in turn: of all requests of a client one at a time holds such a thing, and none while it does not read.
    """

    def send(self, reply: Reply) -> None: ...
    async def send_in_step(self, reply: Reply) -> None: ...
    def in_turn(self) -> AbstractAsyncContextManager[None]: ...
