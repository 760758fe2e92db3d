from __future__ import annotations

import math

import msgspec
import pytest

from bgd.core.spec import (
    MAX_ARGV,
    MAX_DURATION,
    MAX_ENV,
    MAX_NAME,
    MAX_PATH,
    MAX_PRIORITY,
    MAX_RETRIES,
    MAX_TAGS,
    MAX_WORD,
    MAX_WORK,
    JobSpec,
)
from bgd.errors import ProtocolError
from bgd.wire.framing import MAX_FRAME, frame
from bgd.wire.messages import Hello, decode_request, encode, request_id_of, tag_of
from bgd.wire.requests import MAX_BATCH, MAX_IDS, MAX_LIST, Cancel, Selection, Show, Submit, Wait, act

NOT_UTF_8 = "caf\udce9"  # how Python reads a file name of other bytes


def request(tag, **fields):
    return msgspec.msgpack.encode({"type": tag, "id": 1, **fields})


def submit(**options):
    return request("submit", spec=options)


# --- what a stranger may not send ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("priority", [-MAX_PRIORITY, MAX_PRIORITY]),
        ("retries", [0, MAX_RETRIES]),
        ("retry_delay", [0, MAX_DURATION]),
        ("max_delay", [0, MAX_DURATION]),
        ("backoff", [1, 100]),
        ("jitter", [0, 1]),
        ("timeout", [0.001, MAX_DURATION]),
        ("delay", [0, MAX_DURATION]),
        ("umask", [0, 0o777]),
        ("name", ["x", "x" * MAX_NAME, None]),
        ("tags", [[], ["x" * MAX_NAME] * MAX_TAGS]),
        ("cwd", ["/", "x" * MAX_PATH]),
        ("argv", [[], ["x"] * MAX_ARGV, ["x" * MAX_WORD]]),
        ("arguments", ["", "x" * MAX_WORK]),
        ("env", [{}, {str(number): "" for number in range(MAX_ENV)}]),
        ("rerun", [True, False, None]),
    ],
)
def test_a_value_at_its_limit_is_accepted(field, values):
    for value in values:
        assert isinstance(decode_request(submit(**{field: value})), Submit)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("priority", [-MAX_PRIORITY - 1, MAX_PRIORITY + 1, 2**64 - 1, 0.5, "1"]),
        ("retries", [-1, MAX_RETRIES + 1, 2**64 - 1]),
        ("retry_delay", [-0.001, MAX_DURATION + 1, 2**64 - 1, math.nan, math.inf, "5s"]),
        ("max_delay", [-0.001, MAX_DURATION + 1, math.nan, math.inf]),
        ("backoff", [0.999, 100.001, math.nan, math.inf]),
        ("jitter", [-0.001, 1.001, math.nan]),
        ("timeout", [0, -1, MAX_DURATION + 1, math.nan, math.inf]),
        ("delay", [-0.001, MAX_DURATION + 1, math.nan, -math.inf, None]),
        ("umask", [-1, 0o1000]),
        ("name", ["", "x" * (MAX_NAME + 1), 7]),
        ("tags", [[""], ["x"] * (MAX_TAGS + 1), ["x" * (MAX_NAME + 1)], "tag"]),
        ("queue", ["", "a/b", "a\n", 7]),
        ("cwd", ["", "x" * (MAX_PATH + 1), 7]),
        ("argv", [["x"] * (MAX_ARGV + 1), ["x" * (MAX_WORD + 1)], "true", [7], [b"true"]]),
        ("target", ["x" * 501]),
        ("arguments", ["x" * (MAX_WORK + 1), {"args": []}]),
        ("env", [{str(number): "" for number in range(MAX_ENV + 1)}, {"A": 1}, {1: "A"}, [["A", "1"]]]),
        ("rerun", ["yes", 1]),
    ],
)
def test_a_value_over_its_limit_is_a_protocol_error_that_names_it(field, values):
    for value in values:
        with pytest.raises(ProtocolError, match=rf"\$\.spec\.{field}|`(key|value)` .*\$\.spec\.{field}"):
            decode_request(submit(**{field: value}))


@pytest.mark.parametrize(
    "payload",
    [
        request("show", job=0),
        request("show", job=2**63),
        request("show", job=2**64 - 1),
        request("wait", jobs=[]),
        request("wait", jobs=[1] * (MAX_IDS + 1)),
        request("cancel", jobs=[-1]),
        request("list", limit=0),
        request("list", limit=MAX_LIST + 1),
        request("list", states=["asleep"]),
        request("logs", job=1, attempt=-1),
        request("logs", job=1, tail=1_000_001),
        request("shutdown", mode="now"),
        request("submit_many", specs=[{}] * (MAX_BATCH + 1)),
        msgspec.msgpack.encode({"type": "info", "id": -1}),
        msgspec.msgpack.encode({"type": "info", "id": 2**63}),
        msgspec.msgpack.encode({"type": "info"}),
    ],
)
def test_a_request_over_its_limits_is_a_protocol_error(payload):
    with pytest.raises(ProtocolError, match="not a message of protocol 1"):
        decode_request(payload)


def test_the_greatest_ids_fit_the_database():
    message = Wait(2**63 - 1, [2**63 - 1])

    assert decode_request(encode(message)) == message


def test_the_longest_argv_fits_into_a_frame():
    environment = {f"NAME_{number}": "x" * 100 for number in range(300)}
    words = ("x" * (MAX_WORK // 10),) * 10

    for spec in (JobSpec(argv=words, env=environment), JobSpec(target="a:b", arguments="x" * MAX_WORK)):
        assert len(frame(encode(Submit(1, spec)))) < MAX_FRAME


# --- what cannot be sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, NOT_UTF_8),
        Submit(1, JobSpec(argv=("cat", NOT_UTF_8))),
        Submit(1, JobSpec(argv=("true",), env={"A": NOT_UTF_8})),
        Submit(1, JobSpec(argv=("true",), env={NOT_UTF_8: "A"})),
    ],
)
def test_text_that_is_not_utf_8_is_not_sent(message):
    with pytest.raises(ProtocolError, match=r"not UTF-8 text: 'caf\\udce9'"):
        encode(message)


@pytest.mark.parametrize("message", [Show(1, 2**64), Cancel(1, [1, -(2**63) - 1])])
def test_a_number_that_no_message_holds_is_not_sent(message):
    with pytest.raises(ProtocolError, match="a number"):
        encode(message)


# --- whose request it was ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "request_id"),
    [
        (request("no such verb"), 1),
        (submit(priority=MAX_PRIORITY + 1), 1),
        (msgspec.msgpack.encode({"id": 2**63 - 1}), 2**63 - 1),
        (msgspec.msgpack.encode({"id": -1}), None),
        (msgspec.msgpack.encode({"id": 2**64 - 1}), None),
        (msgspec.msgpack.encode({"id": "1"}), None),
        (msgspec.msgpack.encode({}), None),
        (b"", None),
        (b"\x81\xa2id\x01garbage", None),
        (b"\x82\xa2id\x01\xa1x\xa1\xff", 1),  # fields that are not read are not checked
        (b"\x81\xa2id" + b"\x91" * 100_000, None),
        (b"\x82\xa2id\x01\xa1x" + b"\x91" * 100_000, None),
        (b"\x81\xa2\xff\xfe\x01", None),
    ],
)
def test_the_id_of_a_bad_request_is_read_if_it_can_be(payload, request_id):
    assert request_id_of(payload) == request_id


def test_a_request_for_all_that_match_is_named_by_its_verb():
    everything = Selection()
    for verb in ("cancel", "hold", "remove"):
        request = act(verb, where=everything)
        assert (tag_of(request), request.where) == (verb, everything)

    request = act("signal", where=everything, signal=15)

    assert tag_of(request) == "signal"
    assert decode_request(encode(request)) == request
