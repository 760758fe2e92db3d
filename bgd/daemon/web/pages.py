"""Answer requests for pages: the list of jobs, and a job; all is read from disk."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from functools import partial
from http import HTTPStatus

from msgspec.structs import replace

from bgd.core.job import FINAL, JobId, State
from bgd.daemon.logs import LogReader
from bgd.daemon.storage import read
from bgd.daemon.storage.store import Store, StoreReader
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.actions import VERBS, offered
from bgd.daemon.web.live import LiveViews, Part, Snapshot
from bgd.daemon.web.queries import job_query, list_query, list_url, live_query
from bgd.daemon.web.responses import (
    PageResponse,
    encode_json,
    event_stream,
    html_response,
    json_response,
    render_part,
    wants_json,
)
from bgd.daemon.web.views import (
    AttemptDetails,
    JobRow,
    LogTail,
    RunningTime,
    attempt_details,
    job_details,
    job_row,
    read_tail,
)
from bgd.formatting import attempt_as_json, job_as_json
from bgd.wire.http import JSON, HttpRequest, HttpResponse, RequestRefused
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, JobView

ATTEMPTS_ON_A_PAGE = 20
JOB_BATCH = 25  # jobs that are read from the store at a time

LATEST_LOG = 64 * 1024  # bytes of a log on the job's page
EARLIER_LOG = 4 * 1024


class Pages:
    """The pages. They ask the Supervisor only what has changed: what is not on disk is not shown."""

    def __init__(self, supervisor: Supervisor, store: Store, tasks: asyncio.TaskGroup) -> None:
        self._supervisor = supervisor
        self._store = store
        self._log_dir = supervisor.config.log_dir
        self._views = LiveViews(tasks, lambda: store.position)

    async def jobs(self, request: HttpRequest) -> PageResponse:
        """Return the list of jobs."""
        query = list_query(request.query)
        if wants_json(request):
            return PageResponse(HttpResponse(content_type=JSON, body=None), self._list_as_json(query))
        version = self._store.position
        rows, counts = await self._list(query)
        values = _list_values(query, rows, counts)
        return await html_response("jobs.html", values | _live_values(list_url(query, path="/live"), version))

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

    async def job(self, request: HttpRequest, job: str) -> PageResponse:
        """Return one job with up to ATTEMPTS_ON_A_PAGE of its attempts."""
        version = self._store.position
        before = job_query(request.query).before
        view, result, attempts = await self._job(job, before)
        if wants_json(request):
            return await json_response(self._as_json(view, result, attempts))
        values = await asyncio.to_thread(self._job_values, view, result, attempts)
        first = attempts[0].attempt if attempts else 1
        values["before"] = first if first > 1 else None
        live = f"/job-logs/{view.id}/live" if before is None else None
        return await html_response("job.html", values | _live_values(live, version))

    async def job_live(self, request: HttpRequest, job: str) -> PageResponse:
        """Return the stream of changes of a job, without its output."""
        job_id = JobId((await find_job(self._store, job)).id)

        async def build() -> Snapshot:
            version = self._store.position
            return self._job_snapshot(version, *await self._job(job, None))

        def subscribe() -> AbstractContextManager[Subscription]:
            return self._supervisor.subscriptions.subscribe([job_id], progress=True)

        return event_stream(
            self._views.updates(f"/job-logs/{job}", build, subscribe, live_query(request.query).since)
        )

    async def _list(self, query: List) -> tuple[list[JobRow], dict[str, int]]:
        rows: list[JobRow] = []
        async with aclosing(self._batches(query)) as batches:
            async for views in batches:
                rows += await asyncio.to_thread(_rows, views)
        return rows, await self._store.read(read.counts)

    async def _job(self, job: str, before: int | None) -> tuple[JobView, str | None, list[AttemptView]]:
        """Return a job, its result, and its attempts before a number, oldest first."""
        view = await find_job(self._store, job)
        end = before or view.attempt + 1
        after = max(end - 1 - ATTEMPTS_ON_A_PAGE, 0)
        attempts = await self._store.read(
            read.attempts_of, JobId(view.id), after, min(end - 1, ATTEMPTS_ON_A_PAGE)
        )
        if view.state is not State.SUCCEEDED:
            return view, None, attempts
        result, _ = await self._store.read(read.result_of, JobId(view.id))
        return view, result, attempts

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

    def _as_json(self, view: JobView, result: str | None, attempts: list[AttemptView]) -> dict[str, object]:
        located = [replace(each, log_path=f"{self._log_dir}/{each.log_path}") for each in attempts]
        return job_as_json(view) | {
            "result": None if result is None else json.loads(result),
            "attempts": [attempt_as_json(each) for each in located],
        }

    def _job_values(
        self, view: JobView, result: str | None, attempts: list[AttemptView]
    ) -> dict[str, object]:
        """Return the values for the job's page. Reads log files."""
        return {
            "id": view.id,
            "job": job_details(view, result, time.time()),
            "actions": offered(view),
            "attempts": [self._attempt(view, each) for each in reversed(attempts)],
        }

    def _attempt(self, view: JobView, attempt: AttemptView) -> AttemptDetails:
        return attempt_details(attempt, self._tail(view, attempt), time.time())

    def _job_snapshot(
        self, version: int, view: JobView, result: str | None, attempts: list[AttemptView]
    ) -> Snapshot:
        def summary() -> str:
            job = job_details(view, result, time.time())
            return render_part("summary.html", {"job": job, "actions": offered(view)})

        def never() -> str:
            job = job_details(view, None, time.time())
            return render_part("never.html", {"job": job, "attempts": attempts})

        def section(attempt: AttemptView, template: str) -> str:
            return render_part(template, {"id": view.id, "attempt": self._attempt(view, attempt)})

        parts = {
            "summary": Part(replace(view, run_seconds=None, waited_seconds=None), summary),
            "never": Part((not attempts, view.state in FINAL), never),
        }
        for each in attempts:
            name = f"attempt-{each.attempt}"
            parts[name] = Part(None, partial(section, each, "attempt.html"))
            parts[f"{name}-head"] = Part(
                each if each.outcome else replace(each, run_seconds=None, log_bytes=None),
                partial(section, each, "attempt_head.html"),
            )
        return Snapshot(version, parts, [f"attempt-{each.attempt}" for each in reversed(attempts)])

    def _tail(self, view: JobView, attempt: AttemptView) -> LogTail:
        most = LATEST_LOG if attempt.attempt == view.attempt else EARLIER_LOG
        return read_tail(LogReader(self._log_dir, view.id, attempt.attempt), most)


async def find_job(store: StoreReader, job: str) -> JobView:
    """Return the job that an address names."""
    view = await store.read(read.view, JobId(int(job)))
    if view is None:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no job {job}.")
    return view


def _rows(views: list[JobView]) -> list[JobRow]:
    now = time.time()
    return [job_row(view, now) for view in views]


def _live_values(live: str | None, version: int) -> dict[str, object]:
    """Return what a page needs to be kept up to date; without an address it is not."""
    return {"live": live, "version": version, "now": time.time()}


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
