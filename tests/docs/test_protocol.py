"""docs/protocol.md has every message, field, value, default and limit, and correct bytes."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import msgspec
import pytest

from bgd.client.session import take_output
from bgd.core import spec
from bgd.core.explain import Cause, Explanation, Reason
from bgd.core.job import Outcome, State
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.core.spec import JobCause, JobSpec
from bgd.daemon.control.connection import FRAME_SECONDS, HELLO_SECONDS, MAX_CONNECTIONS
from bgd.daemon.control.limits import (
    MAX_IN_FLIGHT,
    MAX_OWN_UNSAVED_BYTES,
    MAX_PARTIAL_BYTES,
    MAX_SHORT_TASKS,
    MAX_STREAM_BYTES,
    MAX_UNSAVED_BYTES,
)
from bgd.wire import framing, messages, replies, requests, schedules, views
from bgd.wire.messages import kinds_of
from tests.docs.pages import block, first_cells, page, rows_of, section
from tests.support import DEADLINE

PROTOCOL = page("docs/protocol.md")

VALUES = [
    JobSpec,
    JobCause,
    requests.BatchPlace,
    requests.Selection,
    requests.Changes,
    views.JobView,
    views.Progress,
    views.JobProgress,
    views.JobUsage,
    views.StepView,
    views.AttemptView,
    views.QueueView,
    Explanation,
    Reason,
    views.GroupStats,
    views.EventView,
    views.JobEnd,
    views.ScheduleEvent,
    views.Finding,
    views.JobError,
    replies.ActResult,
    ScheduleSpec,
    schedules.ScheduleView,
    schedules.OccurrenceView,
]
REQUESTS = tuple(kinds_of(requests.Request).values())
REPLIES = tuple(kinds_of(replies.Reply).values())
ENUMERATIONS = [
    Cause,
    State,
    Outcome,
    requests.ShutdownMode,
    replies.ErrorCode,
    views.StepState,
    views.Level,
    Overlap,
    Missed,
    Result,
]


def test_protocol_page_names_every_message():
    named = {part: headings(section(PROTOCOL, f"## {part}")) for part in ("Hello", "Requests", "Replies")}

    assert {part: sorted(tags) for part, tags in named.items()} == {
        "Hello": ["hello"],
        "Requests": sorted(map(tag, REQUESTS)),
        "Replies": sorted(map(tag, REPLIES)),
    }
    assert first_cells(section(PROTOCOL, "## Requests and replies")) == named["Requests"]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("Hello", messages.Hello),
        *(("Requests", kind) for kind in REQUESTS),
        *(("Replies", kind) for kind in REPLIES),
        *(("Values", kind) for kind in VALUES),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_protocol_page_names_every_field_and_whether_it_may_be_left_out(part, kind):
    title = kind.__name__ if kind in VALUES else f"`{tag(kind)}`"
    table = section(section(PROTOCOL, f"## {part}"), f"### {title}")
    said = {
        row[0].strip("`"): row[1].rpartition(" = ")[2] for row in rows_of(table, "field") if "=" in row[1]
    }

    assert first_cells(table, "field") == [name for name in kind.__struct_fields__ if is_told(kind, name)]
    assert said == {
        field.name: default_of(field)
        for field in msgspec.structs.fields(kind)
        if not field.required and field.default is not msgspec.UNSET
    }


@pytest.mark.parametrize("kind", ENUMERATIONS, ids=lambda kind: kind.__name__)
def test_protocol_page_names_every_value(kind):
    assert first_cells(PROTOCOL, kind.__name__) == [each.value for each in kind]


def test_protocol_page_says_what_the_limits_are():
    said = [int(row[1].split()[0]) for row in rows_of(section(PROTOCOL, "## Limits"))]

    assert said == [
        framing.MAX_FRAME,
        HELLO_SECONDS,
        FRAME_SECONDS,
        MAX_CONNECTIONS,
        MAX_IN_FLIGHT,
        MAX_SHORT_TASKS,
        MAX_OWN_UNSAVED_BYTES,
        MAX_UNSAVED_BYTES,
        MAX_PARTIAL_BYTES,
        MAX_STREAM_BYTES,
        requests.MAX_BATCH,
        requests.MAX_BATCH_BYTES,
        requests.MAX_IDS,
        spec.MAX_ARGV,
        spec.MAX_WORD,
        spec.MAX_WORK,
        spec.MAX_ENV,
        spec.MAX_RESULT,
        spec.MAX_DURATION,
        spec.MAX_WAITS,
        spec.MAX_INPUT,
        spec.MAX_SLOTS,
        requests.MAX_PROGRESS_MESSAGE,
        requests.MAX_STEPS,
        requests.MAX_STEP_VALUE,
        requests.MAX_STEP_BYTES,
    ]


def test_bytes_on_the_protocol_page_are_what_they_are_said_to_be():
    hello, submit = (payload_of(block(PROTOCOL, name)) for name in ("hello", "submit"))

    assert messages.decode_hello(hello) == messages.Hello(messages.PROTOCOL, "1")
    assert messages.decode_request(submit) == requests.Submit(1, JobSpec(argv=("true",)))


def test_bytes_of_a_stream_on_the_protocol_page_are_what_they_are_said_to_be():
    follow, log, resume, end = (
        payload_of(block(PROTOCOL, name)) for name in ("follow", "log", "resume", "end")
    )
    part = replies.LogPart(2, 1, b"hi\n")
    request = requests.Logs(id=2, job=7, attempt=0, follow=True)
    again, parts = take_output(request, part, of_one=False)

    assert messages.decode_request(follow) == request
    assert [messages.decode_reply(log)] == parts
    assert again is not None
    assert messages.decode_request(resume) == msgspec.structs.replace(again, id=1)
    assert messages.decode_reply(end) == replies.End(1)


def test_bytes_on_the_protocol_page_queue_a_job(daemon):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(daemon.socket))
        connection.sendall(bytes.fromhex(block(PROTOCOL, "hello") + block(PROTOCOL, "submit")))
        payloads = payloads_from(connection)

        assert messages.decode_hello(next(payloads)).protocol == messages.PROTOCOL
        submitted = messages.decode_reply(next(payloads))

    assert isinstance(submitted, replies.Submitted)
    assert submitted.id == 1
    with daemon.client() as client:
        assert client.job(submitted.jobs[0]).argv == ["true"]


# --- what the code has --------------------------------------------------------------------------------------


def headings(part: str) -> list[str]:
    return re.findall(r"^### `(\w+)`$", part, re.MULTILINE)


def tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def is_told(kind: type[msgspec.Struct], name: str) -> bool:
    """Return whether a table has this field; it leaves out the id that all messages have."""
    return name != "id" or kind in VALUES


def default_of(field: msgspec.structs.FieldInfo) -> str:
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if default is None:
        return "nil"
    if default == ():
        return "[]"
    return msgspec.json.encode(default).decode().removesuffix(".0")


def payloads_from(connection: socket.socket) -> Iterator[bytes]:
    reader = framing.FrameReader()
    while data := connection.recv(65536):
        yield from reader.feed(data)


def payload_of(dump: str) -> bytes:
    """Return the payload of a frame written in hexadecimal."""
    (payload,) = framing.FrameReader().feed(bytes.fromhex(dump))
    return payload
