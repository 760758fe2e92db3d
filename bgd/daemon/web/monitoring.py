"""Answer programs that watch the daemon: whether it is alive and ready, and /metrics for Prometheus."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from http import HTTPStatus
from types import ModuleType

from bgd.daemon.schedules import Schedules
from bgd.daemon.storage import summaries
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.responses import PageResponse
from bgd.wire.http import HttpRequest, HttpResponse, refusal


class Monitoring:
    """Answers monitors. /metrics asks for a token of its own, and for nothing else.

    A monitor may run as another user of this machine, and no browser sends the token by itself.

    Args:
        supervisor: what is in memory.
        store: what is on disk.
        schedules: which of them are late.
        is_ready: tells whether a launcher is connected, so that jobs can be started now.
    """

    def __init__(
        self, supervisor: Supervisor, store: StoreReader, schedules: Schedules, is_ready: Callable[[], bool]
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self._schedules = schedules
        self._is_ready = is_ready
        self._token = supervisor.config.http.metrics_token

    async def health(self, request: HttpRequest) -> PageResponse:
        """Say that the daemon is alive."""
        del request
        return PageResponse(HttpResponse(body=b"ok\n"))

    async def readiness(self, request: HttpRequest) -> PageResponse:
        """Say whether jobs can be started now."""
        del request
        if self._is_ready():
            return PageResponse(HttpResponse(body=b"ready\n"))
        return PageResponse(refusal(HTTPStatus.SERVICE_UNAVAILABLE, "no launcher answers yet: no job starts"))

    async def metrics(self, request: HttpRequest) -> PageResponse:
        """Return all metrics as text."""
        if (refused := self._refusal(request)) is not None:
            return PageResponse(refused)
        figures = await self._store.read(summaries.figures)
        # imported late: most daemons are never asked
        metrics = await asyncio.to_thread(_import_metrics)
        families = metrics.collect(self._supervisor, self._schedules, figures, is_ready=self._is_ready())
        body = await asyncio.to_thread(metrics.as_text, families, self._supervisor.config.daemon.state_dir)
        return PageResponse(HttpResponse(content_type=metrics.CONTENT_TYPE, body=body))

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        if not self._token:
            return refusal(
                HTTPStatus.FORBIDDEN,
                'set [http] metrics_token, and send it as "Authorization: Bearer TOKEN", to get metrics',
            )
        sent = request.headers.get("authorization", "").encode()
        if hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            return None
        return refusal(
            HTTPStatus.UNAUTHORIZED,
            'send [http] metrics_token as "Authorization: Bearer TOKEN"',
            ("WWW-Authenticate", 'Bearer realm="bgd metrics"'),
        )


def _import_metrics() -> ModuleType:
    from bgd.daemon.web import metrics  # noqa: PLC0415 - takes some 30 ms

    return metrics
