"""What the pages say of jobs, attempts and logs, in words; the templates only lay it out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import datetime

from msgspec import Struct

from bgd.core.job import ACTIVE, FINAL, Outcome, State
from bgd.daemon.logs import MAX_CHUNK, LogChunk, LogReader
from bgd.formatting import (
    command_line,
    iso_time,
    labelled_options,
    limits_of,
    memory_of,
    progress_line,
    progress_of,
    retries_line,
    rules_line,
    run_time,
    short_duration,
)
from bgd.units import format_duration
from bgd.wire.views import AttemptView, JobView

# --- Tails: the end of an attempt's log, for a page to show; and the log in full, piece by piece.


class Tail(Struct, frozen=True):
    """The last output of an attempt. `before`: bytes that it wrote before that, and are not here."""

    text: str
    before: int


def tail_of(log: LogReader, most: int) -> Tail:
    """Return about so many bytes of a log's end, from the beginning of a line on. Reads files."""
    end = log.size()
    begin = max(end - most, 0)
    data = bytearray()
    offset = begin
    while offset < end:
        piece = log.read(offset, end - offset)
        if not piece.data:
            break
        if piece.left_out:  # only what follows the gap is one text
            data, begin = bytearray(), piece.offset
        data += piece.data
        offset = piece.offset + len(piece.data)
    if begin:
        line = data.find(b"\n") + 1
        data, begin = data[line:], begin + line
    return Tail(data.decode(errors="replace"), begin)


async def pieces_of(log: LogReader, last: int | None, written: int = 0) -> AsyncGenerator[bytes, None]:
    """Yield a log from its beginning, or its last bytes, to its present end.

    `written`: bytes that the attempt wrote; what the log does not reach to is told as missing.
    """
    end = await asyncio.to_thread(log.size)
    offset = 0 if last is None else max(end - last, 0)
    while offset < end:
        piece = await asyncio.to_thread(log.read, offset, min(end - offset, MAX_CHUNK))
        if not piece.data:
            break
        if piece.left_out:
            yield _gap(piece)
        yield piece.data
        offset = piece.offset + len(piece.data)
    missing = await asyncio.to_thread(log.missing, end, written)
    if missing is not None:
        yield _gap(missing)


def _gap(piece: LogChunk) -> bytes:
    why = f"missing: {piece.missing}" if piece.missing else "left out, over the log's limit"
    return f"\n==> {piece.left_out} bytes {why} <==\n".encode(errors="backslashreplace")


# --- Sheets: what the pages say of jobs and attempts, in words; the templates only lay it out.


_MOST_OF_A_COMMAND = 300  # characters, in a list; the job's own page has more
_MOST_OF_A_TEXT = 20_000  # characters of a command, a result or an error; JSON has all of it
_SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


class Instant(Struct, frozen=True):
    """A time for people, and for programs."""

    local: str
    distance: str
    iso: str


class Bar(Struct, frozen=True):
    """How far a job says it is. `fraction` of 1, None: it does not say, and the words are all there is."""

    fraction: float | None
    words: str


Fact = tuple[str, str | Instant]  # a label, and what it is of


class Row(Struct, frozen=True, kw_only=True):
    """A job in a list."""

    id: int
    state: str
    how: str | None  # its latest attempt ended, if that is no success
    bar: Bar | None  # of one that runs
    name: str | None
    command: str
    queue: str
    priority: int
    attempts: str
    waited: str
    ran: str
    submitted: Instant


class JobSheet(Struct, frozen=True, kw_only=True):
    """A job on its own page."""

    id: int
    state: str
    name: str | None
    reason: str | None
    bar: Bar | None
    command: str
    is_class: bool
    is_finished: bool
    facts: list[Fact]
    result: str | None


class AttemptSheet(Struct, frozen=True, kw_only=True):
    """An attempt on its job's page. `state` chooses its colour."""

    number: int
    state: str
    how: str
    facts: list[Fact]
    error: str | None
    traceback: str | None
    log: str
    before: str | None  # how much of the log is not shown


def row_of(view: JobView, now: float) -> Row:
    return Row(
        id=view.id,
        state=view.state,
        how=_how(view) if view.state is State.FAILED else "suspended" if view.suspended else None,
        bar=_bar(view) if view.state in ACTIVE else None,
        name=view.name,
        command=_command(view, _MOST_OF_A_COMMAND),
        queue=view.queue,
        priority=view.priority,
        attempts=_attempts(view),
        waited=_waited(view, now),
        ran=run_time(view),
        submitted=_instant(view.created_at, now),
    )


def sheet_of(view: JobView, result: str | None, now: float) -> JobSheet:
    """Return a job's sheet; `result`: JSON text of what it returned."""
    facts: list[Fact] = [
        ("Queue", view.queue),
        ("Priority", str(view.priority)),
        ("AttemptTable", _attempts(view)),
        ("Retries", retries_line(view)),
        ("On errors", rules_line(view)),
        ("Snoozed", f"{view.snoozes} times" if view.snoozes > 1 else "once" * view.snoozes),
        ("Submitted", _instant(view.created_at, now)),
        ("By", view.user),
        ("Due", _instant(view.due_at, now) if view.due_at else ""),
        ("Expires", _instant(view.expires_at, now) if view.expires_at else ""),
        ("Waits for", ", ".join(f"job {job}" for job in view.waits_for)),
        ("Waited", _waited(view, now)),
        ("Ran", run_time(view)),
        ("Finished", _instant(view.finished_at, now) if view.finished_at else ""),
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
    return JobSheet(
        id=view.id,
        state=view.state,
        name=view.name,
        reason=view.reason,
        bar=_bar(view),
        command=_command(view, _MOST_OF_A_TEXT),
        is_class=view.target is not None,
        is_finished=view.state in FINAL,
        facts=[(label, value) for label, value in facts if value],
        result=None if result is None else _indented(result, _MOST_OF_A_TEXT),
    )


def attempt_sheet_of(attempt: AttemptView, tail: Tail, now: float) -> AttemptSheet:
    facts: list[Fact] = [
        ("Started", _instant(attempt.started_at, now) if attempt.started_at else ""),
        ("Took" if attempt.outcome else "Running for", short_duration(attempt.run_seconds)),
        ("Processor", _processor(attempt)),
        ("Memory", _size(memory) if (memory := memory_of(attempt)) else ""),
        ("Process", str(attempt.pid) if attempt.pid and attempt.outcome is None else ""),
        ("Output", _size(attempt.log_bytes) if attempt.log_bytes else ""),
    ]
    error = attempt.error
    return AttemptSheet(
        number=attempt.attempt,
        state=_state_of(attempt),
        how=_how(attempt) or "running",
        facts=[(label, value) for label, value in facts if value],
        error=None if error is None else _cut(error.in_words(attempt.outcome), _MOST_OF_A_TEXT),
        traceback=None
        if error is None or error.traceback is None
        else _end(error.traceback, _MOST_OF_A_TEXT),
        log=tail.text,
        before=_size(tail.before) if tail.before else None,
    )


def _bar(view: JobView) -> Bar | None:
    if (progress := progress_of(view)) is None:
        return None
    return Bar(progress.fraction, progress_line(progress))


def _attempts(view: JobView) -> str:
    return f"{view.attempt} of {max(view.attempt, view.retries + 1)}"


def _waited(view: JobView, now: float) -> str:
    """Return how long it was, or has been, from the submission to the latest start, or when it is due."""
    if view.state is State.SCHEDULED and view.due_at is not None:
        return f"due in {short_duration(view.due_at - now)}"
    return short_duration(view.waited_seconds)


def _state_of(attempt: AttemptView) -> str:
    match attempt.outcome:
        case None:
            return "running"
        case "succeeded" | "cancelled":
            return attempt.outcome
        case "snoozed":
            return "scheduled"
        case _:
            return "failed"


def _how(ended: JobView | AttemptView) -> str:
    """Return how an attempt ended, or a job's latest one; nothing if it has not."""
    if ended.outcome is Outcome.EXIT:
        return f"exit code {ended.exit_code}"
    if ended.outcome is Outcome.SIGNAL:
        return f"signal {ended.signal}"
    return (ended.outcome or "").replace("_", " ")


def _processor(attempt: AttemptView) -> str:
    if attempt.user_seconds is None or attempt.system_seconds is None:
        return ""
    return f"{attempt.user_seconds:.2f}s user, {attempt.system_seconds:.2f}s system"


def _size(count: int) -> str:
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _instant(at: float, now: float) -> Instant:
    local = f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
    distance = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return Instant(local, distance, iso_time(at) or "")


def _command(view: JobView, most: int) -> str:
    return _cut(command_line(view, enough=most + 1), most)


def _indented(result: str, most: int) -> str:
    """Return the beginning: a million bytes may become a thousand times as many, if they are nested deep."""
    text = ""
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(result)):
        text += piece
        if len(text) > most:
            break
    return _cut(text, most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS}"


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"\N{HORIZONTAL ELLIPSIS}{text[-most:]}"
