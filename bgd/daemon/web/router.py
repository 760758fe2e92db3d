"""Find the page for a path, and check that the browser may see it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from bgd.daemon.web import (
    actions,
    batch_pages,
    charts,
    job_pages,
    log_pages,
    monitoring,
    new_job,
    overview,
    pages,
    schedule_pages,
    search,
)
from bgd.daemon.web.auth import Endpoints, check_in_time
from bgd.daemon.web.live import LIVE
from bgd.daemon.web.responses import PageResponse, compressed, error_response, html_response
from bgd.daemon.web.shared_stream import add_to_shared, drop_from_shared, open_shared
from bgd.daemon.web.site import Site
from bgd.errors import NoSuchJob, Refused
from bgd.system import clock
from bgd.wire.http import SAFE_METHODS, HttpRequest, HttpResponse, RequestRefused, not_found

Answer = Callable[..., Awaitable[PageResponse]]
"""Takes the site, the request, of a change also the user, and the groups of the path."""


async def answer(site: Site, request: HttpRequest, endpoints: Endpoints | None) -> PageResponse:
    """Answer a request; `endpoints` are those of its connection, None for a unix socket.

    Paths are matched as they were sent: nothing is decoded or resolved. Those without the base of the site
    are served too, because some proxies remove it.
    """
    base = site.authenticator.base
    is_below = request.path == base or request.path.startswith(f"{base}/")
    path = request.path.removeprefix(base) if is_below else request.path
    try:
        site.authenticator.check_host(request)
        if request.method in SAFE_METHODS:
            return await _show(site, request, path, endpoints)
        return await _change(site, request, path, endpoints)
    except Refused as error:
        status = HTTPStatus.NOT_FOUND if isinstance(error, NoSuchJob) else HTTPStatus.CONFLICT
        return await error_response(request, RequestRefused(status, str(error)))
    except RequestRefused as error:
        return await error_response(request, error)


async def _show(site: Site, request: HttpRequest, path: str, endpoints: Endpoints | None) -> PageResponse:
    if (page := find(PAGES, path)) is None:
        raise not_found(NO_PAGE)
    needs_session, is_login = path.startswith("/job-logs"), path.startswith("/login/")
    if needs_session or is_login:
        await _check_user(site, request, endpoints)
    if needs_session:
        site.authenticator.check_session(request)
    request, seal = site.seals.take_from(request)
    found = await page(site, request)
    if seal is not None and found.is_stream and found.chunks is not None:
        found = await add_to_shared(site, seal, found.chunks)
    elif seal is not None:
        found = seal.put_on(found)
    # the page of a login has a secret, at which the length of what is compressed would hint
    return found if is_login else await compressed(request, found)


async def _change(site: Site, request: HttpRequest, path: str, endpoints: Endpoints | None) -> PageResponse:
    await _check_user(site, request, endpoints)
    site.authenticator.check_session(request)
    asked_by = site.authenticator.check_write(request)
    if (change := find(CHANGES, path)) is None:
        allowed = ("Allow", ", ".join(SAFE_METHODS))
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "This can only be read: GET and HEAD.", allowed)
    check_in_time(request, clock.elapsed())
    return await change(site, request, asked_by)


async def _check_user(site: Site, request: HttpRequest, endpoints: Endpoints | None) -> None:
    await site.authenticator.check_user(endpoints)
    site.authenticator.check_name(request)


def find(answers: dict[str, Answer], path: str) -> Answer | None:
    """Return the answer for a path, which is given the groups of the path; None: there is none."""
    for pattern, each in answers.items():
        if found := re.fullmatch(pattern, path):
            return lambda *asked: each(*asked, *found.groups())
    return None


NO_PAGE = "This page does not exist."


# --- Addresses that are not about jobs


async def _root(site: Site, request: HttpRequest) -> PageResponse:
    del request
    to = ("Location", f"{site.authenticator.base}/job-logs")
    return PageResponse(HttpResponse(status=HTTPStatus.SEE_OTHER, headers=(to,)))


async def _seal(site: Site, request: HttpRequest) -> PageResponse:
    """Prove to a page that this is its daemon, before the page sends a secret, and tell it the time."""
    del site, request
    return PageResponse(HttpResponse(body=str(clock.elapsed()).encode()))


async def _static(site: Site, request: HttpRequest, name: str) -> PageResponse:
    del site
    # imported late, like the templates: a daemon whose pages are never opened does not read them
    from bgd.daemon.web.static_files import static_response  # noqa: PLC0415

    if (response := await asyncio.to_thread(static_response, request, name)) is None:
        raise not_found(NO_PAGE)
    return PageResponse(response)


async def _log_in(site: Site, request: HttpRequest, token: str) -> PageResponse:
    """Give the browser its cookie and a page that leads on.

    A redirect would not do: after a link on another site's page, a browser withholds a SameSite=Strict
    cookie from all redirects, but sends it when one of our own pages leads on.
    """
    if request.is_head:  # some programs look where a link leads before a person follows it
        return PageResponse(HttpResponse())
    cookie, write_token = await site.authenticator.log_in(token, request)
    return await html_response("login.html", {"token": write_token}, headers=(cookie,))


_ID = "([1-9][0-9]{0,17})"
_ATTEMPT = "([1-9][0-9]{0,8})"
_BATCH = "([1-9][0-9]{0,15})"
_VERB = "([a-z]{1,20})"
_QUEUE = "([A-Za-z0-9._-]{1,64})"
_LIVE = f"(?:{LIVE})?"  # the page, or its updates
_NONCE = "([0-9a-f]{32})"
_TOKEN = "([A-Za-z0-9_-]{1,100})"  # noqa: S105 - a pattern for tokens

# What can be read, by the pattern of its path; those below /job-logs need a session
PAGES: dict[str, Answer] = {
    "/?": _root,
    r"/static/([a-z.-]{1,50})": _static,
    f"/login/{_TOKEN}": _log_in,
    "/healthz": monitoring.health,
    "/readyz": monitoring.readiness,
    "/metrics": monitoring.metrics,  # it asks for a token of its own
    "/job-logs": pages.jobs,
    "/job-logs/live": pages.jobs_live,
    "/job-logs/complete": pages.complete,
    "/job-logs/seal": _seal,
    f"/job-logs/shared/{_NONCE}": open_shared,
    f"/job-logs/shared/{_NONCE}/{_NONCE}/drop": drop_from_shared,
    "/job-logs/new": new_job.new_job,
    "/job-logs/new/check": new_job.check,
    f"/job-logs/overview{_LIVE}": overview.overview,
    f"/job-logs/charts{_LIVE}": charts.charts,
    "/job-logs/search": search.search,
    f"/job-logs/queues{_LIVE}": overview.queues,
    f"/job-logs/schedules{_LIVE}": schedule_pages.schedules,
    f"/job-logs/schedules/{_QUEUE}{_LIVE}": schedule_pages.schedule,
    f"/job-logs/batches{_LIVE}": batch_pages.batches,
    f"/job-logs/batches/{_BATCH}{_LIVE}": batch_pages.batch,
    f"/job-logs/{_ID}": job_pages.job,
    f"/job-logs/{_ID}/live": job_pages.job_live,
    f"/job-logs/{_ID}/{_ATTEMPT}": log_pages.log,
    f"/job-logs/{_ID}/{_ATTEMPT}/live": log_pages.log_live,
    f"/job-logs/{_ID}/{_ATTEMPT}/view": log_pages.view,
    f"/job-logs/{_ID}/{_ATTEMPT}/view/live": log_pages.view_live,
    f"/job-logs/{_ID}/{_ATTEMPT}/part": log_pages.part,
    f"/job-logs/{_ID}/{_ATTEMPT}/search": log_pages.search,
    "/job-logs/all": actions.count_chosen,
    f"/job-logs/all/{_VERB}": actions.count,
}
CHANGES: dict[str, Answer] = {  # what pages can change
    f"/job-logs/{_ID}/{_VERB}": actions.act,
    f"/job-logs/all/{_VERB}": actions.act_on_all,
    "/job-logs/submit": new_job.submit,
    rf"/job-logs/(?:queues/{_QUEUE}/)?(pause|resume)": actions.pause,
    rf"/job-logs/(?:queues/{_QUEUE}/)?slots": actions.set_slots,
    f"/job-logs/schedules/{_QUEUE}/(run|pause|resume)": schedule_pages.act,
    f"/job-logs/batches/{_BATCH}/cancel": batch_pages.cancel,
}
