"""Answer requests for the log of an attempt: raw, and as a stream that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus

from bgd.core.job import JobId
from bgd.daemon.logs import MAX_CHUNK, LogChunk, LogReader, expected_log_bytes
from bgd.daemon.storage import read
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.live import follow_log
from bgd.daemon.web.log_text import OVER_LIMIT, LogLines, LogText, plain_line, plain_lines
from bgd.daemon.web.pages import find_job
from bgd.daemon.web.queries import live_query, log_query
from bgd.daemon.web.responses import PageResponse, event_stream
from bgd.wire.http import TEXT, HttpRequest, HttpResponse, RequestRefused


class LogPages:
    """The pages of a log."""

    def __init__(self, supervisor: Supervisor, store: StoreReader) -> None:
        self._supervisor = supervisor
        self._store = store
        self._log_dir = supervisor.config.log_dir

    async def log(self, request: HttpRequest, job: str, attempt: str) -> PageResponse:
        """Return the raw log of one attempt."""
        query = log_query(request.query)
        view = await find_job(self._store, job)
        if int(attempt) > view.attempt:
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"Job {view.id} has no attempt {attempt}.")
        name = f'attachment; filename="bgd-{view.id}.{attempt}.log"'
        headers = (("Content-Disposition", name),) if query.download else ()
        found = await self._store.read(read.attempts_of, JobId(view.id), int(attempt) - 1, 1)
        written = expected_log_bytes(found[0]) if found and found[0].attempt == int(attempt) else 0
        chunks = stream_log(LogReader(self._log_dir, view.id, int(attempt)), query.tail, written)
        return PageResponse(HttpResponse(content_type=TEXT, body=None, headers=headers), chunks)

    async def log_live(self, request: HttpRequest, job: str, attempt: str) -> PageResponse:
        """Return the stream of the output of one attempt, from an offset on."""
        query = live_query(request.query)
        job_id, number = JobId((await find_job(self._store, job)).id), int(attempt)
        log = LogReader(self._log_dir, job_id, number)

        async def has_ended() -> bool:
            found = await self._store.read(read.attempts_of, job_id, number - 1, 1)
            return not found or found[0].attempt != number or found[0].outcome is not None

        return event_stream(
            follow_log(
                LogText(log, query.at, query.style),
                _plain,
                self._supervisor.subscribe_to_log(job_id),
                has_ended,
            )
        )


def _plain(lines: LogLines) -> dict[str, object]:
    """Return what the page of a job gets of a log that has grown."""
    return {
        "lines": plain_lines(lines.lines),
        "open": plain_line(lines.open),
        "at": lines.at,
        "style": lines.style,
    }


async def stream_log(log: LogReader, last: int | None, written: int = 0) -> AsyncGenerator[bytes, None]:
    """Yield a log, or its `last` bytes, up to its present end.

    If the attempt has `written` more bytes than the log holds, a line at the end says how many are missing.
    """
    end = await asyncio.to_thread(log.size)
    offset = 0 if last is None else max(end - last, 0)
    while offset < end:
        chunk = await asyncio.to_thread(log.read, offset, min(end - offset, MAX_CHUNK))
        if not chunk.data:
            break
        if chunk.left_out:
            yield _gap(chunk)
        yield chunk.data
        offset = chunk.offset + len(chunk.data)
    missing = await asyncio.to_thread(log.missing, end, written)
    if missing is not None:
        yield _gap(missing)


def _gap(chunk: LogChunk) -> bytes:
    why = f"missing: {chunk.missing}" if chunk.missing else OVER_LIMIT
    return f"\n==> {chunk.left_out} bytes {why} <==\n".encode(errors="backslashreplace")
