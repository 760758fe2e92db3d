"""Answer requests for pages: the list of jobs, a job, and the log of an attempt; all is read from disk."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from enum import Enum
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.job import FINAL, JobId, State
from bgd.daemon.logs import LogReader, expected_log_bytes
from bgd.daemon.storage import read
from bgd.daemon.storage.store import Store
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.auth import Authenticator, Endpoints
from bgd.daemon.web.live import EVENT_STREAM, LiveViews, LogText, Part, Snapshot, follow_log
from bgd.daemon.web.terminal import palette
from bgd.daemon.web.views import (
    AttemptDetails,
    JobRow,
    LogTail,
    RunningTime,
    attempt_details,
    job_details,
    job_row,
    read_tail,
    stream_log,
)
from bgd.formatting import attempt_as_json, job_as_json
from bgd.wire.http import HTML, JSON, SAFE_METHODS, TEXT, HttpRequest, HttpResponse, RequestRefused, refusal
from bgd.wire.requests import DEFAULT_LIST, List
from bgd.wire.views import AttemptView, JobView


class Router:
    """Finds the page for a path, and checks that the browser may see it.

    Paths are matched as they were sent: nothing is decoded or resolved. `is_ready` tells whether jobs can be
    started now.
    """

    def __init__(self, authenticator: Authenticator, pages: Pages, is_ready: Callable[[], bool]) -> None:
        self._authenticator = authenticator
        self._is_ready = is_ready
        self._static = {path.name: path.read_bytes() for path in _STATIC.iterdir()}
        self._static["palette.css"] = palette().encode()
        self._routes = [
            _Route(re.compile(path), access, answer)
            for path, access, answer in (
                ("/", _Access.ANYBODY, _answer_root),
                ("/healthz", _Access.ANYBODY, _answer_health),
                ("/readyz", _Access.ANYBODY, self._answer_readiness),
                (r"/static/([a-z.]{1,50})", _Access.ANYBODY, self._answer_static),
                (f"/login/{_TOKEN}", _Access.USER, self._answer_login),
                ("/job-logs", _Access.SESSION, pages.jobs),
                ("/job-logs/live", _Access.SESSION, pages.jobs_live),
                (f"/job-logs/{_ID}", _Access.SESSION, pages.job),
                (f"/job-logs/{_ID}/live", _Access.SESSION, pages.job_live),
                (f"/job-logs/{_ID}/{_ATTEMPT}", _Access.SESSION, pages.log),
                (f"/job-logs/{_ID}/{_ATTEMPT}/live", _Access.SESSION, pages.log_live),
            )
        ]

    async def answer(self, request: HttpRequest, endpoints: Endpoints | None) -> PageResponse:
        """Answer a request; `endpoints` are those of its connection, None for a unix socket."""
        try:
            self._authenticator.check_host(request)
            if request.method not in SAFE_METHODS:
                await self._refuse_change(request, endpoints)
            route, groups = self._find(request.path)
            await self._check(route.access, request, endpoints)
            return await route.answer(request, *groups)
        except RequestRefused as error:
            return await error_response(request, error)

    def _find(self, path: str) -> tuple[_Route, tuple[str, ...]]:
        for route in self._routes:
            if found := route.path.fullmatch(path):
                return route, found.groups()
        raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)

    async def _refuse_change(self, request: HttpRequest, endpoints: Endpoints | None) -> None:
        """Check who asks for a change, then refuse it: pages cannot change anything yet."""
        await self._check(_Access.SESSION, request, endpoints)
        self._authenticator.check_write(request)
        allowed = ("Allow", ", ".join(SAFE_METHODS))
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "Pages can only be read: GET and HEAD.", allowed)

    async def _check(self, access: _Access, request: HttpRequest, endpoints: Endpoints | None) -> None:
        if access is not _Access.ANYBODY:
            await self._authenticator.check_user(endpoints)
        if access is _Access.SESSION:
            self._authenticator.check_session(request)

    async def _answer_readiness(self, request: HttpRequest) -> PageResponse:
        del request
        if self._is_ready():
            return PageResponse(HttpResponse(body=b"ready\n"))
        return PageResponse(refusal(HTTPStatus.SERVICE_UNAVAILABLE, "no launcher answers yet: no job starts"))

    async def _answer_static(self, request: HttpRequest, name: str) -> PageResponse:
        del request
        if name not in self._static:
            raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)
        kind = _STATIC_TYPES[name.rpartition(".")[2]]
        return PageResponse(HttpResponse(content_type=kind, body=self._static[name]))

    async def _answer_login(self, request: HttpRequest, token: str) -> PageResponse:
        """Give the browser its cookie and a page that leads on.

        A redirect would not do: after a link on another site's page, a browser withholds a SameSite=Strict
        cookie from all redirects, but sends it when one of our own pages leads on.
        """
        if request.is_head:  # some programs look where a link leads before a person follows it
            return PageResponse(HttpResponse())
        logged_in = await self._authenticator.log_in(token, request)
        return await html_response(
            "login.html", {"token": logged_in.write_token}, headers=(logged_in.cookie,)
        )


class _Access(Enum):
    """Who may use a route."""

    ANYBODY = 0  # it says nothing about any job
    USER = 1  # users of this machine whom the daemon serves
    SESSION = 2  # such users who have logged in


class _Route(Struct, frozen=True):
    path: re.Pattern[str]
    access: _Access
    answer: Callable[..., Awaitable[PageResponse]]  # takes the request and the groups of the path


NO_PAGE = "There is no such page."
_ID = "([1-9][0-9]{0,17})"
_ATTEMPT = "([1-9][0-9]{0,8})"
_TOKEN = "([A-Za-z0-9_-]{1,100})"  # noqa: S105 - a pattern for tokens
_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


async def _answer_root(request: HttpRequest) -> PageResponse:
    del request
    return PageResponse(HttpResponse(status=HTTPStatus.SEE_OTHER, headers=(("Location", "/job-logs"),)))


async def _answer_health(request: HttpRequest) -> PageResponse:
    del request
    return PageResponse(HttpResponse(body=b"ok\n"))


# --- The pages


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
        self._views = LiveViews(tasks)

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

        return _stream(
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
        job_id = JobId((await self._view(job)).id)

        async def build() -> Snapshot:
            version = self._store.position
            return self._job_snapshot(version, *await self._job(job, None))

        def subscribe() -> AbstractContextManager[Subscription]:
            return self._supervisor.subscriptions.subscribe([job_id], progress=True)

        return _stream(
            self._views.updates(f"/job-logs/{job}", build, subscribe, live_query(request.query).since)
        )

    async def log(self, request: HttpRequest, job: str, attempt: str) -> PageResponse:
        """Return the raw log of one attempt."""
        query = log_query(request.query)
        view = await self._view(job)
        if int(attempt) > view.attempt:
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"Job {view.id} has no attempt {attempt}.")
        name = f'attachment; filename="bgd-{view.id}.{attempt}.log"'
        headers = (("Content-Disposition", name),) if query.download else ()
        found = await self._store.read(read.attempts_of, JobId(view.id), int(attempt) - 1, 1)
        written = expected_log_bytes(found[0]) if found and found[0].attempt == int(attempt) else 0
        chunks = stream_log(LogReader(self._log_dir, view.id, int(attempt)), query.tail, written)
        return PageResponse(HttpResponse(content_type=TEXT, body=None, headers=headers), chunks)

    async def log_live(self, request: HttpRequest, job: str, attempt: str) -> PageResponse:
        """Return the stream of the output of one attempt, from an offset on."""
        query = live_query(request.query)
        job_id, number = JobId((await self._view(job)).id), int(attempt)
        log = LogReader(self._log_dir, job_id, number)

        async def has_ended() -> bool:
            found = await self._store.read(read.attempts_of, job_id, number - 1, 1)
            return not found or found[0].attempt != number or found[0].outcome is not None

        return _stream(
            follow_log(
                LogText(log, query.at, query.style), self._supervisor.subscribe_to_log(job_id), has_ended
            )
        )

    async def _list(self, query: List) -> tuple[list[JobRow], dict[str, int]]:
        rows: list[JobRow] = []
        async with aclosing(self._batches(query)) as batches:
            async for views in batches:
                rows += await asyncio.to_thread(_rows, views)
        return rows, await self._store.read(read.counts)

    async def _job(self, job: str, before: int | None) -> tuple[JobView, str | None, list[AttemptView]]:
        """Return a job, its result, and its attempts before a number, oldest first."""
        view = await self._view(job)
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

    async def _view(self, job: str) -> JobView:
        view = await self._store.read(read.view, JobId(int(job)))
        if view is None:
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no job {job}.")
        return view

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
            "attempts": [self._attempt(view, each) for each in reversed(attempts)],
        }

    def _attempt(self, view: JobView, attempt: AttemptView) -> AttemptDetails:
        return attempt_details(attempt, self._tail(view, attempt), time.time())

    def _job_snapshot(
        self, version: int, view: JobView, result: str | None, attempts: list[AttemptView]
    ) -> Snapshot:
        def summary() -> str:
            return _render("summary.html", {"job": job_details(view, result, time.time())})

        def never() -> str:
            return _render("never.html", {"job": job_details(view, None, time.time()), "attempts": attempts})

        def section(attempt: AttemptView, template: str) -> str:
            return _render(template, {"id": view.id, "attempt": self._attempt(view, attempt)})

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


def _rows(views: list[JobView]) -> list[JobRow]:
    now = time.time()
    return [job_row(view, now) for view in views]


def _live_values(live: str | None, version: int) -> dict[str, object]:
    """Return what a page needs to be kept up to date; without an address it is not."""
    return {"live": live, "version": version, "now": time.time()}


def _list_snapshot(query: List, version: int, rows: list[JobRow], counts: dict[str, int]) -> Snapshot:
    values = _list_values(query, rows, counts)
    parts = {
        "tabs": Part(counts, partial(_render, "tabs.html", values)),
        "empty": Part((not rows, not counts), partial(_render, "empty.html", values)),
    }
    for row in rows:
        # what a page counts on by itself is not a change
        lasting = replace(row, waited="", submitted=None)
        if row.ran.since is not None:
            lasting = replace(lasting, ran=RunningTime("", row.ran.since))
        parts[f"job-{row.id}"] = Part(lasting, partial(_render, "row.html", {"row": row}))
    return Snapshot(version, parts, [f"job-{row.id}" for row in rows])


def _list_values(query: List, rows: list[JobRow], counts: dict[str, int]) -> dict[str, object]:
    """Return the values for the list's page."""
    chosen = query.states if query.states is not None and set(query.states) != set(State) else []
    return {
        "rows": rows,
        "has_rows": bool(rows),
        "query": query,
        "chosen": chosen,
        "total": sum(counts.values()),
        "tabs": [
            (state.value, counts.get(state, 0), list_url(query, state=[state], before=None))
            for state in State
        ],
        "all": list_url(query, state=[], before=None),
        "newest": list_url(query, before=None) if query.before is not None else None,
        "older": list_url(query, before=rows[-1].id) if len(rows) == query.limit else None,
    }


# --- Queries: what follows the question mark of an address, and how to write it


MAX_ROWS = 200  # jobs on a page
_MAX_FIELDS = 20
_MAX_QUOTED = 40  # characters of a refused value
_SINGLE_FIELDS = ("queue", "name", "tag", "before", "limit")


class LogQuery(Struct, frozen=True):
    """What to show of a log; `tail` is a number of bytes at its end."""

    tail: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    download: bool = False


class JobQuery(Struct, frozen=True):
    """Which attempts to show; only those with a number below `before`."""

    before: Annotated[int, Meta(ge=1, le=2**31)] | None = None


class LiveQuery(Struct, frozen=True):
    """What an open page has: its version, and of a log where its open line begins and in which style."""

    since: Annotated[int, Meta(ge=0, le=2**62)] = 0
    at: Annotated[int, Meta(ge=0, le=2**62)] = 0
    style: Annotated[str, Meta(max_length=100)] = ""


def list_query(text: str) -> List:
    """Return which jobs are asked for; those of all states if the address names none."""
    fields = _parse_fields(text)
    states = fields.pop("state", None) or list(State)
    if unknown := [state for state in states if state not in set(State)]:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            f"There is no state {unknown[0][:_MAX_QUOTED]!r}. States are {', '.join(State)}.",
        )
    named = {name: values[-1] for name, values in fields.items() if name in _SINGLE_FIELDS}
    query = _convert({"id": 0, "states": states, "limit": DEFAULT_LIST, **named}, List)
    return msgspec.structs.replace(query, limit=min(query.limit, MAX_ROWS))


def log_query(text: str) -> LogQuery:
    return _convert({name: values[-1] for name, values in _parse_fields(text).items()}, LogQuery)


def job_query(text: str) -> JobQuery:
    return _convert({name: values[-1] for name, values in _parse_fields(text).items()}, JobQuery)


def live_query(text: str) -> LiveQuery:
    return _convert({name: values[-1] for name, values in _parse_fields(text).items()}, LiveQuery)


def list_url(query: List, path: str = "", **changes: object) -> str:
    """Return the address of the list for a query, or of a path below it, with some of its fields changed."""
    fields: dict[str, object] = {name: getattr(query, name) for name in _SINGLE_FIELDS}
    if query.limit == DEFAULT_LIST:
        del fields["limit"]
    fields["state"] = [] if set(query.states or ()) == set(State) else query.states
    fields |= changes
    text = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
    return f"/job-logs{path}?{text}" if text else f"/job-logs{path}"


T = TypeVar("T")


def _parse_fields(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, errors="replace", max_num_fields=_MAX_FIELDS)  # leaves out empty ones
    except ValueError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"There are more than {_MAX_FIELDS} fields.") from error


def _convert(fields: dict[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST, f"This address has a value of {_bad_field(error)!r} that cannot be used."
        ) from error


def _bad_field(error: msgspec.ValidationError) -> str:
    """Return the field that an error names at its end: "... - at `$.limit`"."""
    return str(error).rpartition("$.")[2].rstrip("`").partition("[")[0]


# --- Responses: a page, its JSON, or why there is none, in the form that was asked for


class PageResponse(Struct, frozen=True):
    """What is sent to a browser. Without a body `chunks` yields it, for up to half an hour if `is_stream`."""

    response: HttpResponse
    chunks: AsyncGenerator[bytes, None] | None = None
    is_stream: bool = False


def wants_json(request: HttpRequest) -> bool:
    """Tell whether the client asks for JSON instead of a page."""
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
    text = await asyncio.to_thread(_render, template, values)
    body = text.encode(errors="replace")
    return PageResponse(HttpResponse(status=status, content_type=HTML, body=body, headers=headers))


async def error_response(request: HttpRequest, error: RequestRefused) -> PageResponse:
    """Return why a request is refused, as a page or as JSON."""
    status, headers = error.response.status, error.response.headers
    if wants_json(request):
        body = encode_json({"error": str(error)})
        return PageResponse(HttpResponse(status=status, content_type=JSON, body=body, headers=headers))
    needs_login = status is HTTPStatus.UNAUTHORIZED
    values: dict[str, object] = {"title": status.phrase, "message": str(error), "needs_login": needs_login}
    return await html_response("refused.html", values, status=status, headers=headers)


def encode_json(value: object) -> bytes:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"


def _stream(events: AsyncGenerator[bytes, None]) -> PageResponse:
    return PageResponse(HttpResponse(content_type=EVENT_STREAM, body=None), events, is_stream=True)


def _render(template: str, values: dict[str, object]) -> str:
    # imported late: a daemon whose pages nobody looks at saves some megabytes
    from bgd.daemon.web.rendering import render  # noqa: PLC0415

    return render(template, values)
