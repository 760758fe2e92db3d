"""Pages: the list of jobs, one job, and one attempt's log, read from the store and the log files."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.job import JobId, State
from bgd.daemon.logs import LogReader, expected_log_bytes
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.web.auth import Ends, Entrance
from bgd.daemon.web.views import Row, Tail, attempt_sheet_of, pieces_of, row_of, sheet_of, tail_of
from bgd.formatting import attempt_as_json, job_as_json
from bgd.wire.http import HTML, JSON, READING, TEXT, Request, RequestRefused, Response, refusal
from bgd.wire.requests import DEFAULT_LIST, List
from bgd.wire.views import AttemptView, JobView

# --- Answers: a page, its JSON, or why there is none; in the form that was asked for.


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


# --- Queries: what stands behind the question mark of an address, within its limits; and how to write it.


T = TypeVar("T")

MAX_ROWS = 200  # jobs on a page

_MAX_FIELDS = 20
_LONGEST_SHOWN = 40  # characters of a value that is refused


class LogQuery(Struct, frozen=True):
    """`tail`: only so many last bytes."""

    tail: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    download: bool = False


class JobQuery(Struct, frozen=True):
    """`before`: only attempts before that number."""

    before: Annotated[int, Meta(ge=1, le=2**31)] | None = None


def list_query(text: str) -> List:
    """Return which jobs are asked for: of all states, if none is named."""
    fields = _fields(text)
    states = fields.pop("state", None) or list(State)
    if unknown := [state for state in states if state not in set(State)]:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            f"There is no state {unknown[0][:_LONGEST_SHOWN]!r}. States are {', '.join(State)}.",
        )
    named = {name: values[-1] for name, values in fields.items() if name in _SINGLE}
    query = _converted({"id": 0, "states": states, "limit": DEFAULT_LIST, **named}, List)
    return msgspec.structs.replace(query, limit=min(query.limit, MAX_ROWS))


def log_query(text: str) -> LogQuery:
    return _converted({name: values[-1] for name, values in _fields(text).items()}, LogQuery)


def job_query(text: str) -> JobQuery:
    return _converted({name: values[-1] for name, values in _fields(text).items()}, JobQuery)


def address_of(query: List, **changes: object) -> str:
    """Return where the list of a query is, with some of its fields changed."""
    fields: dict[str, object] = {name: getattr(query, name) for name in _SINGLE}
    if query.limit == DEFAULT_LIST:
        del fields["limit"]
    fields["state"] = [] if set(query.states or ()) == set(State) else query.states
    fields |= changes
    text = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
    return f"/job-logs?{text}" if text else "/job-logs"


_SINGLE = ("queue", "name", "tag", "before", "limit")


def _fields(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, errors="replace", max_num_fields=_MAX_FIELDS)  # empty ones are left out
    except ValueError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"There are more than {_MAX_FIELDS} fields.") from error


def _converted(fields: dict[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST, f"This address has a value of {_field_of(error)!r} that cannot be used."
        ) from error


def _field_of(error: msgspec.ValidationError) -> str:
    """Return which field an error is about, from its end: "... - at `$.limit`"."""
    return str(error).rpartition("$.")[2].rstrip("`").partition("[")[0]


ATTEMPTS_ON_A_PAGE = 20
JOBS_AT_ONCE = 25  # read from the store
LATEST_TAIL = 64 * 1024  # bytes of a log on the job's page
EARLIER_TAIL = 4 * 1024


class Pages:
    """Answers what an entrance has let in. Never asks the Supervisor: what is not on disk is not shown."""

    def __init__(self, store: StoreReader, log_dir: str) -> None:
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
        written = expected_log_bytes(found[0]) if found and found[0].attempt == int(attempt) else 0
        pieces = pieces_of(LogReader(self._log_dir, view.id, int(attempt)), query.tail, written)
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
        return tail_of(LogReader(self._log_dir, view.id, attempt.attempt), most)


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


# --- Routes: which page a path is. Paths are matched as they were sent: nothing is decoded or resolved.


NO_PAGE = "There is no such page."

_ID = "([1-9][0-9]{0,17})"
_ATTEMPT = "([1-9][0-9]{0,8})"
_TOKEN = "([A-Za-z0-9_-]{1,100})"  # noqa: S105 - the form of one

_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}


class _For(Enum):
    """Whom a route is for."""

    ANYBODY = 0  # it tells nothing of any job
    USER = 1  # of this machine that the daemon serves
    SESSION = 2  # that such a user has begun


class _Route(Struct, frozen=True):
    path: re.Pattern[str]
    whom: _For
    answer: Callable[..., Awaitable[Answer]]  # takes the request and the groups of the path


class Routes:
    """Answers requests.

    Args:
        is_ready: whether jobs can be started now.
    """

    def __init__(self, entrance: Entrance, pages: Pages, is_ready: Callable[[], bool]) -> None:
        self._entrance = entrance
        self._is_ready = is_ready
        self._static = {name: (_STATIC / name).read_bytes() for name in _STATIC_TYPES}
        self._routes = [
            _Route(re.compile(path), whom, answer)
            for path, whom, answer in (
                ("/", _For.ANYBODY, _answer_root),
                ("/healthz", _For.ANYBODY, _answer_health),
                ("/readyz", _For.ANYBODY, self._answer_readiness),
                (r"/static/([a-z.]{1,50})", _For.ANYBODY, self._answer_static),
                (f"/login/{_TOKEN}", _For.USER, self._answer_login),
                ("/job-logs", _For.SESSION, pages.jobs),
                (f"/job-logs/{_ID}", _For.SESSION, pages.job),
                (f"/job-logs/{_ID}/{_ATTEMPT}", _For.SESSION, pages.log),
            )
        ]

    async def answer(self, request: Request, ends: Ends | None) -> Answer:
        """Answer a request that came over a connection with these ends, None for a unix socket."""
        try:
            self._entrance.check_host(request)
            if request.method not in READING:
                await self._refuse_change(request, ends)
            route, words = self._find(request.path)
            await self._check(route.whom, request, ends)
            return await route.answer(request, *words)
        except RequestRefused as error:
            return await refused(request, error)

    def _find(self, path: str) -> tuple[_Route, tuple[str, ...]]:
        for route in self._routes:
            if found := route.path.fullmatch(path):
                return route, found.groups()
        raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)

    async def _refuse_change(self, request: Request, ends: Ends | None) -> None:
        """Check who asks for a change, then refuse it: there is nothing yet that pages can change."""
        await self._check(_For.SESSION, request, ends)
        self._entrance.check_write(request)
        allowed = ("Allow", ", ".join(READING))
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "Pages can only be read: GET and HEAD.", allowed)

    async def _check(self, whom: _For, request: Request, ends: Ends | None) -> None:
        if whom is not _For.ANYBODY:
            await self._entrance.check_user(ends)
        if whom is _For.SESSION:
            self._entrance.check_session(request)

    async def _answer_readiness(self, request: Request) -> Answer:
        del request
        if self._is_ready():
            return Answer(Response(body=b"ready\n"))
        return Answer(refusal(HTTPStatus.SERVICE_UNAVAILABLE, "no launcher answers yet: nothing is started"))

    async def _answer_static(self, request: Request, name: str) -> Answer:
        del request
        if name not in self._static:
            raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)
        return Answer(Response(content_type=_STATIC_TYPES[name], body=self._static[name]))

    async def _answer_login(self, request: Request, token: str) -> Answer:
        """Give the browser its cookie, and a page that leads on.

        Not a redirect: after a link on another site's page a browser withholds a SameSite=Strict cookie all
        the way, but where our own page leads, it goes along.
        """
        if request.is_head:  # as programs do that look where a link leads, before somebody follows it
            return Answer(Response())
        return await page("login.html", {}, headers=(self._entrance.log_in(token, request),))


async def _answer_root(request: Request) -> Answer:
    del request
    return Answer(Response(status=HTTPStatus.SEE_OTHER, headers=(("Location", "/job-logs"),)))


async def _answer_health(request: Request) -> Answer:
    del request
    return Answer(Response(body=b"ok\n"))
