"""Answer requests for the log of an attempt: any part of it, its growth, a search, and all of it raw."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from urllib.parse import urlencode

from markupsafe import Markup
from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import JobId
from bgd.daemon.logs import expected_log_bytes
from bgd.daemon.storage import read
from bgd.daemon.web.job_pages import attempt_details
from bgd.daemon.web.live import Part, Snapshot, event, follow_log
from bgd.daemon.web.log_text import (
    OVER_LIMIT,
    LogLine,
    LogPart,
    LogText,
    LogThreads,
    line_begin,
    linked,
    linked_line,
    part_before,
    part_from,
    plain,
    shown_line,
)
from bgd.daemon.web.pages import find_job
from bgd.daemon.web.queries import (
    LiveQuery,
    LogPartQuery,
    LogQuery,
    SearchQuery,
    log_part_query,
    read_query,
    search_query,
)
from bgd.daemon.web.responses import (
    PageResponse,
    event_stream,
    html_response,
    json_response,
    render_part,
    wants_json,
)
from bgd.daemon.web.site import Site
from bgd.logs.files import MAX_CHUNK, LogChunk, LogReader
from bgd.logs.search import LogSearch, Needle, SearchProgress
from bgd.text.formatting import iso_time
from bgd.wire.http import TEXT, HttpRequest, HttpResponse, not_found, unavailable
from bgd.wire.views import AttemptView, JobView

MAX_SEARCHES = 4  # at once, of all pages together
MAX_LISTED = 100  # lines on a page of what a search found
LAST_LINES = 200  # with which a page opens at the end: some screens full, so that it is there at once


class AttemptLog(Struct, frozen=True):
    """What an address of a log names."""

    job: JobView
    attempt: AttemptView
    reader: LogReader

    @property
    def path(self) -> str:
        return f"/job-logs/{self.job.id}/{self.attempt.attempt}"


async def view(site: Site, request: HttpRequest, job: str, attempt: str) -> PageResponse:
    """Return a part of a log, its end if the address names none, with what leads to all others."""
    query = log_part_query(request.query)
    if wants_json(request):
        log = await _log(site, job, attempt)
        shown = await site.threads.run(log.reader, read_part, log.reader, query)
        return await json_response(_as_json(log, shown))

    async def values() -> dict[str, object]:
        log = await _log(site, job, attempt)
        return await site.threads.run(log.reader, _values, log, query)

    return await site.views.page("log.html", values(), f"/job-logs/{job}/{attempt}/view/live")


async def view_live(site: Site, request: HttpRequest, job: str, attempt: str) -> PageResponse:
    """Return the stream of changes of what the page says about the attempt, also that it is gone."""

    async def build() -> Snapshot:
        log = await _log(site, job, attempt)
        shown = log.attempt if log.attempt.outcome else replace(log.attempt, run_seconds=None, log_bytes=None)
        return Snapshot({"head": Part(shown, partial(render_part, "log_head.html", _head(log)))})

    subscribe = partial(site.supervisor.subscriptions.subscribe, [JobId(int(job))])
    return site.views.stream(request, f"/job-logs/{job}/{attempt}/view", build, subscribe)


async def part(site: Site, request: HttpRequest, job: str, attempt: str) -> PageResponse:
    """Return a part of a log for an open page."""
    query = log_part_query(request.query)
    log = await _log(site, job, attempt)
    shown = await site.threads.run(log.reader, read_part, log.reader, query)
    return await json_response(await site.threads.run(log.reader, _linked_part, log, shown, query))


async def search(site: Site, request: HttpRequest, job: str, attempt: str) -> PageResponse:
    """Return where a text occurs in a log, and how often.

    That is a page, which has the first lines; JSON; or for a script server-sent events while it goes on.
    """
    query = search_query(request.query)
    log = await _log(site, job, attempt)
    found = _search(site, log, query)
    await anext(found)  # it counts from now on, and until it is closed
    if "text/event-stream" in request.headers.get("accept", ""):
        return event_stream(_search_events(found))
    hits: list[int] = []
    count = 0
    async with aclosing(found):
        async for progress in found:
            hits += progress.hits
            count = progress.count
    if wants_json(request):
        return await json_response({"count": count, "hits": hits})
    values = await site.threads.run(log.reader, _search_values, log, query, count, hits)
    return await html_response("log_search.html", values)


async def log(site: Site, request: HttpRequest, job: str, attempt: str) -> PageResponse:
    """Return the raw log of one attempt."""
    query = read_query(request.query, LogQuery)
    log = await _log(site, job, attempt)
    name = f'attachment; filename="bgd-{log.job.id}.{attempt}.log"'
    headers = (("Content-Disposition", name),) if query.download else ()
    chunks = stream_log(site.threads, log.reader, query.tail, expected_log_bytes(log.attempt))
    return PageResponse(HttpResponse(content_type=TEXT, body=None, headers=headers), chunks)


async def log_live(site: Site, request: HttpRequest, job: str, attempt: str) -> PageResponse:
    """Return the stream of the output of one attempt, from an offset on."""
    query = read_query(request.query, LiveQuery)
    log = await _log(site, job, attempt)
    job_id = JobId(log.job.id)
    text = LogText(log.reader, query.at, query.style, query.line)

    async def has_ended() -> bool:
        found = await site.store.read(read.attempts_of, job_id, log.attempt.attempt - 1, 1)
        return not found or found[0].attempt != log.attempt.attempt or found[0].outcome is not None

    render = linked if query.linked else partial(plain, path=f"{job_id}/{log.attempt.attempt}")
    grown = site.supervisor.subscribe_to_log(job_id)
    return event_stream(follow_log(site.threads, log.reader, text, render, grown, has_ended))


async def _log(site: Site, job: str, attempt: str) -> AttemptLog:
    view, number = await find_job(site.store, job), int(attempt)
    found = await site.store.read(read.attempts_of, JobId(view.id), number - 1, 1)
    if not found or found[0].attempt != number:
        raise not_found(f"Job {view.id} has no attempt {number}.")
    return AttemptLog(view, found[0], LogReader(site.supervisor.config.log_dir, view.id, number))


async def _search(site: Site, log: AttemptLog, query: SearchQuery) -> AsyncGenerator[SearchProgress, None]:
    """Yield that nothing is found yet, at once, and then what is found.

    Raises:
        RequestRefused: too many others search now.
    """
    if site.threads.searches >= MAX_SEARCHES:
        raise unavailable(f"{MAX_SEARCHES} searches are already running: try again later.")
    site.threads.searches += 1
    try:
        yield SearchProgress(0, [], 0, 0)
        search = LogSearch(log.reader, Needle.of(query.text), query.limit)
        while progress := await site.threads.run(log.reader, search.step):
            yield progress
    finally:
        site.threads.searches -= 1


# --- Parts


def read_part(log: LogReader, query: LogPartQuery, *, last: int | None = None) -> LogPart:
    """Return the part of a log that an address names, or about this many last lines. Reads files."""
    if query.at is not None and query.at < log.size():
        begin = line_begin(log, query.at)
        return part_from(log, begin)
    if query.after is not None:
        return part_from(log, query.after, query.line)
    if query.before is not None:
        return part_before(log, query.before, query.line)
    return part_before(log, log.size(), query.line, lines=last)


def _values(log: AttemptLog, query: LogPartQuery) -> dict[str, object]:
    """Return the values for the page of a log. Reads files."""
    part = read_part(log.reader, query, last=LAST_LINES)
    return {
        **_head(log),
        "part": _linked_part(log, part, query),
        "shown": part,
        "is_running": log.attempt.outcome is None,
        "earlier": _url(before=part.begin, line=part.first) if part.begin else None,
        "later": _url(after=part.at, line=part.number) if part.open is None else None,
    }


def _head(log: AttemptLog) -> dict[str, object]:
    details = attempt_details(log.attempt, None, is_suspended=log.job.suspended)
    return {"job": log.job, "path": log.path, "attempt": details}


def _url(**fields: int | None) -> str:
    return f"view?{urlencode({name: value for name, value in fields.items() if value is not None})}"


def _linked_part(log: AttemptLog, part: LogPart, query: LogPartQuery) -> dict[str, object]:
    """Return a part for the page of a log, with what could not be written at its end."""
    needle = Needle.of(query.text) if query.text else None
    target = None
    if query.at is not None and query.at < part.size:
        before = log.reader.read(part.begin, max(query.at - part.begin, 0)).data
        target = sum(1 for _ in needle.places(needle.comparable(before))) if needle else 0
    shown = linked(part, needle, target)
    if part.open is not None:
        shown["open"] += _missing(log, part.size)
    return shown | {"last": part.open is not None}


def _missing(log: AttemptLog, end: int) -> Markup:
    """Return a line that says what could not be written at the end of a log; empty if there is nothing."""
    missing = log.reader.missing(end, expected_log_bytes(log.attempt))
    if missing is None:
        return Markup("")
    return linked_line(LogLine([(_gap_text(missing), "")], end, None, None))


def _as_json(log: AttemptLog, part: LogPart) -> dict[str, object]:
    return {
        "job": log.job.id,
        "attempt": log.attempt.attempt,
        "begin": part.begin,
        "end": part.size if part.open is not None else part.at,
        "size": part.size,
        "lines": [
            {
                "offset": line.at,
                "line": line.number,
                "at": iso_time(line.time),
                "text": "".join(text for text, _ in line.runs),
            }
            for line in [*part.lines, *([part.open] if part.open is not None and part.open.runs else [])]
        ],
    }


# --- Searches


async def _search_events(found: AsyncGenerator[SearchProgress, None]) -> AsyncGenerator[bytes, None]:
    """Yield the progress of a search as server-sent events."""
    async with aclosing(found):
        async for progress in found:
            is_over = progress.at == progress.size
            share = "" if is_over else f", {100 * progress.at // progress.size} % searched"
            text = f"{progress.count:,} found{share}"
            yield event({"count": progress.count, "hits": progress.hits, "text": text, "end": is_over})


def _search_values(log: AttemptLog, query: SearchQuery, count: int, hits: list[int]) -> dict[str, object]:
    """Return the values for the page of what a search found."""
    begins: list[int] = []
    last = 0
    for hit in hits[:MAX_LISTED]:
        begin = line_begin(log.reader, hit, last)
        if begin > last or not begins:  # it is not in the line of the last one
            begins.append(begin)
        last = hit
    needle = Needle.of(query.text)
    lines = Markup("").join(linked_line(shown_line(log.reader, begin), needle) for begin in begins)
    return {
        **_head(log),
        "text": query.text,
        "count": count,
        "lines": lines,
        "listed": min(count, MAX_LISTED),
    }


# --- All of it


async def stream_log(
    threads: LogThreads, log: LogReader, last: int | None, written: int = 0
) -> AsyncGenerator[bytes, None]:
    """Yield a log, or its `last` bytes, up to its present end.

    If the attempt has `written` more bytes than the log holds, a line at the end says how many are missing.
    """
    end = await threads.run(log, log.size)
    offset = 0 if last is None else max(end - last, 0)
    while offset < end:
        chunk = await threads.run(log, log.read, offset, min(end - offset, MAX_CHUNK))
        if not chunk.data:
            break
        if chunk.left_out:
            yield _gap(chunk)
        yield chunk.data
        offset = chunk.offset + len(chunk.data)
    missing = await threads.run(log, log.missing, end, written)
    if missing is not None:
        yield _gap(missing)


def _gap(chunk: LogChunk) -> bytes:
    return f"\n{_gap_text(chunk)}\n".encode(errors="backslashreplace")


def _gap_text(chunk: LogChunk) -> str:
    why = f"missing: {chunk.missing}" if chunk.missing else OVER_LIMIT
    return f"==> {chunk.left_out} bytes {why} <=="
