"""The page of a job: what it is, its attempts with their output, and its JSON."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractContextManager
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import FINAL, WAITING, JobId, Outcome, State
from bgd.daemon.logs import LogReader
from bgd.daemon.storage import read
from bgd.daemon.storage.store import Store
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.actions import offered
from bgd.daemon.web.live import LiveViews, Part, Snapshot
from bgd.daemon.web.pages import find_job
from bgd.daemon.web.queries import job_query, live_query
from bgd.daemon.web.responses import (
    PageResponse,
    event_stream,
    html_response,
    json_response,
    render_part,
    wants_json,
)
from bgd.daemon.web.views import (
    MAX_TEXT,
    Fact,
    LogTail,
    ProgressBar,
    RunningTime,
    attempts_text,
    beginning,
    command_text,
    display_time,
    progress_bar,
    read_tail,
    runs_since,
    size_text,
    waited_text,
)
from bgd.formatting import (
    Waiting,
    attempt_as_json,
    iso_time,
    job_as_json,
    labelled_options,
    limits_of,
    memory_of,
    outcome_in_words,
    retries_line,
    rules_line,
    run_time,
    short_duration,
    waiting_for,
    waiting_line,
)
from bgd.units import format_duration
from bgd.wire.http import HttpRequest
from bgd.wire.views import AttemptView, JobView

ATTEMPTS_ON_A_PAGE = 20

LATEST_LOG = 64 * 1024  # bytes of a log on the job's page
EARLIER_LOG = 4 * 1024


class JobPages:
    """The page of a job, and the stream of what changes on it."""

    def __init__(self, supervisor: Supervisor, store: Store, views: LiveViews) -> None:
        self._supervisor = supervisor
        self._store = store
        self._log_dir = supervisor.config.log_dir
        self._views = views

    async def job(self, request: HttpRequest, job: str) -> PageResponse:
        """Return one job with up to ATTEMPTS_ON_A_PAGE of its attempts."""
        version = self._store.position
        before = job_query(request.query).before
        view, result, attempts = await self._job(job, before)
        if wants_json(request):
            return await json_response(self._as_json(view, result, attempts))
        values = await asyncio.to_thread(self._job_values, view, result, attempts)
        first = attempts[0].attempt if attempts else 1
        values["before"] = first if first > 1 else None
        live = f"/job-logs/{view.id}/live" if before is None else None
        return await html_response("job.html", values | await self._views.values(live, version))

    async def job_live(self, request: HttpRequest, job: str) -> PageResponse:
        """Return the stream of changes of a job, without its output."""
        job_id = JobId((await find_job(self._store, job)).id)

        async def build() -> Snapshot:
            version = self._store.position
            return self._job_snapshot(version, *await self._job(job, None))

        def subscribe() -> AbstractContextManager[Subscription]:
            return self._supervisor.subscriptions.subscribe([job_id], progress=True)

        return event_stream(
            self._views.updates(f"/job-logs/{job}", build, subscribe, live_query(request.query).since)
        )

    async def _job(self, job: str, before: int | None) -> tuple[JobView, str | None, list[AttemptView]]:
        """Return a job, its result, and its attempts before a number, oldest first."""
        view = await find_job(self._store, job)
        end = before or view.attempt + 1
        after = max(end - 1 - ATTEMPTS_ON_A_PAGE, 0)
        attempts = await self._store.read(
            read.attempts_of, JobId(view.id), after, min(end - 1, ATTEMPTS_ON_A_PAGE)
        )
        if view.state is not State.SUCCEEDED:
            return view, None, attempts
        result, _ = await self._store.read(read.result_of, JobId(view.id))
        return view, result, attempts

    def _as_json(self, view: JobView, result: str | None, attempts: list[AttemptView]) -> dict[str, object]:
        located = [replace(each, log_path=f"{self._log_dir}/{each.log_path}") for each in attempts]
        return job_as_json(view) | {
            "why_waiting": waiting_line(self._waiting(view), iso_time) or None,
            "result": None if result is None else json.loads(result),
            "attempts": [attempt_as_json(each) for each in located],
        }

    def _waiting(self, view: JobView) -> Waiting:
        return waiting_for(view, self._supervisor.explain(JobId(view.id)))

    def _job_values(
        self, view: JobView, result: str | None, attempts: list[AttemptView]
    ) -> dict[str, object]:
        """Return the values for the job's page. Reads log files."""
        return {
            "id": view.id,
            "job": job_details(view, result, time.time()),
            "actions": offered(view),
            "attempts": [self._attempt(view, each) for each in reversed(attempts)],
        }

    def _attempt(self, view: JobView, attempt: AttemptView) -> AttemptDetails:
        return attempt_details(attempt, self._tail(view, attempt), time.time())

    def _job_snapshot(
        self, version: int, view: JobView, result: str | None, attempts: list[AttemptView]
    ) -> Snapshot:
        def summary() -> str:
            job = job_details(view, result, time.time())
            return render_part("summary.html", {"job": job, "actions": offered(view)})

        def never() -> str:
            job = job_details(view, None, time.time())
            return render_part("never.html", {"job": job, "attempts": attempts})

        def section(attempt: AttemptView, template: str) -> str:
            return render_part(template, {"id": view.id, "attempt": self._attempt(view, attempt)})

        parts = {
            "summary": Part(replace(view, run_seconds=None, waited_seconds=None), summary),
            "never": Part((not attempts, view.state in FINAL), never),
        }
        for each in attempts:
            name = f"attempt-{each.attempt}"
            parts[name] = Part(None, partial(section, each, "attempt.html"))
            parts[f"{name}-head"] = Part(
                each if each.outcome else replace(each, run_seconds=None, log_bytes=None),
                partial(section, each, "attempt_head.html"),
            )
        return Snapshot(version, parts, [f"attempt-{each.attempt}" for each in reversed(attempts)])

    def _tail(self, view: JobView, attempt: AttemptView) -> LogTail:
        most = LATEST_LOG if attempt.attempt == view.attempt else EARLIER_LOG
        return read_tail(LogReader(self._log_dir, view.id, attempt.attempt), most)


# --- In words


class JobDetails(Struct, frozen=True, kw_only=True):
    """A job on its own page."""

    id: int
    state: str
    name: str | None
    reason: str | None
    bar: ProgressBar | None
    command: str
    is_class: bool
    is_finished: bool
    can_be_edited: bool
    priority: int
    facts: list[Fact]
    result: str | None


class AttemptDetails(Struct, frozen=True, kw_only=True):
    """An attempt on its job's page.

    `state` chooses the colour of the badge that shows `outcome`. `omitted` says how much of the log's
    beginning is not shown. `is_running`: its log may grow.
    """

    number: int
    state: str
    outcome: str
    facts: list[Fact]
    error: str | None
    traceback: str | None
    log: LogTail
    has_output: bool
    omitted: str | None
    is_running: bool


def job_details(view: JobView, result: str | None, now: float) -> JobDetails:
    """Return what a job's page shows; `result` is the JSON text of its return value, if it has one."""
    facts: list[Fact] = [
        ("Queue", view.queue),
        ("Priority", str(view.priority)),
        ("Attempts", attempts_text(view)),
        ("Retries", retries_line(view)),
        ("On errors", rules_line(view)),
        ("Snoozed", f"{view.snoozes} times" if view.snoozes > 1 else "once" * view.snoozes),
        ("Submitted", display_time(view.created_at, now)),
        ("By", view.user),
        ("Due", display_time(view.due_at, now) if view.due_at else ""),
        ("Expires", display_time(view.expires_at, now) if view.expires_at else ""),
        ("Waits for", ", ".join(f"job {job}" for job in view.waits_for)),
        ("Waited", waited_text(view, now)),
        ("Ran", RunningTime(run_time(view), runs_since(view))),
        ("Finished", display_time(view.finished_at, now) if view.finished_at else ""),
        ("Suspended", "its processes are stopped" if view.suspended else ""),
        ("Slots", str(view.slots) if view.slots > 1 else ""),
        ("Time limit", format_duration(view.timeout) if view.timeout else ""),
        ("Limits", limits_of(view)),
        *((label.capitalize(), text) for label, text in labelled_options(view)),
        ("Leftovers", "left running" if view.keep_leftovers else ""),
        ("Folder", view.cwd or ""),
        ("Reads", view.stdin or ""),
        ("Terminal", "of its own" if view.pty else ""),
        ("Isolation", view.isolation or ""),
        ("Key", view.key or ""),
        ("Tags", ", ".join(view.tags)),
    ]
    return JobDetails(
        id=view.id,
        state=view.state,
        name=view.name,
        reason=view.reason,
        bar=progress_bar(view),
        command=command_text(view, MAX_TEXT),
        is_class=view.target is not None,
        is_finished=view.state in FINAL,
        can_be_edited=view.state in WAITING,
        priority=view.priority,
        facts=_known(facts),
        result=None if result is None else _indented(result, MAX_TEXT),
    )


def attempt_details(attempt: AttemptView, tail: LogTail, now: float) -> AttemptDetails:
    """Return what a job's page shows of one attempt."""
    facts: list[Fact] = [
        ("Started", display_time(attempt.started_at, now) if attempt.started_at else ""),
        (
            "Took" if attempt.outcome else "Running for",
            RunningTime(short_duration(attempt.run_seconds), None if attempt.outcome else attempt.started_at),
        ),
        ("Processor", _processor_time(attempt)),
        ("Memory", size_text(memory) if (memory := memory_of(attempt)) else ""),
        ("Process", str(attempt.pid) if attempt.pid and attempt.outcome is None else ""),
        ("Output", size_text(attempt.log_bytes) if attempt.log_bytes else ""),
        ("Left", f"{attempt.leftovers}: bgd ended this" if attempt.leftovers else ""),
    ]
    error = attempt.error
    return AttemptDetails(
        number=attempt.attempt,
        state=_badge_of(attempt),
        outcome=outcome_in_words(attempt) or "running",
        facts=_known(facts),
        error=None if error is None else beginning(error.in_words(attempt.outcome), MAX_TEXT),
        traceback=None if error is None or error.traceback is None else _end(error.traceback, MAX_TEXT),
        log=tail,
        has_output=bool(tail.html or tail.open_html),
        omitted=size_text(tail.omitted) if tail.omitted else None,
        is_running=attempt.outcome is None,
    )


def _known(facts: list[Fact]) -> list[Fact]:
    return [(label, value) for label, value in facts if value and value != RunningTime("", None)]


def _badge_of(attempt: AttemptView) -> str:
    """Return the state whose badge an attempt gets."""
    match attempt.outcome:
        case None:
            return State.RUNNING
        case Outcome.SUCCEEDED:
            return State.SUCCEEDED
        case Outcome.CANCELLED:
            return State.CANCELLED
        case Outcome.SNOOZED:
            return State.SCHEDULED
        case (
            Outcome.EXIT
            | Outcome.SIGNAL
            | Outcome.TIMEOUT
            | Outcome.INTERRUPTED
            | Outcome.UNKNOWN
            | Outcome.NOT_STARTED
            | Outcome.OOM
            | Outcome.LOG_LIMIT
            | Outcome.REFUSED
            | Outcome.ERROR
        ):
            return State.FAILED


def _processor_time(attempt: AttemptView) -> str:
    if attempt.user_seconds is None or attempt.system_seconds is None:
        return ""
    return f"{attempt.user_seconds:.2f}s user, {attempt.system_seconds:.2f}s system"


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
