"""Routes: which page a path is. Paths are matched as they were sent: nothing is decoded or resolved."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from enum import Enum
from http import HTTPStatus
from pathlib import Path

from msgspec import Struct

from bgd.daemon.web.answers import Answer, page, refused
from bgd.daemon.web.entrance import Ends, Entrance
from bgd.daemon.web.pages import Pages
from bgd.wire.http import READING, Request, RequestRefused, Response, refusal

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
