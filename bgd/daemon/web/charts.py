"""The page of charts: what started and ended, how long jobs waited and ran, and the slots that they took."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from hashlib import blake2s
from typing import Any, Literal
from urllib.parse import urlencode

from msgspec import Struct

from bgd.core.filters import exact_name
from bgd.core.job import Outcome
from bgd.daemon.storage import activity, summaries
from bgd.daemon.storage.activity import DAY, HOUR, MINUTE, NAME, OTHER, QUARTER, QUEUE, Counts, percentile
from bgd.daemon.storage.summaries import MAX_RUNS, SlotRun
from bgd.daemon.web import drawing
from bgd.daemon.web.live import Layout
from bgd.daemon.web.queries import ListQuery, list_url, read_query
from bgd.daemon.web.responses import PageResponse
from bgd.daemon.web.site import Site
from bgd.text.brief import short_duration
from bgd.wire.http import HttpRequest

MAX_ROWS = 20  # queues or names with a row of their own, the busiest ones
MAX_SLOTS = 64  # with a row of their own
NONE = "\N{EN DASH}"
PAUSE = 5.0  # seconds between two updates of an open page


class Span(Struct, frozen=True):
    """A time that the page shows, in `count` columns of `step` seconds.

    * `clock`: how it writes the begin of a column.
    * `merged`: columns that share one in the small pictures of the rows.
    """

    words: str
    step: int
    count: int
    clock: str
    merged: int


SPANS = {
    "1h": Span("1 hour", MINUTE, HOUR // MINUTE, "%H:%M", 2),
    "24h": Span("24 hours", QUARTER, DAY // QUARTER, "%H:%M", 4),
    "7d": Span("7 days", HOUR, 7 * DAY // HOUR, "%a %H:%M", 6),
}


class ChartQuery(Struct, frozen=True):
    """What to show: a time, rows for queues or names, and whose charts; `of` None: those of all together."""

    span: Literal["1h", "24h", "7d"] = "24h"
    by: Literal["queue", "name"] = "queue"
    of: str | None = None

    def url(self, **changes: str | None) -> str:
        """Return the address of this with some fields changed."""
        fields = {"span": self.span, "by": self.by, "of": self.of, **changes}
        return "/job-logs/charts?" + urlencode(
            {key: text for key, text in fields.items() if text is not None}
        )


async def charts(site: Site, request: HttpRequest) -> PageResponse:
    """Return the charts of a time."""
    query = read_query(request.query, ChartQuery)
    return await site.views.show(request, _LAYOUT, query.url(), partial(_values, site, query))


_LAYOUT = Layout(
    "charts.html",
    {"charts": ("plots.html",), "slots": ("slot_rows.html", "slots")},
    "chart_row.html",
    has_version=False,
    pause=PAUSE,
)


# --- what is shown ------------------------------------------------------------------------------------------

_Columns = list[Counts]


def _read(span: Span, kind: str, db: sqlite3.Connection) -> tuple[int, dict[str, _Columns]]:
    now = time.time()
    begin = (int(now) // span.step + 1 - span.count) * span.step
    return begin, activity.columns(db, kind, begin, span.step, span.count, now)


_READS = {(name, kind): partial(_read, span, kind) for name, span in SPANS.items() for kind in (QUEUE, NAME)}


def _read_runs(db: sqlite3.Connection) -> list[SlotRun]:
    return summaries.runs_since(db, time.time() - HOUR)


async def _values(site: Site, query: ChartQuery) -> dict[str, Any]:
    begin, found = await site.fresh(_READS[query.span, query.by])
    runs = await site.fresh(_read_runs) if query.span == "1h" and query.of is None else []
    shown = await asyncio.to_thread(_shown, query, begin, found)
    is_whole = sum(run.ended_at is not None for run in runs) < MAX_RUNS
    which = "in the last hour" if is_whole else f"the latest {MAX_RUNS} attempts that ended"
    return shown | {"slots": _slot_rows(runs, time.time(), is_whole=is_whole), "which_runs": which}


def _shown(query: ChartQuery, begin: int, found: dict[str, _Columns]) -> dict[str, Any]:
    """Return the values for charts.html."""
    span = SPANS[query.span]
    chosen = found.get(query.of, []) if query.of is not None else _sums(found.values())
    chosen = chosen or [Counts() for _ in range(span.count)]
    labels = [_clock(begin + place * span.step, span.clock) for place in range(span.count)]
    listed = None if not query.of else list_url(ListQuery(), **_filter_of(query.by, query.of))
    return {
        "span": span.words,
        "spans": [(each.words, query.url(span=name), name == query.span) for name, each in SPANS.items()],
        "kinds": [(f"By {kind}", query.url(by=kind, of=None), kind == query.by) for kind in (QUEUE, NAME)],
        "by": query.by,
        "of": None if query.of is None else _label(query.by, query.of),
        "all_url": query.url(of=None),
        "list_url": listed,
        "totals": _totals(chosen),
        "plots": _plots(chosen, labels, span.step),
        "ticks": [labels[0], labels[span.count // 2], labels[-1]],
        "columns": [
            (label, _numbers(counts, span.step))
            for label, counts in zip(labels, chosen, strict=True)
            if counts != Counts()
        ][::-1],
        "rows": _rows(query, span, found),
    }


def _clock(at: int, format_: str) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():{format_}}"


def _sums(all_columns: Iterable[_Columns]) -> _Columns:
    """Return the sums of columns that stand for the same times."""
    return [_sum(column) for column in zip(*all_columns, strict=True)]


def _sum(several: Iterable[Counts]) -> Counts:
    total = Counts()
    for counts in several:
        total.add(counts)
    return total


def _filter_of(kind: str, subject: str) -> dict[str, str]:
    return {kind: exact_name(subject) if kind == NAME else subject}


def _label(kind: str, subject: str) -> str:
    others = {QUEUE: "Other queues", NAME: "No name, and other names"}
    return others[kind] if subject == OTHER else subject


def _totals(columns: _Columns) -> list[tuple[str, str]]:
    """Return the sums over the whole time, in words."""
    total = _sum(columns)
    outcomes = sorted(total.outcomes.items(), key=lambda each: -each[1])
    return [
        ("started", f"{total.started:,}"),
        *((outcome.replace("_", " "), f"{number:,}") for outcome, number in outcomes),
        ("wait p50 / p95", _percentiles(total.waits)),
        ("run p50 / p95", _percentiles(total.runs)),
    ]


def _percentiles(buckets: dict[int, int]) -> str:
    low, high = (percentile(buckets, share) for share in (0.5, 0.95))
    return NONE if low is None or high is None else f"{short_duration(low)} / {short_duration(high)}"


def _rows(query: ChartQuery, span: Span, found: dict[str, _Columns]) -> list[dict[str, Any]]:
    """Return the rows of the busiest queues or names, and one for all others."""
    sums = {subject: _sum(columns) for subject, columns in found.items()}
    order = sorted(sums, key=lambda subject: (subject != OTHER, sums[subject].activity), reverse=True)
    named = [subject for subject in order if subject != OTHER]
    rest = [*named[MAX_ROWS:], *(subject for subject in found if subject == OTHER)]
    groups = [(subject, found[subject]) for subject in named[:MAX_ROWS]]
    if rest:
        groups.append((OTHER, _sums(found[subject] for subject in rest)))
    return [_row(query, span, subject, columns) for subject, columns in groups]


def _row(query: ChartQuery, span: Span, subject: str, columns: _Columns) -> dict[str, Any]:
    total = _sum(columns)
    small = [_sum(columns[at : at + span.merged]) for at in range(0, span.count, span.merged)]
    taken = [counts.slot_seconds / span.step / span.merged for counts in small]
    return {
        "id": f"{query.by}-{blake2s(subject.encode(), digest_size=8).hexdigest()}",
        "label": _label(query.by, subject),
        "url": query.url(of=subject),
        "started": f"{total.started:,}",
        "failed": _by_look(total)["failed"],
        "ended": drawing.bars(*_stack_of(small)),
        "wait": _percentiles(total.waits),
        "run": _percentiles(total.runs),
        "slots": _slots(total.slot_seconds / span.step / span.count),
        "taken": drawing.area("slots", taken, drawing.top_of(taken)),
    }


# --- charts -------------------------------------------------------------------------------------------------

# The classes of outcomes' styles, from the bottom of a bar; any other outcome is a failure
_LOOKS = {
    Outcome.SNOOZED: "again",
    Outcome.INTERRUPTED: "again",
    Outcome.CANCELLED: "cancelled",
    Outcome.SUCCEEDED: "succeeded",
}


def _by_look(counts: Counts) -> dict[str, int]:
    """Return how many attempts ended in a way that has a style of its own."""
    looks = dict.fromkeys(("failed", *_LOOKS.values()), 0)
    for outcome, number in counts.outcomes.items():
        looks[_LOOKS.get(outcome, "failed")] += number
    return looks


def _stack_of(columns: _Columns) -> tuple[list[tuple[str, list[int]]], float]:
    """Return how many attempts ended in each column, by look, and the top of their picture."""
    ended = [_by_look(counts) for counts in columns]
    top = drawing.top_of(
        [max(sum(looks.values()), each.started) for looks, each in zip(ended, columns, strict=True)]
    )
    return [(look, [looks[look] for looks in ended]) for look in ended[0]], top


def _slots(taken: float) -> str:
    return f"{taken:,.2f}"


def _numbers(counts: Counts, step: int) -> list[str]:
    """Return a line of the table of the charts."""
    attempts = (counts.started, *reversed(_by_look(counts).values()))
    times = _percentiles(counts.waits), _percentiles(counts.runs)
    return [*(f"{number:,}" for number in attempts), *times, _slots(counts.slot_seconds / step)]


def _plots(columns: _Columns, labels: list[str], step: int) -> list[dict[str, Any]]:
    return [
        _plot_of_attempts(columns, labels),
        _plot_of_times("Waited", [counts.waits for counts in columns], labels),
        _plot_of_times("Ran", [counts.runs for counts in columns], labels),
        _plot_of_slots([counts.slot_seconds / step for counts in columns], labels),
    ]


def _plot_of_attempts(columns: _Columns, labels: list[str]) -> dict[str, Any]:
    stack, top = _stack_of(columns)
    said = [
        ", ".join(
            f"{number:,} {what.replace('_', ' ')}"
            for what, number in ({"started": counts.started} | counts.outcomes).items()
        )
        for counts in columns
    ]
    looks = ["started", *(look for look, numbers in reversed(stack) if any(numbers))]
    layers = [*drawing.bars(stack, top), drawing.line("started", [counts.started for counts in columns], top)]
    return _plot("Attempts", f"{top:,.0f}", looks, layers, labels, said)


def _plot_of_times(title: str, histograms: list[dict[int, int]], labels: list[str]) -> dict[str, Any]:
    low, high = ([percentile(each, share) for each in histograms] for share in (0.5, 0.95))
    top = drawing.top_of(high, are_seconds=True)
    layers = [drawing.line("p95", high, top), drawing.line("p50", low, top)]
    said = [f"p50 / p95 {_percentiles(each)}" for each in histograms]
    return _plot(title, short_duration(top), ["p50", "p95"], layers, labels, said)


def _plot_of_slots(taken: list[float], labels: list[str]) -> dict[str, Any]:
    top = drawing.top_of(taken)
    said = [f"{_slots(slots)} slots" for slots in taken]
    return _plot("Slots taken", f"{top:g}", [], [drawing.area("slots", taken, top)], labels, said)


def _plot(
    title: str, top: str, looks: list[str], layers: list[drawing.Layer], labels: list[str], said: list[str]
) -> dict[str, Any]:
    """Return a picture with its legend, and what it says of the column under the pointer."""
    words = [f"{label}: {text}" for label, text in zip(labels, said, strict=True)]
    places = list(zip(drawing.columns(len(labels)), words, strict=True))
    return {"title": title, "top": top, "looks": looks, "layers": layers, "places": places}


def _slot_rows(runs: list[SlotRun], now: float, *, is_whole: bool = True) -> list[dict[str, Any]]:
    """Return what ran in each slot in the hour until now, from left to right; `is_whole`: these are all."""
    begin, rows = now - HOUR, defaultdict(list)
    for run in sorted(runs, key=lambda run: run.began_at):
        if run.slot:  # others ran on a cluster
            rows[run.slot].append(run)
    return [
        {
            "slot": slot,
            "busy": f"{sum((run.ended_at or now) - max(run.began_at, begin) for run in ran) / HOUR:.0%}"
            if is_whole
            else "-",
            "runs": [_slot_run(run, begin, now) for run in ran],
        }
        for slot, ran in sorted(rows.items())[:MAX_SLOTS]
    ]


def _slot_run(run: SlotRun, begin: float, now: float) -> tuple[int, str, str, str]:
    """Return the job of a run, the class of its style, its path, and words."""
    end = run.ended_at or now
    path = drawing.span(max(run.began_at - begin, 0.0) / HOUR, (end - begin) / HOUR)
    look = "started" if run.outcome is None else _LOOKS.get(run.outcome, "failed")
    outcome = "running" if run.outcome is None else run.outcome.replace("_", " ")
    clock, took = _clock(int(run.began_at), "%H:%M:%S"), short_duration(end - run.began_at)
    return run.job, look, path, f"{clock} job {run.job} {run.name or ''}: {outcome}, {took}"
