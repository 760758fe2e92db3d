"""Sending the output of a job's attempts: what there is, or on and on until the job has finished."""

from __future__ import annotations

import asyncio

from bgd.core.job import FINAL, JobId
from bgd.daemon.control.replying import Replies
from bgd.daemon.logfiles import LogFile, written_by
from bgd.daemon.storage.store import Readings
from bgd.daemon.supervisor import Supervisor
from bgd.errors import NoSuchJob, Refused
from bgd.wire.launching import Key
from bgd.wire.replies import LogPart
from bgd.wire.requests import Logs
from bgd.wire.views import JobView

PIECE = 64 * 1024  # bytes of a log in one reply


async def send_logs(
    request: Logs, view: JobView, supervisor: Supervisor, store: Readings, log_dir: str, replies: Replies
) -> None:
    """Send what the asked attempts have written so far, oldest first."""
    for attempt in _asked_attempts(request, view):
        log = LogFile(log_dir, view.id, attempt)
        is_later = request.offset is not None and attempt != request.attempt
        offset = 0 if is_later else await _first_offset(request, log)
        written = await _written(supervisor, store, view.id, attempt)  # first: it may end meanwhile
        offset = await _send_from(request, log, attempt, offset, replies)
        await _send_missing(request, log, attempt, offset, written, replies)


async def follow_logs(
    request: Logs, view: JobView, supervisor: Supervisor, store: Readings, log_dir: str, replies: Replies
) -> None:
    """Send what there is and what is written from now on, attempt after attempt, until the job has finished.

    Nothing is missed and nothing is polled: the feed is there before the first look.

    Raises:
        NoSuchJob: it was removed before all of it was sent.
    """
    job_id = JobId(view.id)
    attempts = _asked_attempts(request, view)
    attempt = attempts[0] if attempts else view.attempt + 1
    offset = None if attempts else 0  # of an attempt that is yet to come nothing is left out
    with supervisor.following_log(job_id) as feed:
        if request.tail is not None:  # whoever has to ask once more must know where it began
            offset = await _first_offset(request, LogFile(log_dir, view.id, attempt)) if attempts else 0
            await replies.send_in_step(LogPart(request.id, attempt, b"", offset=offset))
        while True:
            if feed.take_moved():
                view = await _seen_again(store, job_id)
            while attempt <= view.attempt:
                log = LogFile(log_dir, view.id, attempt)
                if offset is None:
                    offset = await _first_offset(request, log)
                offset = await _send_from(request, log, attempt, offset, replies)
                if attempt < view.attempt or view.state in FINAL:
                    written = await _written(supervisor, store, view.id, attempt)
                    await _send_missing(request, log, attempt, offset, written, replies)
                if attempt == view.attempt:
                    break  # it may write more
                attempt, offset = attempt + 1, 0
            if view.state in FINAL:
                return
            await feed.changed.wait()


async def _seen_again(store: Readings, job_id: JobId) -> JobView:
    view = await store.view(job_id)
    if view is None:
        raise NoSuchJob(f"job {job_id} has been removed")
    return view


def _asked_attempts(request: Logs, view: JobView) -> range:
    """Return the numbers of the attempts that were asked for and exist.

    Raises:
        Refused: a certain attempt was asked for and there is none of that number; or an offset, of none.
    """
    if request.offset is not None and not request.attempt:
        raise Refused("an offset is of a certain attempt: ask for its number too")
    if request.attempt is None:
        return range(max(view.attempt, 1), view.attempt + 1)
    if request.attempt == 0:
        return range(1, view.attempt + 1)
    is_next = request.offset == 0 and request.attempt == view.attempt + 1
    if request.attempt > view.attempt and not is_next:
        raise Refused(f"job {view.id} has no attempt {request.attempt}: it has had {view.attempt}")
    return range(request.attempt, request.attempt + 1 if request.offset is None else view.attempt + 1)


async def _first_offset(request: Logs, log: LogFile) -> int:
    if request.offset is not None:
        return request.offset
    if request.tail is None:
        return 0
    return await asyncio.to_thread(log.tail_offset, request.tail)


async def _send_from(request: Logs, log: LogFile, attempt: int, offset: int, replies: Replies) -> int:
    """Send the log from an offset to its present end; return that end."""
    while True:
        async with replies.in_turn():
            piece = await asyncio.to_thread(log.read, offset, PIECE)
            if not piece.data:
                return offset
            times = piece.times if request.timestamps else []
            part = LogPart(
                request.id, attempt, piece.data, times, piece.left_out, piece.offset, piece.missing
            )
            await replies.send_in_step(part)
        offset = piece.offset + len(piece.data)


async def _written(supervisor: Supervisor, store: Readings, job: int, attempt: int) -> int:
    """Return the least that an attempt has written, its last words included if it has ended."""
    found = await store.attempts(JobId(job), attempt - 1, 1)
    if not found or found[0].attempt != attempt:
        return 0
    if found[0].outcome is None:
        return supervisor.lost_output.written(Key(store.store_id, job, attempt))
    return written_by(found[0])


async def _send_missing(
    request: Logs, log: LogFile, attempt: int, offset: int, written: int, replies: Replies
) -> None:
    """Say how much the attempt wrote beyond the end of its log, if it wrote more."""
    piece = await asyncio.to_thread(log.missing, offset, written)
    if piece is not None:
        await replies.send_in_step(
            LogPart(
                request.id, attempt, b"", left_out=piece.left_out, offset=piece.offset, missing=piece.missing
            )
        )
