"""Answer requests for what concerns all jobs: the overview by name, and the queues."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import blake2s
from typing import Any

from bgd.core.filters import exact_name
from bgd.core.job import ACTIVE, Outcome, State
from bgd.daemon.storage import activity, summaries
from bgd.daemon.storage.activity import Ends, QueueEnds
from bgd.daemon.storage.summaries import Board, Failures, Figures, NameSummary
from bgd.daemon.web import drawing
from bgd.daemon.web.live import Layout
from bgd.daemon.web.responses import PageResponse, json_response, wants_json
from bgd.daemon.web.site import Site
from bgd.formatting import as_json, iso_time, outcome_in_words
from bgd.wire.http import HttpRequest
from bgd.wire.views import QueueView

MAX_QUEUES = 200  # on a page


async def overview(site: Site, request: HttpRequest) -> PageResponse:
    """Return the figures of all jobs, and the names of jobs with their latest results."""
    if wants_json(request):
        return await json_response(_overview_as_json(*await _read_overview(site)))
    return await site.views.show(request, _OVERVIEW, "/job-logs/overview", partial(_overview_values, site))


async def queues(site: Site, request: HttpRequest) -> PageResponse:
    """Return the queues, and the slots of the daemon."""
    if wants_json(request):
        return await json_response(await _queues_as_json(site))
    return await site.views.show(request, _QUEUES, "/job-logs/queues", partial(_queue_values, site))


_OVERVIEW = Layout(
    "overview.html",
    {
        "figures": ("figures.html",),
        "failures": ("failures.html", "failures"),
        "left-out": ("names_left_out.html", "left_out", "has_names"),
    },
    "name_row.html",
)
_QUEUES = Layout(
    "queues.html",
    {"slots": ("slots.html",), "resources": ("resources.html", "resources")},
    "queue_row.html",
    has_version=False,  # most of it is the Scheduler's, which is ahead of the events on disk
)


# --- the overview -------------------------------------------------------------------------------------------


async def _read_overview(site: Site) -> tuple[Board, Figures, Ends, list[Failures]]:
    board, figures = await site.fresh(summaries.board), await site.fresh(summaries.figures)
    return board, figures, await site.fresh(activity.ends), await site.fresh(summaries.failures)


async def _overview_values(site: Site) -> dict[str, Any]:
    return await asyncio.to_thread(_shown_overview, *await _read_overview(site))


def _shown_overview(board: Board, figures: Figures, ends: Ends, failures: list[Failures]) -> dict[str, Any]:
    return {
        "rows": [_name_row(each, is_cut=board.is_cut) for each in board.names],
        "has_names": bool(board.names),
        "left_out": board.left_out,
        "has_more": board.has_more,
        "figures": figures,
        "day": [sum(column) for column in zip(*ends.hours, strict=True)],
        "failures": [(each.error or outcome_in_words(each), _filter_of(each), each) for each in failures],
        "chart": _chart(ends.hours),
    }


def _name_row(summary: NameSummary, *, is_cut: bool) -> dict[str, Any]:
    """Return what the overview shows of a name; `is_cut`: unfinished jobs were counted only in part."""
    latest = max(filter(None, (summary.succeeded, summary.failed)), key=lambda run: run.job, default=None)
    kind = "target" if summary.is_target else "name"
    return {
        "id": f"{kind}-{blake2s(summary.name.encode(), digest_size=8).hexdigest()}",
        "of": summary,
        "state": None if latest is None else latest.state.value,
        "streak": _streak(summary),
        "more": "+" if is_cut else "",
    }


def _filter_of(failures: Failures) -> dict[str, object]:
    """Return the filter that finds the jobs of a group; without a name, also others that failed alike."""
    name = {} if failures.name is None else {"name": exact_name(failures.name)}
    if failures.error is None and failures.outcome is Outcome.EXIT:
        return {"exit": failures.exit_code, **name}
    error = failures.error or (failures.outcome or "").replace("_", " ")
    return {"error": error[:_MAX_ERROR].partition("\n")[0], **name}


_MAX_ERROR = 200  # characters, in an address


def _streak(summary: NameSummary) -> str:
    if summary.streak < 2:  # noqa: PLR2004 - the badge says one
        return ""
    more = "+" if summary.streak == summary.runs and summary.runs == summaries.RUNS else ""
    return f"{summary.streak}{more} in a row"


def _chart(hours: list[tuple[int, int]]) -> dict[str, object]:
    """Return bars of the jobs that succeeded and failed in each hour; `text` says their numbers."""
    done, failed = ([hour[column] for hour in hours] for column in (0, 1))
    said = [", ".join(f"{count:,}" for count in counts) for counts in (done, failed)]
    text = f"Jobs done in each of the last {len(hours)} hours, oldest first: {said[0]}. Failed: {said[1]}."
    series = ("failed", failed), ("succeeded", [all_ - bad for all_, bad in hours])
    return {"layers": drawing.bars(series, max(*done, 1)), "text": text}


def _overview_as_json(
    board: Board, figures: Figures, ends: Ends, failures: list[Failures]
) -> dict[str, object]:
    names = as_json(board.names)
    for each in names:
        del each["recent"]  # many, and the list has them
    return {
        **as_json(figures),
        "hours": [{"done": done, "failed": failed} for done, failed in ends.hours],
        "failures": [as_json(each) for each in failures],
        "names": names,
        "left_out": board.left_out,
        "has_more": board.has_more,
    }


# --- queues -------------------------------------------------------------------------------------------------


async def _queue_values(site: Site) -> dict[str, Any]:
    """Return the values for the page of the queues."""
    oldest, ends = await site.fresh(summaries.oldest_queued), await site.fresh(activity.ends)
    views = site.supervisor.queue_views(_that_ended_jobs(ends))
    return {
        **_slots(site),
        "rows": [_queue_row(view, oldest.get(view.name), ends) for view in views[:MAX_QUEUES]],
        "left_out": max(len(views) - MAX_QUEUES, 0),
        "resources": site.supervisor.resource_views(),
    }


async def _queues_as_json(site: Site) -> dict[str, object]:
    oldest, ends = await site.fresh(summaries.oldest_queued), await site.fresh(activity.ends)
    return {
        **_slots(site),
        "queues": [
            as_json(view)
            | {"oldest_queued_at": iso_time(oldest.get(view.name))}
            | as_json(ends.queues.get(view.name, QueueEnds()))
            for view in site.supervisor.queue_views(_that_ended_jobs(ends))
        ],
        "resources": as_json(site.supervisor.resource_views()),
    }


def _that_ended_jobs(ends: Ends) -> set[str]:
    """Return the queues that have figures of their own for the last day."""
    return ends.queues.keys() - {activity.OTHER}


def _slots(site: Site) -> dict[str, object]:
    supervisor = site.supervisor
    return {
        "slots": supervisor.slots,
        "taken": supervisor.scheduler.taken,
        "paused": supervisor.controls.paused,
    }


def _queue_row(view: QueueView, oldest: float | None, ends: Ends) -> dict[str, Any]:
    waiting = {state: view.counts[state] for state in _IN_ORDER if view.counts.get(state)}
    return {
        "id": f"queue-{view.name}",
        "queue": view,
        "ends": ends.queues.get(view.name, QueueEnds()),
        "running": sum(view.counts.get(state, 0) for state in ACTIVE),
        "waiting": waiting,
        "opens": view.opens_at if waiting.get(State.QUEUED) else None,
        "oldest": oldest,
    }


_IN_ORDER = (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD)
