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
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.daemon.streams import Subscription
from bgd.daemon.web.live import Part, Snapshot, row_parts
from bgd.daemon.web.responses import PageResponse, html_response, json_response, render_part, wants_json
from bgd.daemon.web.site import Site
from bgd.errors import BgdError, Refused
from bgd.formatting import command_line
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
    return await asyncio.to_thread(_list_values, await site.schedules.views(None, 1))


async def schedule(site: Site, request: HttpRequest, name: str) -> PageResponse:
    """Return one schedule, its next times, and what became of the latest ones; also of a removed one."""
    try:
        history = await site.schedules.history(name, HISTORY, None)
    except Refused as error:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no schedule {name}.") from error
    views = await site.schedules.views(name, UPCOMING) if site.schedules.has(name) else []
    if wants_json(request):
        return await json_response(
            {"schedule": to_builtins(views[0]) if views else None, "history": to_builtins(history)}
        )
    values: dict[str, object] = {
        "name": name,
        "row": _row(views[0]) if views else None,
        "facts": _facts(views[0].spec) if views else [],
        "upcoming": [_in_zone(at, views[0]) for at in views[0].upcoming] if views else [],
        "history": [_occurrence(each) for each in history],
    }
    return await html_response("schedule.html", values | await site.views.values(None, 0))


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


def _list_values(views: list[ScheduleView]) -> dict[str, Any]:
    return {"rows": [_row(view) for view in views[:MAX_ROWS]], "left_out": max(len(views) - MAX_ROWS, 0)}


def _list_snapshot(values: dict[str, Any]) -> Snapshot:
    empty = partial(render_part, "schedules_empty.html", values)
    # no event of a job tells that a schedule was changed
    rows = row_parts(values["rows"], "schedule_row.html", has_version=False)
    return Snapshot({"empty": Part(bool(rows), empty, has_version=False)} | rows, list(rows))


def _row(view: ScheduleView) -> dict[str, Any]:
    return {
        "id": f"schedule-{view.name}",
        "schedule": view,
        "command": command_line(view.spec.job, enough=MAX_COMMAND + 1)[:MAX_COMMAND],
        "next": view.upcoming[0] if view.upcoming else None,
        "next_in_zone": _in_zone(view.upcoming[0], view) if view.upcoming else "",
        "latest": None if view.latest is None else _occurrence(view.latest),
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


def _occurrence(view: OccurrenceView) -> dict[str, Any]:
    """Return what became of a time of a schedule; `state` chooses the colour of its badge."""
    count = f", {view.count:,} times" if view.count > 1 else ""
    return {
        "outcome": f"{view.outcome}{count}{', late' if view.late else ''}",
        "state": "failed" if view.late else _BADGES[view.outcome],
        "time": view,
    }


_BADGES = {Result.RAN: "succeeded", Result.SKIPPED: "cancelled", Result.MISSED: "failed"}
