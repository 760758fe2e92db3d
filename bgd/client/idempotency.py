"""Idempotency: a request for new jobs carries a token, so that the daemon knows it if it is sent again."""

from __future__ import annotations

import os
import time
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

from bgd.client.session import Broken

REPEATED_WITHIN = 300.0  # seconds: a daemon knows requests for twice that time
_TOKEN_BYTES = 16  # two of them are never alike


class Mark(Struct, frozen=True):
    """`token` and `again` as of `bgd.wire.requests.Submit`."""

    token: bytes | UnsetType = UNSET
    again: int | UnsetType = UNSET


NO_MARK = Mark()


class Frames(Protocol):
    """Makes the frames of a request, given its id."""

    def __call__(self, request_id: int, *, mark: Mark) -> bytes: ...


class Marks:
    """The marks of one request, over all connections that it is sent over.

    `has_keys`: all of its jobs have, so even a daemon that does not recognise it takes none twice.
    """

    def __init__(self, *, has_keys: bool) -> None:
        self._has_keys = has_keys
        self._first = NO_MARK
        self._known: int | None = None  # the newest job when it was sent first
        self._sent_at = 0.0
        self.lost: Broken | None = None  # how its first answer was lost, None: it was surely not taken yet

    @property
    def are_recognised(self) -> bool:
        """Whether the request may be sent again although it may have been taken."""
        is_soon = time.monotonic() < self._sent_at + REPEATED_WITHIN
        return self._has_keys or (self._known is not None and is_soon)

    def next(self, newest: int | None) -> Mark:
        """Return the mark for a daemon whose hello named its `newest` job; None: it recognises nothing.

        Raises:
            Broken: the request may have been taken, and this daemon would take it once more.
        """
        if self.lost is None:
            self._known, self._sent_at = newest, time.monotonic()
            self._first = NO_MARK if newest is None else Mark(os.urandom(_TOKEN_BYTES))
            return self._first
        if self._known is not None and newest is not None:
            return Mark(self._first.token, self._known)
        if self._has_keys:
            return NO_MARK
        self._known = None
        raise self.lost
