"""Answer requests for batches: the newest, and one with its jobs."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Any

from msgspec.structs import replace

from bgd.daemon.web import actions
from bgd.daemon.web.live import Part, Snapshot, row_parts
from bgd.daemon.web.pages import list_snapshot, list_values, watch_jobs
from bgd.daemon.web.queries import list_query, list_url
from bgd.daemon.web.responses import PageResponse, json_response, render_part, wants_json
from bgd.daemon.web.site import Site
from bgd.errors import NoSuchJob
from bgd.formatting import batch_as_json, quoted
from bgd.wire.http import HttpRequest, RequestRefused
from bgd.wire.requests import MAX_BATCHES, CloseBatch, GetBatches
from bgd.wire.views import BatchView, FollowUpView

_BAR = ("succeeded", "failed", "cancelled", "running", "pending")  # from left to right


async def batches(site: Site, request: HttpRequest) -> PageResponse:
    """Return the newest batches with their counts."""
    if wants_json(request):
        return await json_response([batch_as_json(view) for view in await _read(site)])
    return await site.views.page("batches.html", _values(site), "/job-logs/batches/live")


async def batches_live(site: Site, request: HttpRequest) -> PageResponse:
    """Return the stream of changes of the newest batches."""

    async def build() -> Snapshot:
        values = await _values(site)
        # no event of a job tells that a batch was closed
        rows = row_parts(values["rows"], "batch_row.html", has_version=False)
        empty = partial(render_part, "batches_empty.html", values)
        return Snapshot({"empty": Part(bool(rows), empty, has_version=False)} | rows, list(rows))

    return site.views.stream(request, "/job-logs/batches", build)


async def batch(site: Site, request: HttpRequest, number: str) -> PageResponse:
    """Return one batch: its counts, its follow-ups, and its newest jobs."""
    if wants_json(request):
        return await json_response(batch_as_json(await _find(site, number)))
    live = f"/job-logs/batches/{number}/live"
    return await site.views.page("batch.html", _batch_values(site, number), live)


async def batch_live(site: Site, request: HttpRequest, number: str) -> PageResponse:
    """Return the stream of changes of one batch."""

    async def build() -> Snapshot:
        values = await _batch_values(site, number)
        shown = values["row"], values["follow_ups"]
        above = {
            id_: Part(shown, partial(render_part, template, values), has_version=False)
            for id_, template in (("matching", "batch_actions.html"), ("summary", "batch_summary.html"))
        }
        return list_snapshot(values, above)

    return site.views.stream(request, f"/job-logs/batches/{number}", build, partial(watch_jobs, site))


async def cancel(site: Site, request: HttpRequest, asked_by: str, number: str) -> PageResponse:
    """Cancel a batch: it takes no more jobs, and those that have not ended are cancelled."""
    await _find(site, number)
    await site.actions.batches.close(CloseBatch(id=0, batch=int(number), cancel=True))
    return await actions.act_on_all(site, replace(request, query=_query(number)), asked_by, "cancel")


async def _read(site: Site, number: int | None = None) -> list[BatchView]:
    return await site.actions.batches.views(GetBatches(id=0, batch=number, limit=MAX_BATCHES))


async def _find(site: Site, number: str) -> BatchView:
    try:
        [view] = await _read(site, int(number))
    except NoSuchJob as error:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no batch {number}.") from error
    return view


async def _values(site: Site) -> dict[str, Any]:
    return {"rows": [_row(view) for view in await _read(site)]}


async def _batch_values(site: Site, number: str) -> dict[str, Any]:
    view = await _find(site, number)
    query = list_query(_query(number))
    follow_ups = {"Then": view.then, "On the first failure": view.catch, "Finally": view.finally_}
    shown = [(label, _command(each), each.job) for label, each in follow_ups.items() if each is not None]
    return {
        **await list_values(site, query),
        "row": _row(view),
        "follow_ups": shown,
        "jobs_url": list_url(query),
    }


def _query(number: str) -> str:
    return f"q=batch:{number}"


def _row(view: BatchView) -> dict[str, Any]:
    """Return a batch with its bar: states with their jobs, and begin and width of their parts, of 1000."""
    bar, begin = [], 0
    for state in _BAR:
        count = getattr(view, state)
        width = 1000 * count // max(view.total, 1)
        bar.append((state, count, begin, width))
        begin += width
    ended = view.succeeded + view.failed + view.cancelled
    return {"id": f"batch-{view.id}", "batch": view, "bar": bar, "ended": ended}


def _command(follow_up: FollowUpView) -> str:
    return follow_up.target or " ".join(map(quoted, follow_up.argv or ()))
