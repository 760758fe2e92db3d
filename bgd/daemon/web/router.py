"""Find the page for a path, and check that the browser may see it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from enum import Enum
from http import HTTPStatus

from msgspec import Struct

from bgd.daemon.web.actions import PageActions
from bgd.daemon.web.auth import Authenticator, Endpoints
from bgd.daemon.web.job_pages import JobPages
from bgd.daemon.web.log_pages import LogPages
from bgd.daemon.web.monitoring import Monitoring
from bgd.daemon.web.overview import Overview
from bgd.daemon.web.pages import Pages
from bgd.daemon.web.responses import PageResponse, compressed, error_response, html_response
from bgd.daemon.web.schedule_pages import SchedulePages
from bgd.daemon.web.seals import Seals
from bgd.daemon.web.search import SearchPages
from bgd.wire.http import SAFE_METHODS, HttpRequest, HttpResponse, RequestRefused


class Router:
    """Finds the page or the action for a path, and checks that the browser may ask for it.

    Paths are matched as they were sent: nothing is decoded or resolved. Those without the authenticator's
    base are served too, because some proxies remove it.
    """

    def __init__(  # noqa: PLR0913 - one for each kind of page
        self,
        authenticator: Authenticator,
        seals: Seals,
        *,
        pages: Pages,
        jobs: JobPages,
        logs: LogPages,
        overview: Overview,
        schedules: SchedulePages,
        search: SearchPages,
        actions: PageActions,
        monitoring: Monitoring,
    ) -> None:
        self._authenticator = authenticator
        self._seals = seals
        self._routes = [
            _Route(re.compile(path), access, answer)
            for path, access, answer in (
                ("/?", _Access.ANYBODY, self._answer_root),
                ("/healthz", _Access.ANYBODY, monitoring.health),
                ("/readyz", _Access.ANYBODY, monitoring.readiness),
                ("/metrics", _Access.ANYBODY, monitoring.metrics),  # it asks for a token of its own
                (r"/static/([a-z.-]{1,50})", _Access.ANYBODY, self._answer_static),
                (f"/login/{_TOKEN}", _Access.USER, self._answer_login),
                ("/job-logs/seal", _Access.SESSION, self._answer_seal),
                ("/job-logs", _Access.SESSION, pages.jobs),
                ("/job-logs/live", _Access.SESSION, pages.jobs_live),
                ("/job-logs/complete", _Access.SESSION, pages.complete),
                ("/job-logs/overview", _Access.SESSION, overview.overview),
                ("/job-logs/overview/live", _Access.SESSION, overview.overview_live),
                ("/job-logs/search", _Access.SESSION, search.search),
                ("/job-logs/queues", _Access.SESSION, overview.queues),
                ("/job-logs/queues/live", _Access.SESSION, overview.queues_live),
                ("/job-logs/schedules", _Access.SESSION, schedules.list),
                ("/job-logs/schedules/live", _Access.SESSION, schedules.list_live),
                (f"/job-logs/schedules/{_QUEUE}", _Access.SESSION, schedules.schedule),
                (f"/job-logs/{_ID}", _Access.SESSION, jobs.job),
                (f"/job-logs/{_ID}/live", _Access.SESSION, jobs.job_live),
                (f"/job-logs/{_ID}/{_ATTEMPT}", _Access.SESSION, logs.log),
                (f"/job-logs/{_ID}/{_ATTEMPT}/live", _Access.SESSION, logs.log_live),
                (f"/job-logs/{_ID}/{_ATTEMPT}/view", _Access.SESSION, logs.view),
                (f"/job-logs/{_ID}/{_ATTEMPT}/view/live", _Access.SESSION, logs.view_live),
                (f"/job-logs/{_ID}/{_ATTEMPT}/part", _Access.SESSION, logs.part),
                (f"/job-logs/{_ID}/{_ATTEMPT}/search", _Access.SESSION, logs.search),
                (f"/job-logs/all/{_VERB}", _Access.SESSION, actions.count),
            )
        ]
        self._changes = [
            (re.compile(path), change)
            for path, change in (
                (f"/job-logs/{_ID}/{_VERB}", actions.act),
                (f"/job-logs/all/{_VERB}", actions.act_on_all),
                (r"/job-logs/(pause|resume)", actions.pause),
                (rf"/job-logs/queues/{_QUEUE}/(pause|resume)", actions.pause_queue),
                ("/job-logs/slots", actions.set_slots),
                (f"/job-logs/schedules/{_QUEUE}/(run|pause|resume)", schedules.act),
                (rf"/job-logs/queues/{_QUEUE}/slots", actions.set_queue_slots),
            )
        ]

    async def answer(self, request: HttpRequest, endpoints: Endpoints | None) -> PageResponse:
        """Answer a request; `endpoints` are those of its connection, None for a unix socket."""
        try:
            self._authenticator.check_host(request)
            if request.method not in SAFE_METHODS:
                return await self._change(request, endpoints)
            route, groups = self._find(self._below_base(request.path))
            await self._check(route.access, request, endpoints)
            request, seal = self._seals.take_from(request)
            answer = await route.answer(request, *groups)
            if seal is not None:
                answer = seal.put_on(answer)
            # the page of a login has a secret, at which the length of what is compressed would hint
            return answer if route.access is _Access.USER else await compressed(request, answer)
        except RequestRefused as error:
            return await error_response(request, error)

    def _below_base(self, path: str) -> str:
        base = self._authenticator.base
        return path[len(base) :] if path == base or path.startswith(f"{base}/") else path

    def _find(self, path: str) -> tuple[_Route, tuple[str, ...]]:
        for route in self._routes:
            if found := route.path.fullmatch(path):
                return route, found.groups()
        raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)

    async def _change(self, request: HttpRequest, endpoints: Endpoints | None) -> PageResponse:
        await self._check(_Access.SESSION, request, endpoints)
        asked_by = self._authenticator.check_write(request)
        for path, change in self._changes:
            if found := path.fullmatch(self._below_base(request.path)):
                return await change(request, asked_by, *found.groups())
        allowed = ("Allow", ", ".join(SAFE_METHODS))
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "This can only be read: GET and HEAD.", allowed)

    async def _check(self, access: _Access, request: HttpRequest, endpoints: Endpoints | None) -> None:
        if access is not _Access.ANYBODY:
            await self._authenticator.check_user(endpoints)
            self._authenticator.check_name(request)
        if access is _Access.SESSION:
            self._authenticator.check_session(request)

    async def _answer_root(self, request: HttpRequest) -> PageResponse:
        del request
        to = ("Location", f"{self._authenticator.base}/job-logs")
        return PageResponse(HttpResponse(status=HTTPStatus.SEE_OTHER, headers=(to,)))

    async def _answer_seal(self, request: HttpRequest) -> PageResponse:
        """Prove to a page that this is its daemon, before the page sends a secret."""
        del request
        return PageResponse(HttpResponse())

    async def _answer_static(self, request: HttpRequest, name: str) -> PageResponse:
        # imported late, like the templates: a daemon whose pages nobody looks at does not read them
        from bgd.daemon.web.static_files import static_response  # noqa: PLC0415

        if (response := await asyncio.to_thread(static_response, request, name)) is None:
            raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)
        return PageResponse(response)

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
_VERB = "([a-z]{1,20})"
_QUEUE = "([A-Za-z0-9._-]{1,64})"
_TOKEN = "([A-Za-z0-9_-]{1,100})"  # noqa: S105 - a pattern for tokens
