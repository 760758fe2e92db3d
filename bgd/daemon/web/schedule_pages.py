"""Answer requests for schedules: all of them, and the history of one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from msgspec import to_builtins

from bgd.core.job import ACTIVE
from bgd.core.schedule_spec import Result
from bgd.daemon.storage import summaries
from bgd.daemon.storage.summaries import Run
from bgd.daemon.streams import Subscription
from bgd.daemon.web.live import Layout
from bgd.daemon.web.responses import PageResponse, json_response, wants_json
from bgd.daemon.web.site import Site
from bgd.daemon.web.strip import state_of_run
from bgd.errors import BgdError, Refused
from bgd.text.brief import command_line, short_duration
from bgd.wire.http import HttpRequest, RequestRefused, not_found
from bgd.wire.schedules import OccurrenceView, ScheduleView

MAX_ROWS = 200  # schedules on a page
UPCOMING = 5  # times on the page of one schedule
HISTORY = 50  # rows on it
MAX_COMMAND = 200  # characters


async def schedules(site: Site, request: HttpRequest) -> PageResponse:
    """Return all schedules with their next and latest times."""
    if wants_json(request):
        return await json_response(to_builtins(await site.schedules.views(None, 1)))
    values, subscribe = partial(_values, site), partial(_subscribe, site)
    return await site.views.show(request, _SCHEDULES, "/job-logs/schedules", values, subscribe)


async def _values(site: Site) -> dict[str, Any]:
    views = await site.schedules.views(None, 1)
    names = [view.name for view in views[:MAX_ROWS]]
    runs = await site.store.search(summaries.runs_of_schedules, names, summaries.RECENT)
    return await asyncio.to_thread(_list_values, views, runs)


async def schedule(site: Site, request: HttpRequest, name: str) -> PageResponse:
    """Return one schedule, its next times, and what became of the latest ones; also of a removed one."""
    if wants_json(request):
        view, history = await _find(site, name)
        return await json_response({"schedule": view and to_builtins(view), "history": to_builtins(history)})
    values, subscribe = partial(_schedule_values, site, name), partial(_subscribe, site)
    return await site.views.show(request, _SCHEDULE, f"/job-logs/schedules/{name}", values, subscribe)


# no event of a job tells that a schedule was changed
_EMPTY = {"empty": ("schedules_empty.html", "is_empty")}
_SCHEDULES = Layout("schedules.html", _EMPTY, "schedule_row.html", has_version=False)
_PARTS = {"summary": ("schedule_summary.html",), "times": ("schedule_times.html",)}
_SCHEDULE = Layout("schedule.html", _PARTS, has_version=False)


async def _find(site: Site, name: str) -> tuple[ScheduleView | None, list[OccurrenceView]]:
    """Return a schedule and its history; None: it was removed."""
    try:
        history = await site.schedules.history(name, HISTORY, None)
    except Refused as error:
        raise not_found(f"There is no schedule {name}.") from error
    return (await site.schedules.views(name, UPCOMING))[0] if site.schedules.has(name) else None, history


async def _schedule_values(site: Site, name: str) -> dict[str, object]:
    view, history = await _find(site, name)
    runs = (await site.store.search(summaries.runs_of_schedules, [name], HISTORY))[name]
    return {
        "name": name,
        "row": view and _row(view, runs),
        "history": [_occurrence(each, runs) for each in history],
        "runs": runs,
    }


async def act(site: Site, request: HttpRequest, asked_by: str, name: str, verb: str) -> PageResponse:
    """Run a schedule now, pause it or resume it; the answer is JSON."""
    del request
    try:
        if verb == "run":
            answer: dict[str, object] = {"id": site.schedules.run_now(name, asked_by)}
        else:
            site.schedules.set_paused(name, paused=verb == "pause")
            answer = {"name": name, "paused": verb == "pause"}
    except BgdError as error:
        status = HTTPStatus.CONFLICT if site.schedules.has(name) else HTTPStatus.NOT_FOUND
        raise RequestRefused(status, str(error)) from error
    await site.supervisor.saved()
    return await json_response(answer)


@contextmanager
def _subscribe(site: Site) -> Iterator[Subscription]:
    """Yield what tells that jobs or schedules have changed."""
    subscriptions = site.supervisor.subscriptions
    with (
        subscriptions.subscribe_to_all() as subscription,
        subscriptions.watch(subscription, lambda: site.schedules.clock.changes),
    ):
        yield subscription


def _list_values(views: list[ScheduleView], runs: dict[str, list[Run]]) -> dict[str, Any]:
    rows = [_row(view, runs[view.name]) for view in views[:MAX_ROWS]]
    return {"rows": rows, "is_empty": not rows, "left_out": max(len(views) - MAX_ROWS, 0)}


def _row(view: ScheduleView, runs: list[Run]) -> dict[str, Any]:
    return {
        "id": f"schedule-{view.name}",
        "schedule": view,
        "command": command_line(view.spec.job, enough=MAX_COMMAND + 1)[:MAX_COMMAND],
        "latest": None if view.latest is None else _occurrence(view.latest, runs),
        "runs": runs,
    }


def _occurrence(view: OccurrenceView, runs: list[Run]) -> dict[str, Any]:
    """Return what became of a time of a schedule, and of its job if that is still there.

    `state` chooses the colour of its badge. `took`: how long the job ran; if it still runs, since when.
    """
    run = next((run for run in runs if run.job == view.job), None)
    outcome, state = (
        (state_of_run(run), run.state.value) if run else (view.outcome.value, _BADGES[view.outcome])
    )
    count = f", {view.count:,} times" if view.count > 1 else ""
    return {
        "outcome": f"{outcome}{count}{', late' if view.late else ''}",
        "state": "failed" if view.late else state,
        "took": run and (run.at if run.state in ACTIVE else short_duration(run.seconds)),
        "time": view,
    }


_BADGES = dict.fromkeys(Result, "cancelled") | {Result.MISSED: "failed"}
