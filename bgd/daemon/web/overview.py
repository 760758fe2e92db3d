"""Answer requests for what concerns all jobs: the overview by name, and the queues."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from hashlib import blake2s
from typing import Any, TypeVar

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from bgd.core.job import ACTIVE, WAITING, State
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.storage import summaries
from bgd.daemon.storage.store import Store
from bgd.daemon.storage.summaries import Board, Ends, Figures, NameSummary, QueueEnds, Run
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.live import LiveViews, Part, Snapshot
from bgd.daemon.web.queries import ListQuery, LiveQuery, exact_name, list_url, read_query
from bgd.daemon.web.responses import (
    PageResponse,
    event_stream,
    html_response,
    json_response,
    render_part,
    wants_json,
)
from bgd.daemon.web.views import DisplayTime, RunningTime, display_time, size_text
from bgd.formatting import iso_time, short_duration
from bgd.wire.http import HttpRequest
from bgd.wire.views import QueueView

FIRST_COUNT = 0.03  # seconds that a page takes to count what ended; its stream counts the rest
NEXT_COUNT = 0.1  # seconds at a time, between which others may search
MAX_AGE = 60.0  # seconds after which all is read again although nothing happened
MAX_QUEUES = 200  # on a page

R = TypeVar("R")


class Overview:
    """The pages about all jobs."""

    def __init__(self, supervisor: Supervisor, store: Store, views: LiveViews) -> None:
        self._supervisor = supervisor
        self._store = store
        self._views = views
        self._end_counter = summaries.EndCounter()
        self._reading = asyncio.Lock()
        self._kept: dict[Callable[[sqlite3.Connection], Any], _Kept] = {}

    async def overview(self, request: HttpRequest) -> PageResponse:
        """Return the figures of all jobs, and the names of jobs with their latest results."""
        version = self._store.position
        found = await self._read_overview(is_patient=False)
        if wants_json(request):
            return await json_response(_overview_as_json(*found))
        values = await asyncio.to_thread(_overview_values, *found)
        live = await self._views.values("/job-logs/overview/live", version)
        return await html_response("overview.html", values | live)

    async def overview_live(self, request: HttpRequest) -> PageResponse:
        """Return the stream of changes of the overview."""

        async def build() -> Snapshot:
            version = self._store.position
            found = await self._read_overview(is_patient=True)
            return _overview_snapshot(version, await asyncio.to_thread(_overview_values, *found))

        return self._stream(request, "/job-logs/overview", build)

    async def queues(self, request: HttpRequest) -> PageResponse:
        """Return the queues, and the slots of the daemon."""
        version = self._store.position
        found = await self._read_queues(is_patient=False)
        if wants_json(request):
            return await json_response(self._queues_as_json(*found))
        values = self._queue_values(*found)
        live = await self._views.values("/job-logs/queues/live", version)
        return await html_response("queues.html", values | live)

    async def queues_live(self, request: HttpRequest) -> PageResponse:
        """Return the stream of changes of the queues."""

        async def build() -> Snapshot:
            version = self._store.position
            return _queues_snapshot(version, self._queue_values(*await self._read_queues(is_patient=True)))

        return self._stream(request, "/job-logs/queues", build)

    def _stream(
        self, request: HttpRequest, address: str, build: Callable[[], Awaitable[Snapshot]]
    ) -> PageResponse:
        def subscribe() -> AbstractContextManager[Subscription]:
            return self._supervisor.subscriptions.subscribe_to_all()

        since = read_query(request.query, LiveQuery).since
        return event_stream(self._views.updates(address, build, subscribe, since))

    # --- reading --------------------------------------------------------------------------------------------

    async def _read_overview(self, *, is_patient: bool) -> tuple[Board, Figures, Ends]:
        board, figures = await self._fresh(summaries.board), await self._fresh(summaries.figures)
        return board, figures, await self._ends(is_patient=is_patient)

    async def _read_queues(self, *, is_patient: bool) -> tuple[dict[str, float], Ends]:
        return await self._fresh(summaries.oldest_queued), await self._ends(is_patient=is_patient)

    async def _ends(self, *, is_patient: bool) -> Ends:
        """Return what ended in the last day; a patient caller waits until all is counted."""
        ends = await self._fresh(self._count_ends)
        while is_patient and not ends.is_complete:
            ends = await self._store.search(self._end_counter.count, NEXT_COUNT)
        return ends

    def _count_ends(self, db: sqlite3.Connection) -> Ends:
        return self._end_counter.count(db, FIRST_COUNT)

    async def _fresh(self, function: Callable[[sqlite3.Connection], R]) -> R:
        """Return what a function reads from the store.

        It is read again only if something has happened since. Those who come meanwhile share the next read.
        """
        came_at = time.monotonic()
        async with self._reading:
            kept, position, now = self._kept.get(function), self._store.position, time.monotonic()
            if kept is None or not (kept.is_of(position, now) or kept.began_at >= came_at):
                value: R = await self._store.search(function)
                self._kept[function] = _Kept(value, position, now)
                return value
            found: R = kept.value
            return found

    # --- queues, as people see them -------------------------------------------------------------------------

    def _queue_values(self, oldest: dict[str, float], ends: Ends) -> dict[str, object]:
        """Return the values for the page of the queues."""
        now, views = time.time(), self._supervisor.queue_views()
        return {
            "rows": [_queue_row(view, oldest.get(view.name), ends, now) for view in views[:MAX_QUEUES]],
            "left_out": max(len(views) - MAX_QUEUES, 0),
            "resources": self._supervisor.resource_views(),
            "slots": self._supervisor.slots,
            "taken": self._supervisor.taken,
            "paused": self._supervisor.controls.paused,
            "is_complete": ends.is_complete,
        }

    def _queues_as_json(self, oldest: dict[str, float], ends: Ends) -> dict[str, object]:
        supervisor = self._supervisor
        return {
            "slots": supervisor.slots,
            "taken": supervisor.taken,
            "paused": supervisor.controls.paused,
            "is_complete": ends.is_complete,
            "queues": [
                to_builtins(view)
                | {
                    "opens_at": iso_time(view.opens_at),
                    "oldest_queued_at": iso_time(oldest.get(view.name)),
                }
                | to_builtins(ends.queues.get(view.name, QueueEnds()))
                for view in supervisor.queue_views()
            ],
            "resources": to_builtins(supervisor.resource_views()),
        }


class _Kept(Struct, frozen=True):
    """What was read, beginning at a monotonic time, when this was the newest event on disk."""

    value: Any
    position: int
    began_at: float

    def is_of(self, position: int, now: float) -> bool:
        return self.position == position and now - self.began_at < MAX_AGE


# --- the overview -------------------------------------------------------------------------------------------


class NameRow(Struct, frozen=True, kw_only=True):
    """Jobs of one name on the overview. Texts are empty, and times None, where nothing is known."""

    id: str
    name: str
    is_target: bool
    state: str | None
    streak: str
    succeeded: DisplayTime | None
    succeeded_job: int
    failed: DisplayTime | None
    failed_job: int
    median: str
    last: str
    running: str
    waiting: str
    url: str
    failed_url: str
    running_url: str
    waiting_url: str


class Chart(Struct, frozen=True):
    """Lines of the jobs done and failed in each hour, as points of an SVG; `text` says the same."""

    done: str
    failed: str
    text: str


CHART_WIDTH, CHART_HEIGHT = 230, 40


def _overview_values(board: Board, figures: Figures, ends: Ends) -> dict[str, object]:
    now = time.time()
    counts, day = figures.counts, [sum(column) for column in zip(*ends.hours, strict=True)]
    return {
        "rows": [_name_row(each, now, is_cut=board.is_cut) for each in board.names],
        "left_out": board.left_out,
        "has_more": board.has_more,
        "is_empty": not sum(counts.values()),
        "running": sum(counts.get(state, 0) for state in ACTIVE),
        "running_url": list_url(_ANY, state=[State.RUNNING, State.STOPPING]),
        "queued": counts.get(State.QUEUED, 0),
        "queued_url": list_url(_ANY, state=[State.QUEUED]),
        "done": day[0],
        "failed": day[1],
        "failed_url": list_url(_ANY, state=[State.FAILED]),
        "done_url": list_url(_ANY, state=[State.SUCCEEDED, State.FAILED]),
        "oldest": _wait(figures.oldest_queued_at, now),
        "log_size": size_text(figures.log_bytes),
        "database_size": size_text(figures.database_bytes),
        "is_complete": ends.is_complete,
        "chart": _chart(ends.hours),
        "chart_size": (CHART_WIDTH, CHART_HEIGHT),
    }


def _name_row(summary: NameSummary, now: float, *, is_cut: bool) -> NameRow:
    """Return what the overview shows of a name; `is_cut`: unfinished jobs were counted only in part."""
    latest = max(filter(None, (summary.succeeded, summary.failed)), key=lambda run: run.job, default=None)
    more = "+" if is_cut else ""
    kind = "target" if summary.is_target else "name"
    filter_ = {"class": summary.name} if summary.is_target else {"name": exact_name(summary.name)}
    url = partial(list_url, _ANY, **filter_)
    return NameRow(
        id=f"{kind}-{blake2s(summary.name.encode(), digest_size=8).hexdigest()}",
        name=summary.name,
        is_target=summary.is_target,
        state=None if latest is None else latest.state.value,
        streak=_streak(summary),
        succeeded=_ended(summary.succeeded, now),
        succeeded_job=summary.succeeded.job if summary.succeeded else 0,
        failed=_ended(summary.failed, now),
        failed_job=summary.failed.job if summary.failed else 0,
        median=short_duration(summary.median),
        last=short_duration(summary.last_seconds),
        running=f"{summary.running:,}{more}" if summary.running else "",
        waiting=f"{summary.waiting:,}{more}" if summary.waiting else "",
        url=url(),
        failed_url=url(state=[State.FAILED]),
        running_url=url(state=sorted(ACTIVE)),
        waiting_url=url(state=sorted(WAITING)),
    )


def _streak(summary: NameSummary) -> str:
    if summary.streak < 2:  # noqa: PLR2004 - the badge says one
        return ""
    more = "+" if summary.streak == summary.runs and summary.runs == summaries.RUNS else ""
    return f"{summary.streak}{more} in a row"


def _ended(run: Run | None, now: float) -> DisplayTime | None:
    return None if run is None else display_time(run.at, now)


def _wait(since: float | None, now: float) -> RunningTime:
    return RunningTime("" if since is None else short_duration(now - since), since)


def _chart(hours: list[tuple[int, int]]) -> Chart:
    done, failed = ([hour[column] for hour in hours] for column in (0, 1))
    most = max(*done, 1)

    def points(counts: list[int]) -> str:
        step = CHART_WIDTH / (len(counts) - 1)
        height = CHART_HEIGHT - 2
        return " ".join(
            f"{index * step:g},{1 + height - height * count / most:.1f}" for index, count in enumerate(counts)
        )

    said = [", ".join(f"{count:,}" for count in counts) for counts in (done, failed)]
    return Chart(
        points(done),
        points(failed),
        f"Jobs done in each of the last {len(hours)} hours, oldest first: {said[0]}. Failed: {said[1]}.",
    )


def _overview_snapshot(version: int, values: dict[str, Any]) -> Snapshot:
    rows: list[NameRow] = values["rows"]
    figures = {name: value for name, value in values.items() if name != "rows"}
    figures["oldest"] = figures["oldest"].since  # a page counts on by itself
    parts = {"figures": Part(figures, partial(render_part, "figures.html", values))}
    for row in rows:
        lasting = replace(row, succeeded=_lasting(row.succeeded), failed=_lasting(row.failed))
        parts[row.id] = Part(lasting, partial(render_part, "name_row.html", {"row": row}))
    parts["left-out"] = Part(
        (values["left_out"], bool(rows)), partial(render_part, "names_left_out.html", values)
    )
    return Snapshot(version, parts, [row.id for row in rows])


def _lasting(time_: DisplayTime | None) -> DisplayTime | None:
    return time_ and replace(time_, relative="")


def _overview_as_json(board: Board, figures: Figures, ends: Ends) -> dict[str, object]:
    return {
        "counts": figures.counts,
        "oldest_queued_at": iso_time(figures.oldest_queued_at),
        "log_bytes": figures.log_bytes,
        "database_bytes": figures.database_bytes,
        "hours": [{"done": done, "failed": failed} for done, failed in ends.hours],
        "is_complete": ends.is_complete,
        "names": [_name_as_json(summary) for summary in board.names],
        "left_out": board.left_out,
        "has_more": board.has_more,
    }


def _name_as_json(summary: NameSummary) -> dict[str, object]:
    fields: dict[str, object] = to_builtins(summary)
    for name in ("succeeded", "failed"):
        run: Run | None = getattr(summary, name)
        fields[name] = run and {"job": run.job, "at": iso_time(run.at), "seconds": run.seconds}
    return fields


_ANY = ListQuery()


# --- queues -------------------------------------------------------------------------------------------------


class Number(Struct, frozen=True):
    """A number that leads to the jobs it counts."""

    count: int
    url: str


class QueueRow(Struct, frozen=True, kw_only=True):
    """A queue on its page. `can_change`: people may. `states`: of the jobs that wait, by state.

    `rate`, `weight`: empty where the configuration gives it none. `opens`: when the rate lets the next job
    start, if one waits for that.
    """

    id: str
    name: str
    url: str
    can_change: bool
    paused: bool
    slots: int | None
    configured: str
    running: Number
    waiting: Number
    states: str
    rate: str
    opens: DisplayTime | None
    weight: str
    oldest: RunningTime
    hour: Number
    hour_failed: Number
    day: Number
    day_failed: Number


def _queue_row(view: QueueView, oldest: float | None, ends: Ends, now: float) -> QueueRow:
    of_queue = ends.queues.get(view.name, QueueEnds())

    def number(count: int, *states: State) -> Number:
        return Number(count, list_url(_ANY, queue=view.name, state=list(states)))

    waiting = {state: view.counts[state] for state in _IN_ORDER if view.counts.get(state)}
    ended = (State.SUCCEEDED, State.FAILED)
    is_set = view.slots != view.configured_slots
    opens_at = view.opens_at if waiting.get(State.QUEUED) else None
    return QueueRow(
        id=f"queue-{view.name}",
        name=view.name,
        url=list_url(_ANY, queue=view.name),
        can_change=view.name != NOTIFICATION_QUEUE,
        paused=view.paused,
        slots=view.slots,
        configured=f"configured: {view.configured_slots or 'no limit'}" if is_set else "",
        running=number(sum(view.counts.get(state, 0) for state in ACTIVE), State.RUNNING, State.STOPPING),
        waiting=number(sum(waiting.values()), *_IN_ORDER),
        states=", ".join(f"{jobs:,} {state}" for state, jobs in waiting.items()),
        rate=view.rate or "",
        opens=None if opens_at is None else display_time(opens_at, now),
        weight="" if view.weight is None else str(view.weight),
        oldest=_wait(oldest, now),
        hour=number(of_queue.hour, *ended),
        hour_failed=number(of_queue.hour_failed, State.FAILED),
        day=number(of_queue.day, *ended),
        day_failed=number(of_queue.day_failed, State.FAILED),
    )


_IN_ORDER = (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD)


def _queues_snapshot(version: int, values: dict[str, Any]) -> Snapshot:
    rows: list[QueueRow] = values["rows"]
    slots = {name: value for name, value in values.items() if name not in {"rows", "resources"}}
    # most of it is the Scheduler's, which is ahead of the events on disk
    part = partial(Part, has_version=False)
    parts = {
        "slots": part(slots, partial(render_part, "slots.html", values)),
        "resources": part(values["resources"], partial(render_part, "resources.html", values)),
    }
    for row in rows:
        lasting = replace(row, oldest=replace(row.oldest, text=""), opens=_lasting(row.opens))
        parts[row.id] = part(lasting, partial(render_part, "queue_row.html", {"row": row}))
    return Snapshot(version, parts, [row.id for row in rows])
