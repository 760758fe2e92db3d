"""Answer requests for what concerns all jobs: the overview by name, and the queues."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import blake2s
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from bgd.core.filters import NO_OUTCOME, exact_name
from bgd.core.job import ACTIVE, Outcome, State
from bgd.daemon.explaining import with_reasons_of_oldest
from bgd.daemon.storage import activity, summaries
from bgd.daemon.storage.summaries import (
    Board,
    Failures,
    FailuresOfDay,
    Figures,
    Finished,
    NameSummary,
    OldestQueued,
)
from bgd.daemon.web import drawing
from bgd.daemon.web.live import Layout
from bgd.daemon.web.responses import PageResponse, json_response, wants_json
from bgd.daemon.web.site import Site
from bgd.text.formatting import as_json, iso_time, outcome_in_words, signal_name, why_queued
from bgd.wire.http import HttpRequest
from bgd.wire.views import QueueView

MAX_QUEUES = 200  # on a page


async def overview(site: Site, request: HttpRequest) -> PageResponse:
    """Return the figures of all jobs, and the names of jobs with their latest results."""
    if wants_json(request):
        return await json_response(_overview_as_json(await _read_overview(site)))
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
        "failures": ("failures.html", "failures", "more_failures"),
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


class _Overview(Struct, frozen=True, kw_only=True):
    """What the overview shows; `figures` count the jobs that a list without a filter has."""

    board: Board
    figures: Figures
    finished: Finished
    hours: list[tuple[int, int]]
    failures: FailuresOfDay


async def _read_overview(site: Site) -> _Overview:
    figures, counts = (
        await site.fresh(summaries.figures),
        await site.fresh(summaries.counts_but_notifications),
    )
    return _Overview(
        board=await site.fresh(summaries.board),
        figures=replace(figures, counts=counts),
        finished=(await site.fresh(summaries.finished)).in_all(),
        hours=await site.fresh(activity.ends),
        failures=await site.fresh(summaries.failures),
    )


async def _overview_values(site: Site) -> dict[str, Any]:
    return await asyncio.to_thread(_shown_overview, await _read_overview(site))


def _shown_overview(overview: _Overview) -> dict[str, Any]:
    board, failures = overview.board, overview.failures
    return {
        "rows": [_name_row(summary, board) for summary in board.names],
        "has_names": bool(board.names),
        "left_out": board.left_out,
        "has_more": board.has_more,
        "figures": overview.figures,
        "finished": overview.finished,
        "failures": [
            (
                group.error or outcome_in_words(group) or "no attempt",
                summaries.Count(group.jobs, failures.is_cut),
                _filter_of(group),
                group,
            )
            for group in failures.groups
        ],
        "more_failures": failures.left_out,
        "chart": _chart(overview.hours),
    }


def _name_row(summary: NameSummary, board: Board) -> dict[str, Any]:
    """Return what the overview shows of a name."""
    latest = max(filter(None, (summary.succeeded, summary.failed)), key=lambda run: run.job, default=None)
    kind = "target" if summary.is_target else "name"
    is_cut = board.targets_are_cut if summary.is_target else board.is_cut
    return {
        "id": f"{kind}-{blake2s(summary.name.encode(), digest_size=8).hexdigest()}",
        "of": summary,
        "filter": {"class=": summary.name, "name": ""}
        if summary.is_target
        else {"name": exact_name(summary.name)},
        "state": None if latest is None else latest.state.value,
        "streak": _streak(summary),
        "more": "+" if is_cut else "",
    }


def _filter_of(group: Failures) -> dict[str, object]:
    """Return the filter that finds the jobs of a group, and no others."""
    fields = {"finished": "1d", "queue": group.queue, "name": exact_name(group.name or "")}
    outcome: dict[str, object] = {"outcome": group.outcome or NO_OUTCOME}
    if group.outcome is Outcome.EXIT:
        outcome["exit"] = group.exit_code
    if group.outcome is Outcome.SIGNAL:
        outcome["signal"] = signal_name(group.signal)
    return {**fields, **outcome, "error=": group.error or ""}


def _streak(summary: NameSummary) -> str:
    if summary.streak < 2:  # noqa: PLR2004 - the badge says one
        return ""
    return f"{summary.streak}{'+' if summary.may_be_longer else ''} in a row"


def _chart(hours: list[tuple[int, int]]) -> dict[str, object]:
    """Return bars of the jobs that succeeded and failed in each hour; `text` says their numbers."""
    done, failed = ([hour[column] for hour in hours] for column in (0, 1))
    said = [", ".join(f"{count:,}" for count in counts) for counts in (done, failed)]
    text = f"Jobs done in each of the last {len(hours)} hours, oldest first: {said[0]}. Failed: {said[1]}."
    series = ("failed", failed), ("succeeded", [all_ - bad for all_, bad in hours])
    return {"layers": drawing.bars(series, max(*done, 1)), "text": text}


def _overview_as_json(overview: _Overview) -> dict[str, object]:
    board = overview.board
    names = as_json(board.names)
    for name in names:
        del name["recent"]  # many, and the list has them
    return {
        **as_json(overview.figures),
        "hours": [{"done": done, "failed": failed} for done, failed in overview.hours],
        "failures": as_json(overview.failures.groups),
        "names": names,
        "left_out": board.left_out,
        "has_more": board.has_more,
    }


# --- queues -------------------------------------------------------------------------------------------------


async def _queue_values(site: Site) -> dict[str, Any]:
    """Return the values for the page of the queues."""
    oldest, ended = await site.fresh(summaries.oldest_queued), await site.fresh(summaries.finished)
    views = with_reasons_of_oldest(site.supervisor.queue_views(ended.queues), oldest, site.supervisor)
    return {
        **_slots(site),
        "rows": [_queue_row(view, oldest.get(view.name), ended.of(view.name)) for view in views[:MAX_QUEUES]],
        "left_out": max(len(views) - MAX_QUEUES, 0),
        "resources": site.supervisor.resource_views(),
    }


async def _queues_as_json(site: Site) -> dict[str, object]:
    oldest, ended = await site.fresh(summaries.oldest_queued), await site.fresh(summaries.finished)
    return {
        **_slots(site),
        "queues": [
            as_json(view)
            | {"oldest_queued_at": iso_time(oldest[view.name].at if view.name in oldest else None)}
            | {name: count.jobs for name, count in asdict(ended.of(view.name)).items()}
            for view in with_reasons_of_oldest(
                site.supervisor.queue_views(ended.queues), oldest, site.supervisor
            )
        ],
        "resources": as_json(site.supervisor.resource_views()),
    }


def _slots(site: Site) -> dict[str, object]:
    supervisor = site.supervisor
    return {
        "slots": supervisor.slots,
        "taken": supervisor.scheduler.taken,
        "paused": supervisor.controls.paused,
    }


def _queue_row(view: QueueView, oldest: OldestQueued | None, ended: Finished) -> dict[str, Any]:
    waiting = {state: view.counts[state] for state in _IN_ORDER if view.counts.get(state)}
    return {
        "id": f"queue-{view.name}",
        "queue": view,
        "ended": ended,
        "running": sum(view.counts.get(state, 0) for state in ACTIVE),
        "waiting": waiting,
        "opens": view.opens_at if waiting.get(State.QUEUED) else None,
        "oldest": oldest,
        "why": why_queued(view),
    }


_IN_ORDER = (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD)
