"""Answer programs that watch the daemon: whether it is alive and ready, and /metrics for Prometheus."""

from __future__ import annotations

import asyncio
import hmac
from http import HTTPStatus
from types import ModuleType

from bgd.daemon.storage import summaries
from bgd.daemon.web.responses import PageResponse
from bgd.daemon.web.site import Site
from bgd.wire.http import HttpRequest, HttpResponse, refusal


async def health(site: Site, request: HttpRequest) -> PageResponse:
    """Say that the daemon is alive."""
    del site, request
    return PageResponse(HttpResponse(body=b"ok\n"))


async def readiness(site: Site, request: HttpRequest) -> PageResponse:
    """Say whether jobs can be started now. A pause is no obstacle: whoever paused the queues resumes them."""
    del request
    link = site.supervisor.link
    if link.starts_jobs:
        return PageResponse(HttpResponse(body=b"ready\n"))
    reason = link.obstacle or "no launcher answers yet"
    return PageResponse(refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}: no job starts"))


async def metrics(site: Site, request: HttpRequest) -> PageResponse:
    """Return all metrics as text, for a token of their own, and for nothing else.

    A monitor may run as another user of this machine, and no browser sends the token by itself.
    """
    token = site.supervisor.config.http.metrics_token
    if not token:
        refused = 'set [http] metrics_token, and send it as "Authorization: Bearer TOKEN", to get metrics'
        return PageResponse(refusal(HTTPStatus.FORBIDDEN, refused))
    sent = request.headers.get("authorization", "").encode()
    if not hmac.compare_digest(sent, f"Bearer {token}".encode()):
        challenge = ("WWW-Authenticate", 'Bearer realm="bgd metrics"')
        refused = 'send [http] metrics_token as "Authorization: Bearer TOKEN"'
        return PageResponse(refusal(HTTPStatus.UNAUTHORIZED, refused, challenge))
    figures = await site.store.read(summaries.figures)
    # imported late: most daemons are never asked
    text = await asyncio.to_thread(_import_metrics)
    families = text.collect(site.supervisor, site.schedules, figures)
    body = await asyncio.to_thread(text.as_text, families, site.supervisor.config.daemon.state_dir)
    return PageResponse(HttpResponse(content_type=text.CONTENT_TYPE, body=body))


def _import_metrics() -> ModuleType:
    from bgd.daemon.web import metrics  # noqa: PLC0415 - takes some 30 ms

    return metrics
