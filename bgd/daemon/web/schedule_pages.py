"""Answer requests for schedules: all of them, and the history of one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from msgspec import to_builtins

from bgd import timezones
from bgd.core.job import ACTIVE
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.daemon.storage import summaries
from bgd.daemon.storage.summaries import Run
from bgd.daemon.streams import Subscription
from bgd.daemon.web.live import Part, Snapshot, row_parts
from bgd.daemon.web.responses import PageResponse, json_response, render_part, wants_json
from bgd.daemon.web.site import Site
from bgd.daemon.web.strip import state_of_run
from bgd.errors import BgdError, Refused
from bgd.formatting import command_line, short_duration
from bgd.units import format_duration
from bgd.wire.http import HttpRequest, RequestRefused
from bgd.wire.schedules import OccurrenceView, ScheduleView

MAX_ROWS = 200  # schedules on a page
UPCOMING = 5  # times on the page of one schedule
HISTORY = 50  # rows on it
MAX_COMMAND = 200  # characters


async def schedules(site: Site, request: HttpRequest) -> PageResponse:
    """Return all schedules with their next and latest times."""
    if wants_json(request):
        return await json_response(to_builtins(await site.schedules.views(None, 1)))
    return await site.views.page("schedules.html", _values(site), "/job-logs/schedules/live")


async def schedules_live(site: Site, request: HttpRequest) -> PageResponse:
    """Return the stream of changes of the schedules."""

    async def build() -> Snapshot:
        return _list_snapshot(await _values(site))

    return site.views.stream(request, "/job-logs/schedules", build, partial(_subscribe, site))


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
    live = f"/job-logs/schedules/{name}/live"
    return await site.views.page("schedule.html", _schedule_values(site, name), live)


async def schedule_live(site: Site, request: HttpRequest, name: str) -> PageResponse:
    """Return the stream of changes of one schedule and of its jobs."""

    async def build() -> Snapshot:
        values = await _schedule_values(site, name)
        # no event of a job tells that a schedule was changed
        parts = {
            part: Part(values, partial(render_part, f"schedule_{part}.html", values), has_version=False)
            for part in ("summary", "times")
        }
        return Snapshot(parts)

    return site.views.stream(request, f"/job-logs/schedules/{name}", build, partial(_subscribe, site))


async def _find(site: Site, name: str) -> tuple[ScheduleView | None, list[OccurrenceView]]:
    """Return a schedule and its history; None: it was removed."""
    try:
        history = await site.schedules.history(name, HISTORY, None)
    except Refused as error:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no schedule {name}.") from error
    return (await site.schedules.views(name, UPCOMING))[0] if site.schedules.has(name) else None, history


async def _schedule_values(site: Site, name: str) -> dict[str, object]:
    view, history = await _find(site, name)
    runs = (await site.store.search(summaries.runs_of_schedules, [name], HISTORY))[name]
    return {
        "name": name,
        "row": view and _row(view, runs),
        "facts": view and _facts(view.spec),
        "upcoming": [_in_zone(at, view) for at in view.upcoming] if view else [],
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
    return {"rows": rows, "left_out": max(len(views) - MAX_ROWS, 0)}


def _list_snapshot(values: dict[str, Any]) -> Snapshot:
    empty = partial(render_part, "schedules_empty.html", values)
    # no event of a job tells that a schedule was changed
    rows = row_parts(values["rows"], "schedule_row.html", has_version=False)
    return Snapshot({"empty": Part(bool(rows), empty, has_version=False)} | rows, list(rows))


def _row(view: ScheduleView, runs: list[Run]) -> dict[str, Any]:
    return {
        "id": f"schedule-{view.name}",
        "schedule": view,
        "command": command_line(view.spec.job, enough=MAX_COMMAND + 1)[:MAX_COMMAND],
        "next": view.upcoming[0] if view.upcoming else None,
        "next_in_zone": _in_zone(view.upcoming[0], view) if view.upcoming else "",
        "latest": None if view.latest is None else _occurrence(view.latest, runs),
        "runs": runs,
    }


def _facts(spec: ScheduleSpec) -> list[tuple[str, str]]:
    """Return what else the definition says, each with a label."""
    job, age = spec.job, ""
    if spec.missed is Missed.LATEST:
        age = f", if not older than {format_duration(spec.missed_within)}"
    facts: dict[str, Any] = {
        "If the last job still runs": _OVERLAPS[spec.overlap],
        "If missed": spec.missed is not Missed.CRON and f"{_MISSED[spec.missed]}{age}",
        "Late after": spec.late_after and format_duration(spec.late_after),
        "Jitter": spec.jitter and format_duration(spec.jitter),
        "Not on": ", ".join(spec.excluded),
        "Time limit": job.timeout and format_duration(job.timeout),
        "Queue": job.queue,
        "Priority": "" if job.priority is None else str(job.priority),
        "Retries": "" if job.retries is None else str(job.retries),
        "Notifies": job.notify,
        "Tags": ", ".join(job.tags),
    }
    return [(label, value) for label, value in facts.items() if value]


_OVERLAPS = {
    Overlap.ALLOW: "start beside it",
    Overlap.SKIP: "skip this time",
    Overlap.QUEUE: "wait for it",
    Overlap.REPLACE: "cancel it",
}
_MISSED = {Missed.SKIP: "do not run", Missed.LATEST: "run the latest"}


def _in_zone(at: float, view: ScheduleView) -> str:
    try:
        zone = timezones.zone(view.timezone)
    except LookupError:  # the tz database has lost it since the schedule was added
        zone = None
    return f"{datetime.fromtimestamp(at, zone).astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}"


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


_BADGES = {Result.RAN: "cancelled", Result.SKIPPED: "cancelled", Result.MISSED: "failed"}
