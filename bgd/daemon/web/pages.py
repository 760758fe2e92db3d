"""Answer requests for the list of jobs; all is read from disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from functools import partial
from http import HTTPStatus

from msgspec.structs import replace

from bgd.core.job import JobId, State
from bgd.daemon.storage import read
from bgd.daemon.storage.store import Store, StoreReader
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.actions import VERBS
from bgd.daemon.web.live import LiveViews, Part, Snapshot
from bgd.daemon.web.queries import list_query, list_url, live_query
from bgd.daemon.web.responses import (
    PageResponse,
    encode_json,
    event_stream,
    html_response,
    render_part,
    wants_json,
)
from bgd.daemon.web.views import (
    JobRow,
    RunningTime,
    job_row,
)
from bgd.formatting import job_as_json
from bgd.wire.http import JSON, HttpRequest, HttpResponse, RequestRefused
from bgd.wire.requests import List
from bgd.wire.views import JobView

JOB_BATCH = 25  # jobs that are read from the store at a time


class Pages:
    """The pages. They ask the Supervisor only what has changed: what is not on disk is not shown."""

    def __init__(self, supervisor: Supervisor, store: Store, views: LiveViews) -> None:
        self._supervisor = supervisor
        self._store = store
        self._views = views

    async def jobs(self, request: HttpRequest) -> PageResponse:
        """Return the list of jobs."""
        query = list_query(request.query)
        if wants_json(request):
            return PageResponse(HttpResponse(content_type=JSON, body=None), self._list_as_json(query))
        version = self._store.position
        rows, counts = await self._list(query)
        values = _list_values(query, rows, counts)
        return await html_response(
            "jobs.html", values | await self._views.values(list_url(query, path="/live"), version)
        )

    async def jobs_live(self, request: HttpRequest) -> PageResponse:
        """Return the stream of changes of a list."""
        query = list_query(request.query)

        async def build() -> Snapshot:
            version = self._store.position
            return _list_snapshot(query, version, *await self._list(query))

        def subscribe() -> AbstractContextManager[Subscription]:
            return self._supervisor.subscriptions.subscribe_to_all(progress=True)

        return event_stream(
            self._views.updates(list_url(query), build, subscribe, live_query(request.query).since)
        )

    async def _list(self, query: List) -> tuple[list[JobRow], dict[str, int]]:
        rows: list[JobRow] = []
        async with aclosing(self._batches(query)) as batches:
            async for views in batches:
                rows += await asyncio.to_thread(_rows, views)
        return rows, await self._store.read(read.counts)

    async def _batches(self, query: List) -> AsyncGenerator[list[JobView], None]:
        """Yield the jobs of a list, a few at a time: each may have a million bytes of arguments."""
        left = query.limit
        while left:
            asked = min(left, JOB_BATCH)
            views = await self._store.search(read.list_jobs, replace(query, limit=asked), None)
            if views:
                yield views
                query = replace(query, before=views[-1].id)
            left = left - asked if len(views) == asked else 0

    async def _list_as_json(self, query: List) -> AsyncGenerator[bytes, None]:
        separator = b"["
        async with aclosing(self._batches(query)) as batches:
            async for views in batches:
                for view in views:
                    yield separator + await asyncio.to_thread(encode_json, job_as_json(view))
                    separator = b","
        yield b"]\n" if separator == b"," else b"[]\n"


async def find_job(store: StoreReader, job: str) -> JobView:
    """Return the job that an address names."""
    view = await store.read(read.view, JobId(int(job)))
    if view is None:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no job {job}.")
    return view


def _rows(views: list[JobView]) -> list[JobRow]:
    now = time.time()
    return [job_row(view, now) for view in views]


def _list_snapshot(query: List, version: int, rows: list[JobRow], counts: dict[str, int]) -> Snapshot:
    values = _list_values(query, rows, counts)
    parts = {
        "tabs": Part(counts, partial(render_part, "tabs.html", values)),
        "empty": Part((not rows, not counts), partial(render_part, "empty.html", values)),
    }
    for row in rows:
        # what a page counts on by itself is not a change
        lasting = replace(row, waited="", submitted=None)
        if row.ran.since is not None:
            lasting = replace(lasting, ran=RunningTime("", row.ran.since))
        parts[f"job-{row.id}"] = Part(lasting, partial(render_part, "row.html", {"row": row}))
    return Snapshot(version, parts, [f"job-{row.id}" for row in rows])


def _list_values(query: List, rows: list[JobRow], counts: dict[str, int]) -> dict[str, object]:
    """Return the values for the list's page."""
    chosen = query.states if query.states is not None and set(query.states) != set(State) else []
    return {
        "rows": rows,
        "has_rows": bool(rows),
        "query": query,
        "chosen": chosen,
        "verbs": [(name, verb) for name, verb in VERBS.items() if verb.for_many],
        "filter": list_url(query, before=None).partition("?")[2],
        "total": sum(counts.values()),
        "tabs": [
            (state.value, counts.get(state, 0), list_url(query, state=[state], before=None))
            for state in State
        ],
        "all": list_url(query, state=[], before=None),
        "newest": list_url(query, before=None) if query.before is not None else None,
        "older": list_url(query, before=rows[-1].id) if len(rows) == query.limit else None,
    }
