"""The client's side of the protocol without I/O: numbered requests, repeated submits, resumed streams.

`bgd.client.connection` moves the bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

from msgspec import ValidationError, convert
from msgspec.structs import replace

import bgd
from bgd.client.inherited import caller_session, caller_trace
from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec, TraceParent, TraceState
from bgd.errors import BgdError, DaemonUnreachable, Full, JobFailed, ProtocolError, Refused
from bgd.wire.framing import HEADER, MAX_FRAME, FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_reply, encode
from bgd.wire.replies import (
    Acted,
    ActResult,
    ErrorCode,
    EventsPart,
    Failed,
    JobsPart,
    LogPart,
    ProgressPart,
    Reply,
    Result,
    Submitted,
    error_of,
)
from bgd.wire.requests import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    MAX_IDS,
    Action,
    GetEvents,
    Logs,
    Request,
    Submit,
    SubmitMany,
    Wait,
)
from bgd.wire.views import EventView, JobError, JobProgress, JobView, ScheduleEvent

R = TypeVar("R")

UNNUMBERED = 0  # the id of a request that has not been sent yet
REPEATABLE_SECONDS = 300.0  # a daemon recognises requests for twice that time
_TOKEN_BYTES = 16  # random ones, so no two tokens are alike


class NotSent(DaemonUnreachable):
    """The connection broke before the whole request was sent, so the daemon has not taken it."""


class Broken(DaemonUnreachable):
    """The connection broke after the request was sent, so the daemon may or may not have taken it."""


class HungUp(DaemonUnreachable):
    """The daemon closed the connection before its hello, so it has not been asked for anything."""


class Session:
    """The daemon's side of one connection: its hello, then its replies."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self.is_greeted = False
        self.version = ""  # of the daemon
        self.newest = 0  # the newest job that the daemon told of

    def hello(self) -> bytes:
        """Return the frame that must be sent first."""
        return frame(encode(Hello(PROTOCOL, bgd.__version__, "bgd client")))

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Yield the replies to requests that received bytes complete.

        Raises:
            BgdError: the daemon refuses the connection or does not speak this protocol. The session is over.
        """
        for payload in self._frames.feed(data):
            if not self.is_greeted:
                self._greet(payload)
                continue
            try:
                reply = decode_reply(payload)
            except ProtocolError as error:
                raise ProtocolError(f"{error}{self._versions()}") from error
            yield self._checked(reply)

    def error_in(self, failed: Failed) -> BgdError:
        """Return why a request failed."""
        if failed.unknown is not None:
            return ProtocolError(
                f"the daemon is an older bgd ({self.version}), which does not know `{failed.unknown}`: "
                "upgrade it, and restart it with `bgctl shutdown` and then `bgd`, or with "
                "`systemctl restart bgd`; running jobs go on"
            )
        is_unread = failed.code is ErrorCode.PROTOCOL
        return error_of(failed.code, f"{failed.message}{self._versions() if is_unread else ''}")

    def _versions(self) -> str:
        """Return what to do if daemon and program are of two versions, and do not understand each other."""
        if self.version == bgd.__version__:
            return ""
        own = bgd.__version__
        return f"; the daemon is bgd {self.version}, this program is bgd {own}: upgrade the older one"

    def end(self, path: str) -> Callable[[], DaemonUnreachable]:
        """Return a function that makes the error for a daemon that closed the connection."""
        if not self.is_greeted:
            return partial(
                HungUp, f"the daemon at {path} closed the connection without an answer: see its log"
            )
        return partial(
            Broken,
            f"the daemon at {path} stopped before it answered; running jobs continue, "
            "and the request may or may not have been executed",
        )

    def _greet(self, payload: bytes) -> None:
        try:
            hello = decode_hello(payload)
        except ProtocolError:
            self._checked(decode_reply(payload))  # refused before the hello, with a reason
            return
        if hello.protocol != PROTOCOL:
            raise ProtocolError(
                f"the daemon (bgd {hello.version}) speaks protocol {hello.protocol}, this program (bgd "
                f"{bgd.__version__}) protocol {PROTOCOL}: upgrade the older one, and restart the daemon"
            )
        self.is_greeted = True
        self.version = hello.version
        self.newest = hello.newest or 0

    def _checked(self, reply: Reply) -> Reply:
        if isinstance(reply, Submitted):
            self.newest = max(self.newest, *reply.jobs[-1:])
        elif isinstance(reply, Failed) and reply.id == UNNUMBERED:  # about the connection as a whole
            raise error_of(reply.code, reply.message)
        return reply


# --- requests and replies -------------------------------------------------------------------------------


def framed(request: Request, request_id: int) -> bytes:
    """Return the frame of a request with this id.

    Raises:
        Refused: the request is too long or has text that is not UTF-8. Both come from the caller.
    """
    try:
        return frame(encode(replace(request, id=request_id)))
    except ProtocolError as error:
        raise Refused(f"the request cannot be sent: {error}") from error


def submit_frames(request_id: int, *, spec: JobSpec, **fields: Any) -> bytes:
    """Return the frame of a Submit, with further fields of it; raises Refused as `framed` does."""
    [spec] = from_caller([spec])
    return framed(Submit(UNNUMBERED, spec, **fields), request_id)


def from_caller(specs: Sequence[JobSpec]) -> Sequence[JobSpec]:
    """Add the caller's trace to specs, if it has a valid one, and its session to those that name none."""
    if (session := caller_session()) is not None:
        specs = [spec if spec.session is not None else replace(spec, session=session) for spec in specs]
    found = caller_trace()
    if found is None:
        return specs
    try:
        trace = convert(found, tuple[TraceParent, TraceState])
    except ValidationError:  # W3C Trace Context says to ignore an invalid one
        return specs
    return [replace(spec, trace=trace) for spec in specs]


def batch_frames(request_id: int, *, specs: Sequence[JobSpec], env: dict[str, str], **fields: Any) -> bytes:
    """Return a SubmitMany, with further fields of it, in as many frames as it takes.

    Raises:
        Full: the batch is more than a daemon takes at once.
        Refused: one job is too large for a frame.
    """
    if len(specs) > MAX_BATCH:
        raise Full(f"{len(specs)} jobs at once are too many: at most {MAX_BATCH}, submit them in portions")
    frames = b"".join(map(frame, _payloads(request_id, specs, env, fields)))
    if len(frames) > MAX_BATCH_BYTES:
        raise Full(
            f"{len(frames)} bytes at once are too many: at most {MAX_BATCH_BYTES}, submit jobs in portions"
        )
    return frames


def _payloads(
    request_id: int, specs: Sequence[JobSpec], env: dict[str, str], fields: dict[str, Any]
) -> Iterator[bytes]:
    specs = from_caller(specs)
    start, count = 0, len(specs)
    while True:
        part = list(specs[start : start + count])
        end = start + len(part)
        part_env = env if any(spec.env is None and spec.argv is not None for spec in part) else None
        request = SubmitMany(id=request_id, specs=part, env=part_env, more=end < len(specs), **fields)
        payload = encode(request)
        if len(payload) > MAX_FRAME and len(part) > 1:
            # a count that probably fits; specs differ, so it may take another try
            count = max(1, len(part) * (MAX_FRAME - HEADER) // (len(payload) + len(payload) // 8))
            continue
        if len(payload) > MAX_FRAME:
            raise Refused(f"job {start} of the batch takes {len(payload)} bytes: at most {MAX_FRAME}")
        yield payload
        start = end
        if start == len(specs):
            return


def portions(ids: Iterable[int]) -> Iterator[list[int]]:
    """Cut ids into lists that fit into one request each."""
    rest = iter(ids)
    while portion := list(islice(rest, MAX_IDS)):
        yield portion


def expected(reply: Reply, kind: type[R]) -> R:
    """Return a reply that must be of one type.

    Raises:
        ProtocolError: it is of another.
    """
    if not isinstance(reply, kind):
        raise ProtocolError(f"the daemon answered with {type(reply).__name__} instead of {kind.__name__}")
    return reply


def error_in(result: ActResult) -> BgdError | None:
    """Return why an action on a job was refused; None if it was done."""
    if result.state is not None:
        return None
    return error_of(result.code or ErrorCode.REFUSED, result.message or f"job {result.job}: refused")


def failure_of(view: JobView, error: JobError | None) -> JobFailed:
    """Return the exception that `result` raises for a job that did not succeed."""
    return JobFailed(
        f"job {view.id}{_named(view)} {_how_it_failed(view)}"
        + (f": {error.in_words(view.outcome)}" if error else f" ({view.reason})" if view.reason else ""),
        job_id=view.id,
        name=view.name,
        outcome=Outcome.CANCELLED if view.state is State.CANCELLED else view.outcome,
        exit_code=view.exit_code,
        error_type=None if error is None or error.type == Outcome.NOT_STARTED else error.type,
        error_message=error.message if error else None,
        traceback=error.traceback if error else None,
    )


def value_of(reply: Result) -> Any:
    """Return what a job that has finished returned; 0 for a command.

    Raises:
        JobFailed: it did not succeed.
    """
    if reply.job.state is not State.SUCCEEDED:
        raise failure_of(reply.job, reply.error)
    if reply.job.target is None:
        return 0
    if reply.value is None:
        return None
    import json  # noqa: PLC0415 - bgctl starts often, and only class jobs return values

    return json.loads(reply.value)


def new_state(results: list[ActResult]) -> State:
    """Return what became of one job.

    Raises:
        BgdError: the action on it was refused.
    """
    [result] = results
    if result.state is None:
        raise error_in(result) or Refused(f"job {result.job}: refused")
    return result.state


OTHER_NAMES = {
    "done": "state or wait()",
    "get": "result()",
    "kill": "cancel()",
    "return_value": "result()",
    "returncode": "exit_code",
    "status": "state",
    "stdout": "output()",
    "stop": "cancel()",
    "terminate": "cancel()",
}
"""Attributes of a job by the names that other libraries use, such as subprocess, Celery and RQ."""


def _named(view: JobView) -> str:
    known = view.name or view.target
    return "" if known is None else f" ({known})"


def _how_it_failed(view: JobView) -> str:
    if view.state is State.CANCELLED:
        return "was cancelled"
    if view.outcome is Outcome.EXIT:
        return f"failed with exit code {view.exit_code}"
    if view.outcome is Outcome.SIGNAL:
        return f"was killed by signal {view.signal}"
    return f"failed ({view.outcome})"


def tail_of(data: bytes, *, is_all: bool) -> str:
    """Return the last lines at the end of some output, or of all of it, as they can be shown anywhere."""
    from bgd.text.terminal import plain_lines  # noqa: PLC0415 - most programs read no inbox

    lines = plain_lines(data)
    if not is_all and len(lines) > 1:
        del lines[0]  # its beginning may be missing
    return "\n".join(lines[-TAIL_LINES:])


TAIL_BYTES, TAIL_LINES = 1_000, 10
"""How much of the end of its output comes with the end of a job."""


# --- idempotency: submits carry a token, so that the daemon recognises one that is sent again -----------


Sent = tuple[bytes, int]
"""The token of a submit that was sent over a connection, and the newest job that the daemon told of there."""


class Idempotency:
    """The token of one submit, over all the connections that it is sent over.

    `sent`: it was sent before, and its answer was lost. `lost`: how the first answer was lost; None: the
    submit was surely not taken.
    """

    def __init__(self, sent: Sent | None = None) -> None:
        self._token, self._known = sent or (os.urandom(_TOKEN_BYTES), 0)
        self._sent_at = 0.0 if sent is None else time.monotonic()
        self.lost: Broken | None = None
        if sent is not None:
            self.lost = Broken("the daemon did not answer, and the request may or may not have been executed")

    @property
    def may_repeat(self) -> bool:
        """Whether the submit may be sent again although the daemon may have taken it."""
        return time.monotonic() < self._sent_at + REPEATABLE_SECONDS

    def fields(self, newest: int) -> dict[str, Any]:
        """Return the fields `token` and `again` for a daemon that told of its `newest` job."""
        if self.lost is None:
            self._known, self._sent_at = newest, time.monotonic()
            return {"token": self._token}
        return {"token": self._token, "again": self._known}


# --- resume: what to ask the next daemon for when a stream broke off ------------------------------------

ProgressCallback = Callable[[JobProgress], object]


def take_output(rest: Logs, reply: Reply, *, of_one: bool) -> tuple[Logs | None, list[LogPart]]:
    """Return the request for the rest of some output, and the parts in a reply; every byte arrives once.

    `of_one`: of one attempt. The rest names a place, after which the daemon goes on to later attempts.
    """
    part = expected(reply, LogPart)
    if of_one and rest.offset is not None and part.attempt != rest.attempt:
        return None, []
    rest = replace(rest, attempt=part.attempt, offset=part.offset + len(part.data), tail=None)
    return rest, [part] if part.data or part.left_out else []


class ResumableWait:
    """A request for the end of jobs that can be resumed.

    Args:
        job_ids: the jobs to wait for.
        on_progress: called with what running jobs report; None: do not ask for it.
        only_now: return the jobs that have finished already, and do not wait for the others.
    """

    def __init__(
        self, job_ids: Iterable[int], on_progress: ProgressCallback | None = None, *, only_now: bool = False
    ) -> None:
        self._waiting: dict[int, None] = dict.fromkeys(job_ids)
        self._on_progress = on_progress
        self._only_now = only_now

    @property
    def first(self) -> int | None:
        """The first unfinished job, None if all have finished."""
        return next(iter(self._waiting), None)

    def request(self) -> Wait | None:
        """Return the request for the rest, None if nothing is left."""
        if not self._waiting:
            return None
        return Wait(
            UNNUMBERED, list(self._waiting), progress=self._on_progress is not None, only_now=self._only_now
        )

    def take(self, reply: Reply) -> list[JobView]:
        """Return the jobs that the reply reports as finished."""
        if isinstance(reply, ProgressPart) and self._on_progress is not None:
            for progress in reply.jobs:
                self._on_progress(progress)
            return []
        views = expected(reply, JobsPart).jobs
        for view in views:
            self._waiting.pop(view.id, None)
        return views


def take_results(rest: Action, reply: Reply) -> tuple[Action, list[list[ActResult]]]:
    """Return the request to act on the other jobs that match, and the results in a reply."""
    results = expected(reply, Acted).results
    if results and rest.where is not None:
        where = replace(rest.where, after=max(result.job for result in results))
        rest = replace(rest, where=where)
    return rest, [results]


def take_events(rest: GetEvents, reply: Reply) -> tuple[GetEvents, list[EventView | ScheduleEvent]]:
    """Return the request for later events, and the events in a reply, oldest first.

    Raises:
        Refused: some of the events asked for are no longer kept.
    """
    part = expected(reply, EventsPart)
    # since=0 comes before all events: it asks for those that are kept
    if part.lost and rest.since:
        raise Refused(
            f"events after {rest.since} are no longer kept: look at the jobs, "
            "then ask for events from now on, without since"
        )
    return replace(rest, since=part.last), sorted([*part.events, *part.schedules], key=attrgetter("id"))
