"""Seal what an open page is sent, so that it takes nothing from a server that has the port after this one.

Each page has a key, which it never sends. It asks with its name and a nonce. The seal is an HMAC of the
nonce, a number that counts up from 0, and what is sent: no answer can be made up, repeated or reordered.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets

from msgspec.structs import replace

from bgd.daemon.web.responses import PageResponse
from bgd.wire.http import HttpRequest

_ASKS = re.compile(r"(?:(.*)&)?page=([\w-]{22})&nonce=([0-9a-f]{32})(?:&shared=([0-9a-f]{32}))?", re.ASCII)
_PAGE_BYTES = 16
_BEFORE, _BEHIND = b"data: ", b"\n\n"  # the bytes of an event around its data


class Seals:
    """The keys of all pages, made of one secret; with the same secret the next daemon goes on."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new_page(self) -> dict[str, str]:
        """Return the name of a new page and its key, as base.html needs them."""
        page = secrets.token_urlsafe(_PAGE_BYTES)
        return {"page": page, "key": base64.b64encode(self._key_of(page)).decode()}

    def take_from(self, request: HttpRequest) -> tuple[HttpRequest, Seal | None]:
        """Return a request without what a page adds to it, and the seal for the answer if a page asks."""
        if (asks := _ASKS.fullmatch(request.query)) is None:
            return request, None
        query, page, nonce, shared = asks.groups(default="")
        return replace(request, query=query), Seal(self._key_of(page), nonce, shared)

    def _key_of(self, page: str) -> bytes:
        return hmac.digest(self._secret, page.encode(), "sha256")


class Seal:
    """The seals of one answer: its body, or each of its events in turn.

    Attributes:
        nonce: that of the request.
        shared: the name of the connection over which the events go; see bgd.daemon.web.shared_stream.
    """

    def __init__(self, key: bytes, nonce: str, shared: str) -> None:
        self._key = key
        self.nonce = nonce
        self.shared = shared
        self._count = 0

    def put_on(self, answer: PageResponse) -> PageResponse:
        """Return the answer with its seal in a header."""
        if (body := answer.response.body) is None:
            return answer
        headers = (*answer.response.headers, ("X-Bgd-Seal", self._next(body)))
        return replace(answer, response=replace(answer.response, headers=headers))

    def put_on_event(self, event: bytes) -> bytes:
        """Return an event with nonce and seal. Events must be sent in the order in which they are sealed."""
        data = event.removeprefix(_BEFORE).removesuffix(_BEHIND)
        return f"id: {self.nonce} {self._next(data)}\n".encode() + event

    def end_of_events(self) -> bytes:
        """Return the event that ends a stream. It needs no seal: a forged one only cuts a page off."""
        return f"id: {self.nonce}\n".encode() + _BEFORE + b"null" + _BEHIND

    def _next(self, data: bytes) -> str:
        sealed = f"{self.nonce}\n{self._count}\n".encode() + data
        self._count += 1
        return base64.b64encode(hmac.digest(self._key, sealed, "sha256")).decode()
