"""Answer requests for the list of jobs; all is read from disk."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from bgd.core.filters import FILTERS, OUTCOMES, STATE_NAMES, Filter, but_notifications
from bgd.core.job import JobId, State
from bgd.core.spec import MAX_FILTER, NOTIFICATION_QUEUE
from bgd.daemon.explaining import with_reasons
from bgd.daemon.queue_controls import known_queues
from bgd.daemon.storage import lists, read
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.storage.summaries import Count
from bgd.daemon.streams import Subscription
from bgd.daemon.web.actions import BUTTONS, states_acted_on
from bgd.daemon.web.finding import ListPage, count, find_page
from bgd.daemon.web.live import Layout
from bgd.daemon.web.queries import (
    ListQuery,
    list_query,
    list_url,
    parse_fields,
    word_for,
)
from bgd.daemon.web.responses import (
    PageResponse,
    encode_json,
    html_response,
    json_response,
    wants_json,
)
from bgd.daemon.web.site import Site
from bgd.daemon.web.views import job_row
from bgd.text.formatting import brief_usage, job_as_json
from bgd.wire.http import JSON, HttpRequest, HttpResponse, RequestRefused, not_found
from bgd.wire.requests import DEFAULT_LIST
from bgd.wire.views import JobUsage, JobView

SEARCH_SECONDS = 0.03  # that a page looks for jobs by what has no index
COUNT_SECONDS = 0.05  # after which it also stops counting them for the tabs
MAX_COMPLETIONS = 20
_JOB = "[1-9][0-9]{0,17}"  # a number that opens a job


async def jobs(site: Site, request: HttpRequest) -> PageResponse:
    """Return the list of jobs."""
    if wants_json(request):
        query = list_query(request.query)
        return PageResponse(HttpResponse(content_type=JSON, body=None), _list_as_json(site, query))
    try:
        query = list_query(request.query)
    except RequestRefused as error:
        return await _problem(site, request, error)
    typed = query.words[0].text if len(query.words) == 1 else ""
    if re.fullmatch(_JOB, typed) and await site.store.read(read.view, JobId(int(typed))) is not None:
        to = ("Location", f"{site.authenticator.base}/job-logs/{typed}")
        return PageResponse(HttpResponse(status=HTTPStatus.SEE_OTHER, headers=(to,)))
    return await _show(site, request, query)


async def jobs_live(site: Site, request: HttpRequest) -> PageResponse:
    """Return the stream of changes of a list."""
    return await _show(site, request, list_query(request.query))


async def _show(site: Site, request: HttpRequest, query: ListQuery) -> PageResponse:
    values, subscribe = partial(list_values, site, query), partial(watch_jobs, site)
    return await site.views.show(request, _LAYOUT, list_url(query), values, subscribe)


@contextmanager
def watch_jobs(site: Site) -> Iterator[Subscription]:
    """Subscribe to all that the rows of a list show."""
    with (
        site.supervisor.subscriptions.subscribe_to_all(progress=True) as subscription,
        site.usage.watch(
            subscription, lambda: {job: brief_usage(usage) for job, usage in site.usage.jobs.items()}
        ),
    ):
        yield subscription


async def complete(site: Site, request: HttpRequest) -> PageResponse:
    """Return, as JSON, what a word of a filter may become."""
    word = parse_fields(request.query).get("word", [""])[-1][:MAX_FILTER]
    minus = "-" if word.startswith("-") else ""
    key, colon, beginning = word.removeprefix("-").partition(":")
    if not colon:
        return await json_response([f"{minus}{each}:" for each in FILTERS if each.startswith(key)])
    beginning = beginning.removeprefix("=" if key in FILTERS and FILTERS[key].has_exact else "").removeprefix(
        '"'
    )
    found: Iterable[str] = {"state": STATE_NAMES, "outcome": OUTCOMES}.get(key, ())
    if key in lists.DISTINCT:
        found = await site.store.search(lists.distinct, key, beginning, MAX_COMPLETIONS)
    if key == "queue":
        known = known_queues(site.supervisor.config, site.supervisor.controls)
        found = sorted({*known, *found})
    matching = [each for each in found if each.startswith(beginning)]
    return await json_response([minus + word_for(key, each) for each in matching[:MAX_COMPLETIONS]])


async def _problem(site: Site, request: HttpRequest, error: RequestRefused) -> PageResponse:
    """Return the list without jobs, and what is wrong with the address."""
    wanted = but_notifications(Filter())
    counts = await count(site.store, wanted, COUNT_SECONDS)
    values = _list_values(ListQuery(), wanted, [], counts, None)
    values |= {"problem": str(error), "text": " ".join(parse_fields(request.query).get("q", []))}
    page = values | await site.views.values(None, 0)
    return await html_response(_LAYOUT.template, page, status=error.response.status)


async def list_values(site: Site, query: ListQuery) -> dict[str, Any]:
    """Return what the page of a list shows."""
    wanted = query.wanted(time.time())
    end = asyncio.get_running_loop().time() + COUNT_SECONDS
    page = await find_page(site.store, query, wanted, SEARCH_SECONDS)
    counts = await count(site.store, wanted, end - asyncio.get_running_loop().time())
    rows: list[dict[str, Any]] = []
    async with aclosing(_batches(site, page.ids, wanted)) as batches:
        async for views in batches:
            rows += await asyncio.to_thread(_rows, views, site.usage.jobs)
    return _list_values(query, wanted, rows, counts, page)


async def _batches(site: Site, job_ids: list[JobId], wanted: Filter) -> AsyncGenerator[list[JobView], None]:
    """Yield these jobs, a few at a time: each may have a million bytes of arguments."""
    while job_ids:
        views, job_ids = await site.store.search(read.next_views, job_ids)
        views = [view for view in views if view.state in wanted.states]  # some may have changed meanwhile
        yield with_reasons(views, site.supervisor)


async def _list_as_json(site: Site, query: ListQuery) -> AsyncGenerator[bytes, None]:
    separator = b"["
    wanted = query.wanted(time.time())
    page = await find_page(site.store, query, wanted, math.inf)
    async with aclosing(_batches(site, page.ids, wanted)) as batches:
        async for views in batches:
            for view in views:
                yield separator + await asyncio.to_thread(encode_json, job_as_json(view))
                separator = b","
    yield b"]\n" if separator == b"," else b"[]\n"


async def find_job(store: StoreReader, job: str) -> JobView:
    """Return the job that an address names."""
    view = await store.read(read.view, JobId(int(job)))
    if view is None:
        raise not_found(f"There is no job {job}. It was removed or never submitted.")
    return view


def _rows(views: list[JobView], usages: Mapping[int, JobUsage]) -> list[dict[str, Any]]:
    return [job_row(view, usages.get(view.id)) for view in views]


def _list_values(
    query: ListQuery,
    wanted: Filter,
    rows: list[dict[str, Any]],
    counts: dict[State, Count],
    page: ListPage | None,
) -> dict[str, Any]:
    """Return the values for the list's page; without a `page` the address cannot be understood."""
    named = [word.value for word in query.words if word.key == "state" and not word.is_not]
    first: dict[str, object] = {"before": None, "after": None, "from": None}
    verbs = [(name, verb) for name, verb in BUTTONS.items() if verb.for_many]
    return {
        "rows": rows,
        "text": query.text,
        "problem": None,
        "sort": query.sort,
        "limit": query.limit if query.limit != DEFAULT_LIST else None,
        "orders": _ORDERS,
        "words": [f"state:{state}" for state in STATE_NAMES] + _WORDS,
        "chosen": [name for value in named for name in value.split(",")],
        "verbs": verbs,
        "matching": [(name, verb, _count_acted_on(name, wanted, counts)) for name, verb in verbs],
        "filter": list_url(query, **first, sort=None, limit=None).partition("?")[2],
        "total": sum(counts.values(), Count()),
        "tabs": [(state.value, counts[state], list_url(query, state=[state], **first)) for state in State],
        "all": list_url(query, state=None, **first),
        "empty": _why_empty(query) if page and not rows else None,
        "notifications": None if wanted.queue else list_url(query, queue=NOTIFICATION_QUEUE, **first),
        "searched_to": page.searched_to if page else None,
        "newest": list_url(query, **first) if page and page.newer else None,
        "newer": list_url(query, **page.newer) if page and page.newer else None,
        "older": list_url(query, **page.older) if page and page.older else None,
    }


def _count_acted_on(name: str, wanted: Filter, counts: dict[State, Count]) -> Count | None:
    """Return how many jobs an action on all that match is for; None: it is not known."""
    acted_on = states_acted_on(name, wanted)
    if State.RUNNING in acted_on and wanted.suspended is not None:
        return None
    return sum((counts[state] for state in acted_on), Count())


def _why_empty(query: ListQuery) -> str:
    """Return the kind of message in place of jobs."""
    return "unmatched" if query.words or query.before or query.skip else "new"


LIST_PARTS: dict[str, tuple[str, ...]] = {
    "empty": ("empty.html", "empty", "searched_to"),
    "paging": ("paging.html", "newer", "older"),
}
_ABOVE: dict[str, tuple[str, ...]] = {
    "tabs": ("tabs.html", "tabs"),
    "matching": ("matching.html", "matching"),
}
_LAYOUT = Layout("jobs.html", _ABOVE | LIST_PARTS, "row.html")
_WORDS = ["since:1h", "since:1d", f"queue:{NOTIFICATION_QUEUE}"]
_ORDERS = {
    None: "Newest first",
    "running": "Running first",
    "priority": "By priority",
    "finished": "Last finished first",
}
