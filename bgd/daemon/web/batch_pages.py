"""Answer requests for batches: the newest, and one with its jobs."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec.structs import replace

from bgd.daemon.web import actions
from bgd.daemon.web.live import Layout
from bgd.daemon.web.pages import LIST_PARTS, list_values, watch_jobs
from bgd.daemon.web.queries import list_query
from bgd.daemon.web.responses import PageResponse, json_response, wants_json
from bgd.daemon.web.site import Site
from bgd.errors import NoSuchJob
from bgd.text.brief import quoted
from bgd.text.formatting import batch_as_json
from bgd.wire.http import HttpRequest, not_found
from bgd.wire.requests import MAX_BATCHES, CloseBatch, GetBatches
from bgd.wire.views import BatchView, FollowUpView


async def batches(site: Site, request: HttpRequest) -> PageResponse:
    """Return the newest batches with their counts."""
    if wants_json(request):
        return await json_response([batch_as_json(view) for view in await _read(site)])
    return await site.views.show(request, _BATCHES, "/job-logs/batches", partial(_values, site))


async def batch(site: Site, request: HttpRequest, number: str) -> PageResponse:
    """Return one batch: its counts, its follow-ups, and its newest jobs."""
    if wants_json(request):
        return await json_response(batch_as_json(await _find(site, number)))
    values, subscribe = partial(_batch_values, site, number), partial(watch_jobs, site)
    return await site.views.show(request, _BATCH, f"/job-logs/batches/{number}", values, subscribe)


# no event of a job tells that a batch was closed
_EMPTY = {"empty": ("batches_empty.html", "is_empty")}
_BATCHES = Layout("batches.html", _EMPTY, "batch_row.html", has_version=False)
_ABOVE: dict[str, tuple[str, ...]] = {
    "matching": ("batch_actions.html", "row", "follow_ups"),
    "summary": ("batch_summary.html", "row", "follow_ups"),
}
_BATCH = Layout("batch.html", _ABOVE | LIST_PARTS, "row.html", has_version=False)


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
        raise not_found(f"There is no batch {number}.") from error
    return view


async def _values(site: Site) -> dict[str, Any]:
    rows = [_row(view) for view in await _read(site)]
    return {"rows": rows, "is_empty": not rows}


async def _batch_values(site: Site, number: str) -> dict[str, Any]:
    view = await _find(site, number)
    query = list_query(_query(number))
    follow_ups = {"Then": view.then, "On the first failure": view.catch, "Finally": view.finally_}
    shown = [(label, _command(each), each.job) for label, each in follow_ups.items() if each is not None]
    return {
        **await list_values(site, query),
        "row": _row(view),
        "follow_ups": shown,
    }


def _query(number: str) -> str:
    return f"q=batch:{number}"


def _row(view: BatchView) -> dict[str, Any]:
    return {"id": f"batch-{view.id}", "batch": view}


def _command(follow_up: FollowUpView) -> str:
    return follow_up.target or " ".join(map(quoted, follow_up.argv or ()))
