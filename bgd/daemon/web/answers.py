"""Answers: a page, its JSON, or why there is none; in the form that was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from http import HTTPStatus

from msgspec import Struct

from bgd.wire.http import HTML, JSON, Request, RequestRefused, Response


class Answer(Struct, frozen=True):
    """What is sent. `rest`: the body in parts, if the response has none."""

    response: Response
    rest: AsyncGenerator[bytes, None] | None = None


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def json_text(value: object) -> Answer:
    body = await asyncio.to_thread(encoded, value)
    return Answer(Response(content_type=JSON, body=body))


async def page(
    template: str,
    values: dict[str, object],
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """Return a page of a template."""
    body = await asyncio.to_thread(_rendered, template, values)
    return Answer(Response(status=status, content_type=HTML, body=body, headers=headers))


async def refused(request: Request, error: RequestRefused) -> Answer:
    status, headers = error.response.status, error.response.headers
    if wants_json(request):
        body = encoded({"error": str(error)})
        return Answer(Response(status=status, content_type=JSON, body=body, headers=headers))
    needs_login = status is HTTPStatus.UNAUTHORIZED
    values: dict[str, object] = {"title": status.phrase, "message": str(error), "needs_login": needs_login}
    return await page("refused.html", values, status=status, headers=headers)


def encoded(value: object) -> bytes:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"


def _rendered(template: str, values: dict[str, object]) -> bytes:
    # a daemon whose pages nobody looks at does without the templates' machinery, and some megabytes
    from bgd.daemon.web.rendering import render  # noqa: PLC0415

    return render(template, values)
