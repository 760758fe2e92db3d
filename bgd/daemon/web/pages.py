"""Pages: the list of jobs, one job, and one attempt's log, read from the store and the log files."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus

from msgspec.structs import replace

from bgd.core.job import JobId, State
from bgd.daemon.logfiles import LogFile, written_by
from bgd.daemon.storage.store import Readings
from bgd.daemon.web.answers import Answer, encoded, json_text, page, wants_json
from bgd.daemon.web.queries import address_of, job_query, list_query, log_query
from bgd.daemon.web.sheets import Row, attempt_sheet_of, row_of, sheet_of
from bgd.daemon.web.tails import Tail, pieces_of, tail_of
from bgd.wire.http import JSON, TEXT, Request, RequestRefused, Response
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, JobView
from bgd.words import attempt_as_json, job_as_json

ATTEMPTS_ON_A_PAGE = 20
JOBS_AT_ONCE = 25  # read from the store
LATEST_TAIL = 64 * 1024  # bytes of a log on the job's page
EARLIER_TAIL = 4 * 1024


class Pages:
    """Answers what an entrance has let in. Never asks the Supervisor: what is not on disk is not shown."""

    def __init__(self, store: Readings, log_dir: str) -> None:
        self._store = store
        self._log_dir = log_dir

    async def jobs(self, request: Request) -> Answer:
        query = list_query(request.query)
        if wants_json(request):
            return Answer(Response(content_type=JSON, body=None), self._list_as_json(query))
        rows: list[Row] = []
        async with aclosing(self._portions(query)) as portions:
            async for views in portions:
                rows += await asyncio.to_thread(_rows, views)
        return await page("jobs.html", _list(query, rows, await self._store.counts()))

    async def job(self, request: Request, job: str) -> Answer:
        view = await self._view(job)
        before = job_query(request.query).before or view.attempt + 1
        after = max(before - 1 - ATTEMPTS_ON_A_PAGE, 0)
        attempts = await self._store.attempts(JobId(view.id), after, min(before - 1, ATTEMPTS_ON_A_PAGE))
        result, _ = (
            await self._store.result(JobId(view.id)) if view.state is State.SUCCEEDED else (None, None)
        )
        if wants_json(request):
            return await json_text(self._as_json(view, result, attempts))
        values = await asyncio.to_thread(self._sheets, view, result, attempts)
        return await page("job.html", values | {"before": after + 1 if after else None})

    async def log(self, request: Request, job: str, attempt: str) -> Answer:
        query = log_query(request.query)
        view = await self._view(job)
        if int(attempt) > view.attempt:
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"Job {view.id} has no attempt {attempt}.")
        name = f'attachment; filename="bgd-{view.id}.{attempt}.log"'
        headers = (("Content-Disposition", name),) if query.download else ()
        found = await self._store.attempts(JobId(view.id), int(attempt) - 1, 1)
        written = written_by(found[0]) if found and found[0].attempt == int(attempt) else 0
        pieces = pieces_of(LogFile(self._log_dir, view.id, int(attempt)), query.tail, written)
        return Answer(Response(content_type=TEXT, body=None, headers=headers), pieces)

    async def _portions(self, query: List) -> AsyncGenerator[list[JobView], None]:
        """Yield the jobs of a list, a few at a time: each may have a million bytes of arguments."""
        left = query.limit
        while left:
            asked = min(left, JOBS_AT_ONCE)
            views = await self._store.list(replace(query, limit=asked), None)
            if views:
                yield views
                query = replace(query, before=views[-1].id)
            left = left - asked if len(views) == asked else 0

    async def _list_as_json(self, query: List) -> AsyncGenerator[bytes, None]:
        separator = b"["
        async with aclosing(self._portions(query)) as portions:
            async for views in portions:
                for view in views:
                    yield separator + await asyncio.to_thread(encoded, job_as_json(view))
                    separator = b","
        yield b"]\n" if separator == b"," else b"[]\n"

    async def _view(self, job: str) -> JobView:
        view = await self._store.view(JobId(int(job)))
        if view is None:
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no job {job}.")
        return view

    def _as_json(self, view: JobView, result: str | None, attempts: list[AttemptView]) -> dict[str, object]:
        located = [replace(each, log_path=f"{self._log_dir}/{each.log_path}") for each in attempts]
        return job_as_json(view) | {
            "result": None if result is None else json.loads(result),
            "attempts": [attempt_as_json(each) for each in located],
        }

    def _sheets(self, view: JobView, result: str | None, attempts: list[AttemptView]) -> dict[str, object]:
        """Return the values of the job's page, the latest attempt first. Reads files."""
        now = time.time()
        sheets = [attempt_sheet_of(each, self._tail(view, each), now) for each in reversed(attempts)]
        return {"job": sheet_of(view, result, now), "attempts": sheets}

    def _tail(self, view: JobView, attempt: AttemptView) -> Tail:
        most = LATEST_TAIL if attempt.attempt == view.attempt else EARLIER_TAIL
        return tail_of(LogFile(self._log_dir, view.id, attempt.attempt), most)


def _rows(views: list[JobView]) -> list[Row]:
    now = time.time()
    return [row_of(view, now) for view in views]


def _list(query: List, rows: list[Row], counts: dict[str, int]) -> dict[str, object]:
    """Return the values of the list's page."""
    chosen = query.states if query.states is not None and set(query.states) != set(State) else []
    return {
        "rows": rows,
        "query": query,
        "chosen": chosen,
        "total": sum(counts.values()),
        "tabs": [
            (state.value, counts.get(state, 0), address_of(query, state=[state], before=None))
            for state in State
        ],
        "all": address_of(query, state=[], before=None),
        "newest": address_of(query, before=None) if query.before is not None else None,
        "older": address_of(query, before=rows[-1].id) if len(rows) == query.limit else None,
    }
