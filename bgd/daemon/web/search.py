"""Search all kept logs for a text, newest first, and send each place as soon as it is found.

A thread of the pool searches some hundredths of a second at a time. It rests now and then, so that the event
loop is not delayed; the start of a process would delay it more. A search ends with its connection.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from threading import Event
from urllib.parse import urlencode

from markupsafe import Markup
from msgspec import Struct

from bgd.daemon.storage import lists
from bgd.daemon.storage.lists import LoggedAttempt
from bgd.daemon.web.queries import LogsQuery, read_query
from bgd.daemon.web.responses import PageResponse, encode_json, html_response, render_part, wants_json
from bgd.daemon.web.site import Site
from bgd.logs.files import LogReader
from bgd.logs.search import LogFile, LogSearch, Needle, logs_in, read_small_logs
from bgd.text.formatting import iso_time, outcome_in_words
from bgd.text.units import format_size
from bgd.wire.http import HTML, HttpRequest, HttpResponse, bad_request, unavailable
from bgd.wire.launching import log_name

MAX_SEARCHES = 3  # at once: each keeps a thread of the pool busy
MAX_SECONDS = 10.0  # of one search; a link goes on with older logs
AHEAD = 8  # logs that one search opens before it is their turn; more take no less time on one thread
MAX_BYTES = 4_000_000_000  # that one search reads
MAX_PLACES = 100  # that one search shows
MAX_PLACES_OF_LOG = 5  # that it shows of one log
AROUND = 2  # lines before and after what is found
STEP_SECONDS = 0.02  # that one call on a thread searches, unless a part of a large log takes longer
WORK_SECONDS = (
    0.001  # after which it rests: while it reads a file the event loop has too little time to take over
)
REST_SECONDS = 0.0001
SIGN_OF_LIFE = 0.25  # seconds of silence until a write checks that the browser is there
ATTEMPTS_AT_ONCE = 1000  # that are read from the store
CONTEXT = 4 * 1024  # bytes before and after a place, in which the lines around it are looked for
MAX_SHOWN = 300  # characters of a line

NDJSON = "application/x-ndjson"


async def search(site: Site, request: HttpRequest) -> PageResponse:
    """Return a page with a form and the results as they are found, or the results alone as NDJSON."""
    query = read_query(request.query, LogsQuery)
    is_json = wants_json(request)
    if not query.text and is_json:
        raise bad_request("Say what to search for: text=WORDS.")
    values = {"text": query.text, "results": _RESULTS, **await site.views.values(None, 0)}
    if not query.text:
        return await html_response("search.html", values)
    page = "" if is_json else await asyncio.to_thread(render_part, "search.html", values)
    search = LogsSearch(site.supervisor.config.log_dir, Needle.of(query.text))
    browser = request.headers.get("cookie", "")
    _make_room(site, browser)
    found = _found(site, search, browser, query.position)
    await anext(found)  # it counts from now on, and until it is closed
    if is_json:
        return PageResponse(HttpResponse(content_type=NDJSON, body=None), _as_ndjson(found, search))
    return PageResponse(HttpResponse(content_type=HTML, body=None), _as_html(page, found, search))


def _make_room(site: Site, browser: str) -> None:
    """End an earlier search of this browser: its page is gone, or will be.

    Raises:
        RequestRefused: too many others search now.
    """
    for search, other in site.searches.items():
        if browser and other == browser:
            search.ended = "this browser has started another search"
    if sum(search.ended is None for search in site.searches) >= MAX_SEARCHES:
        raise unavailable(f"{MAX_SEARCHES} searches are already running: try again later.")


async def _found(
    site: Site, search: LogsSearch, browser: str, before: tuple[int, int]
) -> AsyncGenerator[FoundInLog | None, None]:
    """Yield what is found in each log; yield None at first, and then now and again as a sign of life."""
    site.searches[search] = browser
    began = heard = time.monotonic()
    position: tuple[int, int] | None = before
    try:
        yield None
        while search.ended is None:
            if search.is_idle:
                if position is None:
                    return
                attempts, position = await site.store.search(
                    lists.logged_attempts, position, ATTEMPTS_AT_ONCE
                )
                search.add(attempts)
            found = await site.threads.run(None, search.step)
            now = time.monotonic()
            if found is not None or now - heard > SIGN_OF_LIFE:
                heard = now
                yield found
            has_more = not search.is_idle or position is not None
            if now - began > MAX_SECONDS and has_more and search.ended is None:
                search.ended = f"{MAX_SECONDS:g} seconds have passed"
    finally:
        search.stopped.set()
        del site.searches[search]


# --- Searching, on a thread


class FoundLine(Struct, frozen=True):
    """A line of a log. `at` is the offset of its beginning or, if `is_found`, of what was searched for."""

    at: int
    text: str
    is_found: bool


class FoundInLog(Struct, frozen=True):
    """What is in the log of an attempt: places, each with the lines around it; `has_more`: maybe others."""

    attempt: LoggedAttempt
    places: list[list[FoundLine]]
    has_more: bool


class LogsSearch:
    """Searches logs, one after the other. Its functions block: call them on a thread, one at a time.

    Attributes:
        ended: why the search is over although there are more logs.
        stopped: set when the results are no longer wanted.
        logs, read_bytes, places: how many logs and bytes were searched, and places found.
        unreadable: logs that could not be read, and `problem` the latest reason.
        last: the attempt that was searched last.
    """

    def __init__(self, log_dir: str, needle: Needle) -> None:
        self.needle = needle
        self.ended: str | None = None
        self.stopped = Event()
        self.logs = self.read_bytes = self.places = self.unreadable = 0
        self.problem = ""
        self.last: LoggedAttempt | None = None
        self._log_dir = log_dir
        self._work: Iterator[FoundInLog | None] | None = None
        self._folder: tuple[Path, dict[str, bool]] | None = None

    @property
    def is_idle(self) -> bool:
        return self._work is None

    def add(self, attempts: Iterable[LoggedAttempt]) -> None:
        """Let the logs of these attempts be searched next; the search is idle."""
        self._work = self._search(attempts)

    def step(self) -> FoundInLog | None:
        """Search for STEP_SECONDS; return the first that is found, if anything is."""
        rested = time.monotonic()
        until = rested + STEP_SECONDS
        for found in self._work or ():
            if self.read_bytes >= MAX_BYTES:
                self.ended = f"{format_size(self.read_bytes)} have been read"
            elif self.places >= MAX_PLACES:
                self.ended = f"{self.places} matches were found"
            now = time.monotonic()
            if found is not None or self.ended is not None or now >= until:
                return found
            if now - rested > WORK_SECONDS:
                if self.stopped.wait(REST_SECONDS):
                    return None
                rested = time.monotonic()
        self._work = None
        return None

    def _search(self, attempts: Iterable[LoggedAttempt]) -> Iterator[FoundInLog | None]:
        """Yield what is found, and None whenever a piece of work is done."""
        opened: deque[LoggedAttempt] = deque()
        with closing(read_small_logs(self._logs_of(attempts, opened), AHEAD)) as logs:
            for log, data in logs:
                self.last = opened.popleft()
                self.logs += 1
                try:
                    yield from self._search_log(self.last, log, data)
                except OSError as error:
                    self.unreadable += 1
                    self.problem = f"{log.path}: {error.strerror}"
                yield None

    def _logs_of(self, attempts: Iterable[LoggedAttempt], opened: deque[LoggedAttempt]) -> Iterator[LogFile]:
        """Yield the logs of those attempts that have one, and add these attempts to `opened`."""
        for attempt in attempts:
            path = Path(self._log_dir, log_name(attempt.job, attempt.attempt))
            has_parts = self._has_parts(path)
            if has_parts is not None:
                opened.append(attempt)
                yield LogFile(attempt.job, attempt.attempt, str(path), has_parts)

    def _has_parts(self, path: Path) -> bool | None:
        """Return whether a log continues in other files after a gap; None: there is no log."""
        if self._folder is None or self._folder[0] != path.parent:
            try:
                self._folder = path.parent, logs_in(path.parent)
            except OSError:
                return True  # to read the log fails, too, and says why
        return self._folder[1].get(path.name)

    def _search_log(
        self, attempt: LoggedAttempt, log: LogFile, data: bytes | OSError | None
    ) -> Iterator[FoundInLog | None]:
        if isinstance(data, OSError):
            raise data
        if data is not None and not any(self.needle.places(self.needle.comparable(data))):
            self.read_bytes += len(data)
            return
        reader = LogReader.at(log.path)
        search = LogSearch(reader, self.needle, MAX_PLACES_OF_LOG)
        hits: list[int] = []
        count, at, is_over = 0, 0, False
        while (progress := search.step()) is not None:
            self.read_bytes += progress.at - at
            hits += progress.hits
            count, at, is_over = progress.count, progress.at, progress.at >= progress.size
            if is_over or len(hits) >= MAX_PLACES_OF_LOG:
                break
            yield None
        if hits:
            places = _places(reader, hits, self.needle)
            self.places += len(places)
            yield FoundInLog(attempt, places, not is_over or count > len(hits))


def _places(log: LogReader, hits: list[int], needle: Needle) -> list[list[FoundLine]]:
    """Return the lines around some offsets; those that overlap or touch are one place."""
    places: list[list[FoundLine]] = []
    shown_to = -1
    for hit in hits:
        if hit < shown_to:
            continue
        lines = [line for line in _lines_around(log, hit) if line[0] >= shown_to]
        found = [_found_line(begin, data, needle) for begin, data in lines]
        if places and lines[0][0] == shown_to:
            places[-1] += found
        else:
            places.append(found)
        shown_to = lines[-1][0] + len(lines[-1][1])
    return places


def _lines_around(log: LogReader, hit: int) -> list[tuple[int, bytes]]:
    """Return the line at an offset and up to AROUND lines before and after it, each with its offset.

    Of a line that is longer than CONTEXT only a part is returned.
    """
    begin = max(hit - CONTEXT, 0)
    chunk = log.read(begin, 2 * CONTEXT)
    if not chunk.offset <= hit < chunk.offset + len(chunk.data):  # there is a gap before it
        chunk = log.read(hit, CONTEXT)
    lines: list[tuple[int, bytes]] = []
    offset, index = chunk.offset, 0
    for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", chunk.data)):
        if offset <= hit:
            index = number
        lines.append((offset, line))
        offset += len(line)
    first = max(index - AROUND, 0)
    if first == 0 < index and chunk.offset > 0 and not chunk.left_out:  # its beginning may be missing
        first = 1
    return lines[first : index + AROUND + 1]


def _found_line(begin: int, data: bytes, needle: Needle) -> FoundLine:
    index = next((begin for begin, _ in needle.places(needle.comparable(data))), -1)
    return FoundLine(begin + max(index, 0), needle.shown(data, MAX_SHOWN), index >= 0)


# --- What is sent


_RESULTS = Markup("<!-- results -->")  # where they go in the page


async def _as_html(
    page: str, found: AsyncGenerator[FoundInLog | None, None], search: LogsSearch
) -> AsyncGenerator[bytes, None]:
    head, _, tail = page.partition(_RESULTS)
    async with aclosing(found) as results:
        yield head.encode(errors="replace")
        async for result in results:
            if result is None:
                yield b"\n"
            else:
                html = await asyncio.to_thread(_found_as_html, result, search.needle)
                yield html.encode(errors="replace")
    html = await asyncio.to_thread(render_part, "search_end.html", {"search": search} | _end_values(search))
    yield (html + tail).encode(errors="replace")


def _found_as_html(found: FoundInLog, needle: Needle) -> str:
    attempt = found.attempt
    path = f"/job-logs/{attempt.job}/{attempt.attempt}"
    values = {
        "attempt": attempt,
        "outcome": outcome_in_words(attempt) or "running",
        "ended": attempt.at,
        "path": path,
        "places": [[(line, _marked(line.text, needle)) for line in place] for place in found.places],
        "more": f"{path}/search?{urlencode({'text': needle.text})}" if found.has_more else None,
    }
    return render_part("found.html", values)


def _marked(text: str, needle: Needle) -> Markup:
    """Return a line as HTML in which all that was searched for is marked."""
    parts = needle.parts(text)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if is_found else part for part, is_found in parts
    )


def _end_values(search: LogsSearch) -> dict[str, object]:
    older = None
    if search.ended is not None and search.last is not None:
        fields = {"text": search.needle.text, "before": _position(search.last)}
        older = f"/job-logs/search?{urlencode(fields)}"
    return {"older": older, "read": format_size(search.read_bytes)}


async def _as_ndjson(
    found: AsyncGenerator[FoundInLog | None, None], search: LogsSearch
) -> AsyncGenerator[bytes, None]:
    """Yield a line for each place, and one at the end; between them, lines that say how far the search is."""
    async with aclosing(found) as results:
        async for result in results:
            if result is None:
                yield encode_json({"logs": search.logs, "bytes": search.read_bytes})
                continue
            for place in result.places:
                yield await asyncio.to_thread(encode_json, _place_as_json(result.attempt, place))
    yield encode_json(
        {
            "end": True,
            "logs": search.logs,
            "bytes": search.read_bytes,
            "places": search.places,
            "unreadable": search.unreadable,
            "ended": search.ended,
            "before": None if search.ended is None or search.last is None else _position(search.last),
        }
    )


def _place_as_json(attempt: LoggedAttempt, place: list[FoundLine]) -> dict[str, object]:
    return {
        "job": attempt.job,
        "attempt": attempt.attempt,
        "name": attempt.name,
        "outcome": attempt.outcome,
        "at": iso_time(attempt.at),
        "lines": [{"offset": line.at, "text": line.text, "found": line.is_found} for line in place],
    }


def _position(attempt: LoggedAttempt) -> str:
    return f"{attempt.job}.{attempt.attempt}"
