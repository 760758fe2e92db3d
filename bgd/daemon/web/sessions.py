"""Sessions: who has logged in. A link that works once gives a cookie that works for some hours."""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from hashlib import sha256

from msgspec import Struct

LINK_SECONDS = 60.0
SESSION_SECONDS = 8 * 3600.0
MAX_KEPT = 100  # links, and sessions; the oldest falls out

_BYTES = 32  # 256 bits of chance


class Sessions:
    """Links that were given out and nobody has used, and the sessions of those that were used.

    Instants are of the elapsed clock. Only hashes are kept: what can be read here opens no door.
    """

    def __init__(self) -> None:
        self._links = _Secrets(LINK_SECONDS)
        self._sessions = _Secrets(SESSION_SECONDS)

    def invite(self, uid: int, at: float) -> str:
        """Return a token that logs this user in, once."""
        return self._links.make(uid, at)

    def log_in(self, token: str, at: float) -> str | None:
        """Use a token up; return the new session's secret, None if there was no such token."""
        uid = self._links.take(token, at)
        return None if uid is None else self._sessions.make(uid, at)

    def uid_of(self, secret: str, at: float) -> int | None:
        """Return whose session this is, None if it is none, or no longer."""
        return self._sessions.uid_of(secret, at)


class _Kept(Struct, frozen=True):
    digest: bytes
    uid: int
    until: float


class _Secrets:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: deque[_Kept] = deque(maxlen=MAX_KEPT)

    def make(self, uid: int, at: float) -> str:
        secret = secrets.token_urlsafe(_BYTES)
        self._kept.append(_Kept(_digest(secret), uid, at + self._seconds))
        return secret

    def uid_of(self, secret: str, at: float) -> int | None:
        found = self._find(secret, at)
        return None if found is None else found.uid

    def take(self, secret: str, at: float) -> int | None:
        found = self._find(secret, at)
        if found is None:
            return None
        self._kept.remove(found)
        return found.uid

    def _find(self, secret: str, at: float) -> _Kept | None:
        digest = _digest(secret)
        # all of them are compared, so that the time tells nothing of where one stands
        found = [kept for kept in self._kept if hmac.compare_digest(kept.digest, digest)]
        return found[0] if found and at < found[0].until else None


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
