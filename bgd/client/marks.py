"""Marks: what a request for new jobs carries, so that a daemon knows it again when its answer was lost."""

from __future__ import annotations

import os
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

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


def first_mark(newest: int | None) -> Mark:
    """Return the mark of a request that is sent for the first time, to a daemon that told its `newest` job.

    None: it did not, as it knows no request again.
    """
    return NO_MARK if newest is None else Mark(os.urandom(_TOKEN_BYTES))


def next_mark(first: Mark, known: int | None, newest: int | None) -> Mark | None:
    """Return the mark of the same request when it is sent again; None: it would not be known again.

    `known`: the newest job when it was sent first; `newest`: as the daemon tells that it is to be sent to.
    """
    if first.token is UNSET or known is None or newest is None:
        return None
    return Mark(first.token, known)
