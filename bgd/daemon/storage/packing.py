"""What one column of the database holds of a structured value: retry policies, and what a job waits for."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from bgd.core.job import JobId, RetryPolicy, Terms

Waits = tuple[tuple[JobId, ...], tuple[JobId, ...]]  # Terms.after and Terms.after_any

NO_WAITS: Waits = ((), ())

_MOST_POLICIES = 1024

_encode = msgspec.msgpack.Encoder().encode
_decode_policy = msgspec.msgpack.Decoder(RetryPolicy).decode
_decode_waits = msgspec.msgpack.Decoder(Waits).decode


@lru_cache(_MOST_POLICIES)
def pack_policy(policy: RetryPolicy) -> bytes:
    return _encode(policy)


@lru_cache(_MOST_POLICIES)
def unpack_policy(packed: bytes) -> RetryPolicy:
    """Return the policy; of equal ones the same object, which a million jobs may share."""
    return _decode_policy(packed)


def pack_waits(terms: Terms) -> bytes | None:
    """Return what the job waits for, None where that is nothing."""
    return _encode((terms.after, terms.after_any)) if terms.after or terms.after_any else None


def unpack_waits(packed: bytes | None) -> Waits:
    return NO_WAITS if packed is None else _decode_waits(packed)
