"""Find the page for a path, and check that the browser may see it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

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

Answer = Callable[..., Awaitable[PageResponse]]
"""Takes the request, of a change also who asks for it, and the groups of the path."""


def pages_by_path(  # noqa: PLR0913 - one for each kind of page
    *,
    pages: Pages,
    jobs: JobPages,
    logs: LogPages,
    overview: Overview,
    schedules: SchedulePages,
    search: SearchPages,
    actions: PageActions,
    monitoring: Monitoring,
) -> dict[str, Answer]:
    """Return what can be read, by the pattern of its path; those below /job-logs need a session."""
    return {
        "/healthz": monitoring.health,
        "/readyz": monitoring.readiness,
        "/metrics": monitoring.metrics,  # it asks for a token of its own
        "/job-logs": pages.jobs,
        "/job-logs/live": pages.jobs_live,
        "/job-logs/complete": pages.complete,
        "/job-logs/overview": overview.overview,
        "/job-logs/overview/live": overview.overview_live,
        "/job-logs/search": search.search,
        "/job-logs/queues": overview.queues,
        "/job-logs/queues/live": overview.queues_live,
        "/job-logs/schedules": schedules.list,
        "/job-logs/schedules/live": schedules.list_live,
        f"/job-logs/schedules/{_QUEUE}": schedules.schedule,
        f"/job-logs/{_ID}": jobs.job,
        f"/job-logs/{_ID}/live": jobs.job_live,
        f"/job-logs/{_ID}/{_ATTEMPT}": logs.log,
        f"/job-logs/{_ID}/{_ATTEMPT}/live": logs.log_live,
        f"/job-logs/{_ID}/{_ATTEMPT}/view": logs.view,
        f"/job-logs/{_ID}/{_ATTEMPT}/view/live": logs.view_live,
        f"/job-logs/{_ID}/{_ATTEMPT}/part": logs.part,
        f"/job-logs/{_ID}/{_ATTEMPT}/search": logs.search,
        f"/job-logs/all/{_VERB}": actions.count,
    }


def changes_by_path(*, actions: PageActions, schedules: SchedulePages) -> dict[str, Answer]:
    """Return what pages can change, by the pattern of the path."""
    return {
        f"/job-logs/{_ID}/{_VERB}": actions.act,
        f"/job-logs/all/{_VERB}": actions.act_on_all,
        r"/job-logs/(pause|resume)": actions.pause,
        rf"/job-logs/queues/{_QUEUE}/(pause|resume)": actions.pause_queue,
        "/job-logs/slots": actions.set_slots,
        rf"/job-logs/queues/{_QUEUE}/slots": actions.set_queue_slots,
        f"/job-logs/schedules/{_QUEUE}/(run|pause|resume)": schedules.act,
    }


class Router:
    """Finds the page or the action for a path, and checks that the browser may ask for it.

    Paths are matched as they were sent: nothing is decoded or resolved. Those without the authenticator's
    base are served too, because some proxies remove it.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        seals: Seals,
        pages: Mapping[str, Answer],
        changes: Mapping[str, Answer],
    ) -> None:
        self._authenticator = authenticator
        self._seals = seals
        own: dict[str, Answer] = {
            "/?": self._answer_root,
            r"/static/([a-z.-]{1,50})": self._answer_static,
            f"/login/{_TOKEN}": self._answer_login,
            "/job-logs/seal": self._answer_seal,
        }
        self._pages = {re.compile(path): answer for path, answer in {**own, **pages}.items()}
        self._changes = {re.compile(path): answer for path, answer in changes.items()}

    async def answer(self, request: HttpRequest, endpoints: Endpoints | None) -> PageResponse:
        """Answer a request; `endpoints` are those of its connection, None for a unix socket."""
        try:
            self._authenticator.check_host(request)
            if request.method not in SAFE_METHODS:
                return await self._change(request, endpoints)
            path = self._below_base(request.path)
            answer_page, groups = self._find(path)
            needs_session, is_login = path.startswith("/job-logs"), path.startswith("/login/")
            if needs_session or is_login:
                await self._check_user(request, endpoints)
            if needs_session:
                self._authenticator.check_session(request)
            request, seal = self._seals.take_from(request)
            answer = await answer_page(request, *groups)
            if seal is not None:
                answer = seal.put_on(answer)
            # the page of a login has a secret, at which the length of what is compressed would hint
            return answer if is_login else await compressed(request, answer)
        except RequestRefused as error:
            return await error_response(request, error)

    def _below_base(self, path: str) -> str:
        base = self._authenticator.base
        return path[len(base) :] if path == base or path.startswith(f"{base}/") else path

    def _find(self, path: str) -> tuple[Answer, tuple[str, ...]]:
        for pattern, answer in self._pages.items():
            if found := pattern.fullmatch(path):
                return answer, found.groups()
        raise RequestRefused(HTTPStatus.NOT_FOUND, NO_PAGE)

    async def _change(self, request: HttpRequest, endpoints: Endpoints | None) -> PageResponse:
        await self._check_user(request, endpoints)
        self._authenticator.check_session(request)
        asked_by = self._authenticator.check_write(request)
        for pattern, change in self._changes.items():
            if found := pattern.fullmatch(self._below_base(request.path)):
                return await change(request, asked_by, *found.groups())
        allowed = ("Allow", ", ".join(SAFE_METHODS))
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "This can only be read: GET and HEAD.", allowed)

    async def _check_user(self, request: HttpRequest, endpoints: Endpoints | None) -> None:
        await self._authenticator.check_user(endpoints)
        self._authenticator.check_name(request)

    async def _answer_root(self, request: HttpRequest) -> PageResponse:
        del request
        to = ("Location", f"{self._authenticator.base}/job-logs")
        return PageResponse(HttpResponse(status=HTTPStatus.SEE_OTHER, headers=(to,)))

    async def _answer_seal(self, request: HttpRequest) -> PageResponse:
        """Prove to a page that this is its daemon, before the page sends a secret."""
        del request
        return PageResponse(HttpResponse())

    async def _answer_static(self, request: HttpRequest, name: str) -> PageResponse:
        # imported late, like the templates: a daemon whose pages are never opened does not read them
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
        cookie, write_token = await self._authenticator.log_in(token, request)
        return await html_response("login.html", {"token": write_token}, headers=(cookie,))


NO_PAGE = "There is no such page."
_ID = "([1-9][0-9]{0,17})"
_ATTEMPT = "([1-9][0-9]{0,8})"
_VERB = "([a-z]{1,20})"
_QUEUE = "([A-Za-z0-9._-]{1,64})"
_TOKEN = "([A-Za-z0-9_-]{1,100})"  # noqa: S105 - a pattern for tokens
