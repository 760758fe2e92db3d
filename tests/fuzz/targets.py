"""The fuzz targets: each function takes any bytes, and raises only if bgd has a bug."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC

from click import UsageError

from bgctl.crontab import Machine, pam_variables, parse_crontab
from bgctl.options import PAST_TIME, parsed
from bgd.core.cron import ExpressionError
from bgd.core.describe import describe
from bgd.core.job import Outcome
from bgd.core.occurrences import count_between, due_between, next_due
from bgd.core.spec import Instant, problem_with
from bgd.core.target import is_allowed, parse_target, patterns_for, problem_with_entry
from bgd.core.when import Kind, parse_when
from bgd.daemon.dispatch import reported_end
from bgd.daemon.web import queries
from bgd.daemon.web.router import PAGES, find
from bgd.errors import ProtocolError
from bgd.text.escape import one_line
from bgd.text.units import format_duration, parse_duration, parse_size
from bgd.wire import launching, messages
from bgd.wire.framing import FrameReader
from bgd.wire.http import HttpExchange, HttpRequest, HttpResponse, RequestRefused
from bgd.wire.launching import AttemptEnded, AttemptKey
from bgd.wire.requests import Submit
from tests.fuzz.conversation import converse
from tests.fuzz.files import configuration, journal, logs

MONTH = 30 * 86_400  # seconds
SOME = 100
SMALL_FRAME = 200  # bytes, so small that inputs exceed it


def frames(data: bytes) -> None:
    """Payloads do not depend on the pieces in which they arrive, and none exceeds the limit."""
    cut = data[0] if data else 0
    whole, pieces = FrameReader(SMALL_FRAME), FrameReader(SMALL_FRAME)
    expected, is_refused = _fed(whole, [data])
    found, was_refused = _fed(pieces, [data[:cut], data[cut : 2 * cut], data[2 * cut :]])
    assert found == expected
    assert is_refused == was_refused
    assert all(len(payload) <= SMALL_FRAME for payload in found)


def client_messages(data: bytes) -> None:
    """A message from a client's socket is refused, or is the same after encoding and decoding it."""
    for decode in (messages.decode_hello, messages.decode_request, messages.decode_reply):
        with suppress(ProtocolError):
            message = decode(data)
            again = messages.encode(message)
            assert messages.encode(decode(again)) == again
            if isinstance(message, Submit):
                problem_with(message.spec)
    messages.request_id_of(data)


def launcher_messages(data: bytes) -> None:
    """The same holds for the launcher's socket, and any result of a class job is handled."""
    for decode in (launching.decode_to_launcher, launching.decode_from_launcher):
        with suppress(ProtocolError):
            message = decode(data)
            again = launching.encode(message)
            assert launching.encode(decode(again)) == again
            if isinstance(message, AttemptEnded):
                reported_end(message)
    for outcome in (Outcome.SUCCEEDED, Outcome.EXIT):
        reported_end(
            AttemptEnded(key=AttemptKey("store", 1, 1), outcome=outcome, finished_at=1.0, result=data)
        )


def http(data: bytes) -> None:
    """A request does not depend on the pieces in which it arrives, and every refusal can be sent."""
    whole, pieces = HttpExchange(), HttpExchange()
    cut = len(data) // 3
    expected = _received(whole, [data])
    found = _received(pieces, [data[:cut], data[cut : 2 * cut], data[2 * cut :]])
    assert (expected is None) == (found is None)
    assert isinstance(expected, RequestRefused) == isinstance(found, RequestRefused)
    if not isinstance(expected, HttpRequest):
        return
    assert found == expected
    expected.cookies("bgd")
    for read in (queries.list_query, queries.log_part_query, queries.search_query):
        with suppress(RequestRefused):
            read(expected.query)
    for kind in (queries.LogQuery, queries.LogsQuery, queries.LiveQuery):
        with suppress(RequestRefused):
            queries.read_query(expected.query, kind)
    with suppress(RequestRefused):
        queries.list_url(queries.list_query(expected.query))
    find(PAGES, expected.path)
    whole.begin(HttpResponse(body=b"page"))


def words(data: bytes) -> None:
    """Targets, patterns and units are parsed or refused; what is parsed can be written and parsed again."""
    text = data.decode(errors="replace")
    with suppress(ValueError):
        seconds = parse_duration(text)
        assert abs(parse_duration(format_duration(seconds)) - seconds) <= max(1e-3, seconds * 1e-5)
    with suppress(ValueError):
        assert parse_size(text) >= 0
    with suppress(ValueError):
        target = parse_target(text)
        assert parse_target(str(target)) == target
        assert not any(map(problem_with_entry, patterns_for(target)))
        assert all(is_allowed(target, [entry]) for entry in patterns_for(target))
        assert not is_allowed(target, ["*", "", "::*", f"{target}x"])
    for instant in (PAST_TIME, parsed(Instant)):
        with suppress(UsageError):
            instant.convert(text, None, None)
    problem_with_entry(text)
    assert one_line(text).isprintable() or not text.isprintable()
    assert "\n" not in one_line(text)


def schedules(data: bytes) -> None:
    """Schedules and crontabs are read, or refused on one line; what is due agrees with its count."""
    text = data.decode(errors="surrogateescape")
    for kind in Kind:
        with suppress(ExpressionError):
            when = parse_when(text, kind, key="")
            due = due_between(when, UTC, 0, MONTH, SOME)
            assert due == sorted(set(due))
            assert (next_due(when, UTC, 0) in due) or not due
            assert count_between(when, UTC, 0, due[-1] if due else MONTH) == len(due)
            assert describe(when, "UTC")
    for has_users in (False, True):
        machine = Machine(
            user="ann",
            home="/home/ann",
            has_users=has_users,
            is_user=lambda word, _path: word in {"ann", "bob"},
            is_folder="/home/ann".__eq__,
            pam=pam_variables(text),
        )
        crontab = parse_crontab(text, machine)
        assert len({each.name for each in crontab.definitions}) == len(crontab.definitions)
        assert not any("\n" in note.text for note in crontab.notes)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "client_messages": client_messages,
    "launcher_messages": launcher_messages,
    "conversation": converse,
    "http": http,
    "configuration": configuration,
    "words": words,
    "schedules": schedules,
    "journal": journal,
    "logs": logs,
}


def _fed(reader: FrameReader, pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """Return the payloads, and whether the rest was refused."""
    payloads: list[bytes] = []
    try:
        for piece in pieces:
            payloads.extend(reader.feed(piece))
    except ProtocolError:
        return payloads, True
    return payloads, False


def _received(exchange: HttpExchange, pieces: list[bytes]) -> HttpRequest | RequestRefused | None:
    try:
        for piece in pieces:
            if (request := exchange.receive(piece)) is not None:
                return request
    except RequestRefused as refused:
        answer = refused
    else:
        return None
    assert HttpExchange().begin(answer.response)
    return answer
