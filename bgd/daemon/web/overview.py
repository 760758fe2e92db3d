"""Answer requests for what concerns all jobs: the overview by name, and the queues."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import blake2s
from typing import Any

from bgd.core.filters import exact_name
from bgd.core.job import ACTIVE, WAITING, State
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.storage import activity, summaries
from bgd.daemon.storage.activity import Ends, QueueEnds
from bgd.daemon.storage.summaries import Board, Failures, Figures, NameSummary
from bgd.daemon.web import drawing
from bgd.daemon.web.live import Part, Snapshot, row_parts
from bgd.daemon.web.queries import ListQuery, list_url
from bgd.daemon.web.responses import PageResponse, json_response, render_part, wants_json
from bgd.daemon.web.site import Site
from bgd.formatting import as_json, iso_time, outcome_in_words
from bgd.units import format_size
from bgd.wire.http import HttpRequest
from bgd.wire.views import QueueView

MAX_QUEUES = 200  # on a page


async def overview(site: Site, request: HttpRequest) -> PageResponse:
    """Return the figures of all jobs, and the names of jobs with their latest results."""
    if wants_json(request):
        return await json_response(_overview_as_json(*await _read_overview(site)))
    values = _overview_values(site)
    return await site.views.page("overview.html", values, "/job-logs/overview/live")


async def overview_live(site: Site, request: HttpRequest) -> PageResponse:
    """Return the stream of changes of the overview."""

    async def build() -> Snapshot:
        return _overview_snapshot(await _overview_values(site))

    return site.views.stream(request, "/job-logs/overview", build)


async def queues(site: Site, request: HttpRequest) -> PageResponse:
    """Return the queues, and the slots of the daemon."""
    if wants_json(request):
        return await json_response(await _queues_as_json(site))
    values = _queue_values(site)
    return await site.views.page("queues.html", values, "/job-logs/queues/live")


async def queues_live(site: Site, request: HttpRequest) -> PageResponse:
    """Return the stream of changes of the queues."""

    async def build() -> Snapshot:
        return _queues_snapshot(await _queue_values(site))

    return site.views.stream(request, "/job-logs/queues", build)


# --- the overview -------------------------------------------------------------------------------------------


async def _read_overview(site: Site) -> tuple[Board, Figures, Ends, list[Failures]]:
    board, figures = await site.fresh(summaries.board), await site.fresh(summaries.figures)
    return board, figures, await site.fresh(activity.ends), await site.fresh(summaries.failures)


async def _overview_values(site: Site) -> dict[str, Any]:
    return await asyncio.to_thread(_shown_overview, *await _read_overview(site))


def _shown_overview(board: Board, figures: Figures, ends: Ends, failures: list[Failures]) -> dict[str, Any]:
    counts, day = figures.counts, [sum(column) for column in zip(*ends.hours, strict=True)]
    return {
        "rows": [_name_row(each, is_cut=board.is_cut) for each in board.names],
        "left_out": board.left_out,
        "has_more": board.has_more,
        "running": sum(counts.get(state, 0) for state in ACTIVE),
        "running_url": list_url(_ANY, state=_RUNNING),
        "queued": counts.get(State.QUEUED, 0),
        "queued_url": list_url(_ANY, state=[State.QUEUED]),
        "done": day[0],
        "failed": day[1],
        "failed_url": list_url(_ANY, state=[State.FAILED]),
        "done_url": list_url(_ANY, state=[State.SUCCEEDED, State.FAILED]),
        "oldest": figures.oldest_queued_at,
        "log_size": format_size(figures.log_bytes),
        "database_size": format_size(figures.database_bytes),
        "failures": [(each.error or outcome_in_words(each), each) for each in failures],
        "chart": _chart(ends.hours),
    }


def _name_row(summary: NameSummary, *, is_cut: bool) -> dict[str, Any]:
    """Return what the overview shows of a name; `is_cut`: unfinished jobs were counted only in part."""
    latest = max(filter(None, (summary.succeeded, summary.failed)), key=lambda run: run.job, default=None)
    more = "+" if is_cut else ""
    kind = "target" if summary.is_target else "name"
    filter_ = {"class": summary.name} if summary.is_target else {"name": exact_name(summary.name)}
    url = partial(list_url, _ANY, **filter_)
    return {
        "id": f"{kind}-{blake2s(summary.name.encode(), digest_size=8).hexdigest()}",
        "of": summary,
        "state": None if latest is None else latest.state.value,
        "streak": _streak(summary),
        "running": f"{summary.running:,}{more}" if summary.running else "",
        "waiting": f"{summary.waiting:,}{more}" if summary.waiting else "",
        "url": url(),
        "failed_url": url(state=[State.FAILED]),
        "running_url": url(state=sorted(ACTIVE)),
        "waiting_url": url(state=sorted(WAITING)),
    }


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


def _overview_snapshot(values: dict[str, Any]) -> Snapshot:
    rows = row_parts(values["rows"], "name_row.html")
    figures = {name: value for name, value in values.items() if name not in {"rows", "failures"}}
    left_out = partial(render_part, "names_left_out.html", values)
    parts = {
        "figures": Part(figures, partial(render_part, "figures.html", values)),
        "failures": Part(values["failures"], partial(render_part, "failures.html", values)),
        "left-out": Part((values["left_out"], bool(rows)), left_out),
    }
    return Snapshot(parts | rows, list(rows))


def _overview_as_json(
    board: Board, figures: Figures, ends: Ends, failures: list[Failures]
) -> dict[str, object]:
    names = as_json(board.names)
    for each in names:
        del each["recent"]  # many, and the list has them
    return {
        "counts": figures.counts,
        "oldest_queued_at": iso_time(figures.oldest_queued_at),
        "log_bytes": figures.log_bytes,
        "database_bytes": figures.database_bytes,
        "hours": [{"done": done, "failed": failed} for done, failed in ends.hours],
        "failures": [as_json(each) for each in failures],
        "names": names,
        "left_out": board.left_out,
        "has_more": board.has_more,
    }


_ANY = ListQuery()


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
    of_queue = ends.queues.get(view.name, QueueEnds())

    def number(count: int, *states: State) -> dict[str, object]:
        return {"count": count, "url": list_url(_ANY, queue=view.name, state=list(states))}

    waiting = {state: view.counts[state] for state in _IN_ORDER if view.counts.get(state)}
    ended = (State.SUCCEEDED, State.FAILED)
    is_set = view.slots != view.configured_slots
    return {
        "id": f"queue-{view.name}",
        "queue": view,
        "url": list_url(_ANY, queue=view.name),
        "can_change": view.name != NOTIFICATION_QUEUE,
        "configured": f"configured: {view.configured_slots or 'no limit'}" if is_set else "",
        "running": number(sum(view.counts.get(state, 0) for state in ACTIVE), *_RUNNING),
        "waiting": number(sum(waiting.values()), *_IN_ORDER),
        "states": ", ".join(f"{jobs:,} {state}" for state, jobs in waiting.items()),
        "opens": view.opens_at if waiting.get(State.QUEUED) else None,
        "oldest": oldest,
        "hour": number(of_queue.hour, *ended),
        "hour_failed": number(of_queue.hour_failed, State.FAILED),
        "day": number(of_queue.day, *ended),
        "day_failed": number(of_queue.day_failed, State.FAILED),
    }


_RUNNING = (State.RUNNING, State.STOPPING)
_IN_ORDER = (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD)


def _queues_snapshot(values: dict[str, Any]) -> Snapshot:
    rows = row_parts(values["rows"], "queue_row.html", has_version=False)
    slots = {name: value for name, value in values.items() if name not in {"rows", "resources"}}
    # most of it is the Scheduler's, which is ahead of the events on disk
    part = partial(Part, has_version=False)
    parts = {
        "slots": part(slots, partial(render_part, "slots.html", values)),
        "resources": part(values["resources"], partial(render_part, "resources.html", values)),
    }
    return Snapshot(parts | rows, list(rows))
