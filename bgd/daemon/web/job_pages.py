"""The page of a job: what it is, its attempts with their output, and its JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.explain import Explanation, next_reasons, words_of
from bgd.core.job import FINAL, JobId, State
from bgd.daemon.explaining import explanation_of
from bgd.daemon.storage import change_stream, read
from bgd.daemon.storage.steps import latest_steps
from bgd.daemon.streams import Subscription
from bgd.daemon.web.actions import offered
from bgd.daemon.web.graph import graph_of, jobs_behind
from bgd.daemon.web.live import Part, Snapshot
from bgd.daemon.web.log_text import LogPart, last_part, plain
from bgd.daemon.web.pages import find_job
from bgd.daemon.web.queries import AttemptNumber, ListQuery, list_url, read_value
from bgd.daemon.web.responses import PageResponse, json_response, render_part, wants_json
from bgd.daemon.web.site import Site
from bgd.daemon.web.timeline import history_of, timeline_of
from bgd.daemon.web.views import (
    MAX_TEXT,
    attempt_badge,
    attempts_text,
    beginning,
    command_text,
    progress_bar,
    time_run,
)
from bgd.logs.files import LogReader
from bgd.text.brief import short_duration
from bgd.text.facts import Fact, Instant, Listed, facts_of, facts_of_attempt
from bgd.text.formatting import (
    as_json,
    attempt_in_words,
    explanation_as_json,
    job_as_json,
    needs_node,
    steps_as_json,
    usage_line,
)
from bgd.text.units import format_size
from bgd.wire.http import HttpRequest
from bgd.wire.views import AttemptView, EventView, JobView, StepView

ATTEMPTS_ON_A_PAGE = 20
STEPS_ON_A_PAGE = 100  # the latest

LATEST_LOG = 64 * 1024  # bytes of a log on the job's page
EARLIER_LOG = 1024
MAX_LINKS = 50  # of one kind


async def job(site: Site, request: HttpRequest, job: str) -> PageResponse:
    """Return one job with up to ATTEMPTS_ON_A_PAGE of its attempts."""
    before: int | None = read_value(request.query, AttemptNumber | None, "before")
    if wants_json(request):
        return await json_response(_as_json(site, await _find(site, job, before)))
    live = f"/job-logs/{job}/live" if before is None else None
    return await site.views.page("job.html", _values(site, job, before), live)


async def job_live(site: Site, request: HttpRequest, job: str) -> PageResponse:
    """Return the stream of changes of a job, without its output; it ends if the job does not exist."""
    job_id = JobId(int(job))
    events: list[EventView] = []

    async def build() -> Snapshot:
        await site.supervisor.saved_unless_stuck()  # what the watches have seen may not be on disk yet
        found = await _find(site, job, None)
        events.extend(await _events(site, found.view, events[-1].id if events else 0))
        return _snapshot(site, replace(found, events=events))

    @contextmanager
    def subscribe() -> Iterator[Subscription]:
        subscriptions = site.supervisor.subscriptions
        with (
            subscriptions.subscribe([job_id], progress=True) as subscription,
            subscriptions.watch(subscription, partial(site.supervisor.explain, job_id)),
            subscriptions.watch(
                subscription, partial(site.supervisor.scheduler.some_dependents_of, job_id, 0)
            ),
            site.usage.watch(subscription, partial(_uses, site, job_id)),
        ):
            yield subscription

    return site.views.stream(request, f"/job-logs/{job}", build, subscribe)


async def _find(site: Site, job: str, before: int | None) -> _FoundJob:
    """Return a job with its attempts before a number, and without its events."""
    [view] = await site.store.search(site.usual_times.add_to, [await find_job(site.store, job)])
    job_id = JobId(view.id)
    end = before or view.attempt + 1
    after = max(end - 1 - ATTEMPTS_ON_A_PAGE, 0)
    attempts = await site.store.read(read.attempts_of, job_id, after, min(end - 1, ATTEMPTS_ON_A_PAGE))
    result = None
    if view.state is State.SUCCEEDED:
        result, _ = await site.store.read(read.result_of, job_id)
    explanation = await explanation_of(view, site.supervisor, site.store)
    some_dependents_of = site.supervisor.scheduler.some_dependents_of
    return _FoundJob(
        view=view,
        steps=await site.store.read(latest_steps, job_id, STEPS_ON_A_PAGE),
        explanation=explanation,
        dependents=some_dependents_of(job_id, MAX_LINKS),
        graph=await site.store.read(graph_of, job_id, jobs_behind(some_dependents_of, job_id)),
        attempts=attempts,
        result=result,
    )


async def _events(site: Site, view: JobView, after: int) -> list[EventView]:
    return await site.store.search(change_stream.events_of, JobId(view.id), after)


def _as_json(site: Site, found: _FoundJob) -> dict[str, object]:
    located = [
        replace(each, log_path=f"{site.supervisor.config.log_dir}/{each.log_path}") for each in found.attempts
    ]
    return job_as_json(found.view) | {
        **explanation_as_json(found.explanation),
        "result": None if found.result is None else json.loads(found.result),
        "attempts": as_json(located),
        "steps": steps_as_json(found.steps),
    }


async def _values(site: Site, job: str, before: int | None) -> dict[str, object]:
    """Return the values for the job's page."""
    found = await _find(site, job, before)
    view = found.view
    stored = await site.store.read(read.read_spec, JobId(view.id))
    found = replace(found, events=await _events(site, view, 0))
    first = found.attempts[0].attempt if found.attempts else 1
    return {
        **_summary(found),
        "id": view.id,
        "attempts": await site.threads.run(None, partial(_attempts, site), view, found.attempts),
        "variables": sorted(stored.env or ()) if stored else [],
        "before": first if first > 1 else None,
    }


def _attempts(site: Site, view: JobView, attempts: list[AttemptView]) -> list[dict[str, Any]]:
    uses = _uses(site, view.id)
    return [_attempt(site, view, each, uses) for each in reversed(attempts)]


def _uses(site: Site, job_id: int) -> str:
    """Return what a job uses now; empty if it does not run, or that is not known."""
    usage = site.usage.jobs.get(job_id)
    return "" if usage is None else usage_line(usage)


def _attempt(site: Site, view: JobView, attempt: AttemptView, uses: str) -> dict[str, Any]:
    """Return what the page shows of an attempt, with the end of its log. Reads files."""
    is_latest = attempt.attempt == view.attempt
    log = LogReader(site.supervisor.config.log_dir, view.id, attempt.attempt)
    tail = last_part(log, LATEST_LOG if is_latest else EARLIER_LOG)
    return attempt_details(attempt, tail, is_latest=is_latest, is_suspended=view.suspended, uses=uses)


def _snapshot(site: Site, found: _FoundJob) -> Snapshot:
    view, attempts, uses = found.view, found.attempts, _uses(site, found.view.id)

    def render(template: str) -> str:
        return render_part(template, {**_summary(found), "attempts": attempts})

    def section(attempt: AttemptView, template: str) -> str:
        return render_part(template, {"id": view.id, "attempt": _attempt(site, view, attempt, uses)})

    times = [(each.attempt, each.started_at, each.outcome) for each in attempts]
    parts = {
        "summary": Part(
            (replace(view, run_seconds=None, waited_seconds=None), times), partial(render, "summary.html")
        ),
        "needed": Part(found.dependents, partial(render, "needed.html"), has_version=False),
        "graph": Part(found.graph, partial(render, "graph.html"), has_version=False),
        "why": Part(found.explanation, partial(render, "why.html"), has_version=False),
        "steps": Part(found.steps, partial(render, "steps.html"), has_version=False),
        "never": Part((not attempts, view.state in FINAL), partial(render, "never.html")),
        "history": Part(found.events[-1].id if found.events else 0, partial(render, "history.html")),
    }
    for each in attempts:
        name = f"attempt-{each.attempt}"
        parts[name] = Part(each.attempt == view.attempt, partial(section, each, "attempt.html"))
        shown = each if each.outcome else replace(each, run_seconds=None, log_bytes=None)
        parts[f"{name}-head"] = Part((shown, view.suspended), partial(section, each, "attempt_head.html"))
        facts, now = partial(section, each, "attempt_facts.html"), "" if each.outcome else uses
        parts[f"{name}-facts"] = Part((shown, now), facts, has_version=not now)
    return Snapshot(parts, [f"attempt-{each.attempt}" for each in reversed(attempts)])


class _FoundJob(Struct, frozen=True, kw_only=True):
    """What the page of a job is made from; its attempts and events are oldest first.

    `dependents`: how many jobs wait for it, and some of them.
    """

    view: JobView
    steps: list[StepView]
    explanation: Explanation
    dependents: tuple[int, list[JobId]]
    graph: dict[str, Any] | None
    attempts: list[AttemptView]
    result: str | None
    events: list[EventView] = []


def _summary(found: _FoundJob) -> dict[str, object]:
    view = found.view
    actions = dict(offered(view))
    return {
        "job": view,
        **job_details(view, found.result),
        "needed_by": (_job_links(found.dependents[1]), found.dependents[0] - len(found.dependents[1])),
        "reasons": [(words_of(each), each) for each in next_reasons(found.explanation)],
        "graph": found.graph,
        "steps": found.steps,
        "history": history_of(view, found.events, found.attempts),
        "likely_start": _likely_start(found.explanation),
        "run": actions.pop("run", None),  # beside the time that it need not wait for
        "actions": actions,
        "timeline": timeline_of(view, found.attempts, time.time()),
    }


# --- In words


def _likely_start(explanation: Explanation) -> float | None:
    """Return when a job will likely start, unless that is what it waits for, or may be at any moment."""
    at = explanation.likely_start_at
    is_said = any(reason.at == at for reason in explanation.reasons)
    return None if at is None or at <= time.time() or is_said else at


def job_details(view: JobView, result: str | None) -> dict[str, Any]:
    """Return what a job's page shows; `result` is the JSON text of its return value, if it has one."""
    return {
        "bar": progress_bar(view),
        "command": command_text(view, MAX_TEXT),
        "known": [*_shown(facts_of(view)), *_course_of(view)],
        "result": None if result is None else _indented(result, MAX_TEXT),
    }


def _course_of(view: JobView) -> Iterator[tuple[str, object]]:
    """Yield what has become of a job so far; `bgctl show` says it of each attempt."""
    yield "Attempts", attempts_text(view)
    if view.due_at and view.state is State.HELD:
        yield "Due", Instant(view.due_at)
    if view.waits_for and view.state is not State.BLOCKED:
        yield "Waits for", _job_links(view.waits_for)
    if view.waited_seconds is not None and view.state is not State.SCHEDULED:
        yield "Waited", short_duration(view.waited_seconds)
    if ran := time_run(view):
        yield "Ran", ran
    if view.finished_at:
        yield "Finished", Instant(view.finished_at)
    if view.suspended:
        yield "Suspended", "its processes are stopped"


def attempt_details(
    attempt: AttemptView,
    tail: LogPart | None,
    *,
    is_latest: bool = True,
    is_suspended: bool = False,
    uses: str = "",
) -> dict[str, Any]:
    """Return what a job's page shows of one attempt.

    `is_suspended`: its job is. `state` chooses the colour of the badge that shows `outcome`. `omitted` says
    how much of the log's beginning is not shown. `is_running`: its log may grow. `needs_node`: it waits for
    one. `uses`: what it uses now, if it runs.
    """
    is_running, error = attempt.outcome is None, attempt.error
    traceback = None if error is None else error.traceback
    if traceback is not None and tail is not None and _is_in_log(traceback, tail):
        traceback = None
    shown = {"lines": "", "open": ""} if tail is None else plain(tail)
    output = [("output", format_size(attempt.log_bytes))] if attempt.log_bytes else []
    present = [("uses", uses)] if uses and is_running else []
    return {
        "number": attempt.attempt,
        "state": State.HELD if is_running and is_suspended else attempt_badge(attempt),
        "outcome": attempt_in_words(attempt, is_suspended=is_suspended),
        "took": (is_running and attempt.started_at) or short_duration(attempt.run_seconds),
        "ended": attempt.finished_at,
        "facts": _shown([*facts_of_attempt(attempt), *present, *output]),
        "error": None if error is None else beginning(error.in_words(attempt.outcome), MAX_TEXT),
        "traceback": None if traceback is None else _end(traceback, MAX_TEXT),
        "log": shown,
        "has_output": bool(shown["lines"] or shown["open"]),
        "omitted": format_size(tail.begin) if tail is not None and tail.begin else None,
        "is_running": is_running,
        "needs_node": needs_node(attempt),
        "is_latest": is_latest,
    }


def _shown(facts: Sequence[Fact]) -> list[tuple[str, object]]:
    """Return facts as the template facts takes them; what is listed leads to the jobs that have it, too."""
    shown: list[tuple[str, object]] = []
    for label, value in facts:
        match value:
            case Listed(field, values):
                links = [(each, list_url(ListQuery(), **{field: each})) for each in values[:MAX_LINKS]]
                shown.append((label.capitalize(), links))
            case str() if label == "batch":
                shown.append(("Batch", [(value, f"/job-logs/batches/{value}")]))
            case str() if label == "follows":
                kind, number, _ = value.split(" ", 2)
                folder = "batches/" if kind == "batch" else ""
                shown.append(("Follows", [(value, f"/job-logs/{folder}{number}")]))
            case str() | Instant():
                shown.append((label.capitalize(), value))
    return shown


def _job_links(job_ids: Sequence[int]) -> list[tuple[str, str]]:
    return [(f"job {job}", f"/job-logs/{job}") for job in job_ids[:MAX_LINKS]]


def _is_in_log(traceback: str, tail: LogPart) -> bool:
    """Return whether the end of a log shows a traceback, as that of a class job does; spaces may differ."""
    lines = [*tail.lines, tail.open] if tail.open else tail.lines
    shown = "\n".join("".join(text for text, _ in line.runs) for line in lines)
    return " ".join(traceback.split()) in " ".join(shown.split())


def _indented(result: str, most: int) -> str:
    """Return the beginning of JSON text with indents, which can make deeply nested text 1000 times larger."""
    text = ""
    for chunk in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(result)):
        text += chunk
        if len(text) > most:
            break
    return beginning(text, most)


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"\N{HORIZONTAL ELLIPSIS}{text[-most:]}"
