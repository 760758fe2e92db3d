"""Responses: a page, its JSON, or why there is none, in the form that was asked for."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bgd.wire.http import HTML, JSON, HttpRequest, HttpResponse, RequestRefused

NOT_LOGGED_IN = "You are not logged in."
EVENT_STREAM = "text/event-stream; charset=utf-8"


class PageResponse(Struct, frozen=True):
    """What is sent to a browser. Without a body `chunks` yields it, for up to half an hour if `is_stream`."""

    response: HttpResponse
    chunks: AsyncGenerator[bytes, None] | None = None
    is_stream: bool = False


def wants_json(request: HttpRequest) -> bool:
    """Return whether the client asks for JSON instead of a page."""
    return "application/json" in request.headers.get("accept", "")


async def json_response(value: object) -> PageResponse:
    """Return a value as JSON."""
    body = await asyncio.to_thread(encode_json, value)
    return PageResponse(HttpResponse(content_type=JSON, body=body))


async def html_response(
    template: str,
    values: dict[str, object],
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: tuple[tuple[str, str], ...] = (),
) -> PageResponse:
    """Return a page, rendered from a template."""
    text = await asyncio.to_thread(render_part, template, values)
    body = text.encode(errors="replace")
    return PageResponse(HttpResponse(status=status, content_type=HTML, body=body, headers=headers))


async def error_response(request: HttpRequest, error: RequestRefused) -> PageResponse:
    """Return why a request is refused, as a page or as JSON."""
    status, headers = error.response.status, error.response.headers
    if wants_json(request):
        body = encode_json({"error": str(error)})
        return PageResponse(HttpResponse(status=status, content_type=JSON, body=body, headers=headers))
    values: dict[str, object] = {
        "title": status.phrase,
        "message": str(error),
        "needs_login": status is HTTPStatus.UNAUTHORIZED,
        "may_be_logged_in": str(error) == NOT_LOGGED_IN,
    }
    return await html_response("refused.html", values, status=status, headers=headers)


async def compressed(request: HttpRequest, answer: PageResponse) -> PageResponse:
    """Return the answer with its body compressed, if that saves something and the client can read it."""
    body = answer.response.body
    if body is None or len(body) < _MIN_COMPRESSED or not _accepts_gzip(request):
        return answer
    packed = await asyncio.to_thread(zlib.compress, body, _LEVEL, _GZIP)
    headers = (*answer.response.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return PageResponse(replace(answer.response, body=packed, headers=headers))


def _accepts_gzip(request: HttpRequest) -> bool:
    """Return whether an answer may be compressed.

    Not for a visit from another site: that may choose what is searched for, and learn from the length of the
    answer on the network what else is on the page (BREACH).
    """
    if request.headers.get("sec-fetch-site") == "cross-site":
        return False
    offers = request.headers.get("accept-encoding", "").lower().split(",")
    return "gzip" in [offer.strip() for offer in offers]  # what has a weight is left alone


_MIN_COMPRESSED = 1024  # bytes; the headers have about as many
_LEVEL = 5  # about a millisecond for a long list
_GZIP = 31  # the format, with the largest window


def encode_json(value: object) -> bytes:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"


def event_stream(events: AsyncGenerator[bytes, None]) -> PageResponse:
    """Return server-sent events."""
    head = HttpResponse(content_type=EVENT_STREAM, body=None)
    return PageResponse(head, events, is_stream=True)


def render_part(template: str, values: dict[str, object]) -> str:
    """Return HTML rendered from a template."""
    # imported late: a daemon whose pages are never opened saves some megabytes
    from bgd.daemon.web.rendering import render  # noqa: PLC0415

    return render(template, values, **_site)


def set_site(base: str, *, has_proxy_users: bool) -> None:
    """Say what all pages from now on have in common; see [http] base and user_header."""
    _site.update(base=base, has_proxy_users=has_proxy_users)


_site: dict[str, Any] = {"base": "", "has_proxy_users": False}  # one process serves one site
