"""What holds for every message of both protocols."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect
from msgspec.structs import replace

from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.spec import JobCause, JobSpec
from bgd.errors import ProtocolError
from bgd.wire.messages import Hello, decode_reply, decode_request
from bgd.wire.schedules import SchedulesPart, digest_of
from tests.wire.message_strategies import DIRECTIONS, KINDS, kinds_of, messages_of, tag_of

DEEP = 100_000  # levels, a hundred times the limit of the interpreter

by_direction = pytest.mark.parametrize("direction", DIRECTIONS)
by_kind = pytest.mark.parametrize(
    ("direction", "kind"), KINDS, ids=[f"{direction}-{kind.__name__}" for direction, kind in KINDS]
)

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text() | st.integers(0, 9), values, max_size=3)
    ),
    max_leaves=10,
)


def read(direction, payload):
    """Decode, and fail unless that gives a message of this direction or a ProtocolError."""
    _, _, decode = DIRECTIONS[direction]
    try:
        message = decode(payload)
    except ProtocolError as error:
        return error
    assert isinstance(message, tuple(kinds_of(direction)))
    return message


def any_message(direction):
    return st.sampled_from(kinds_of(direction)).flatmap(messages_of)


# --- what is sent is received--------------------------------------------------------------------------


# One test for both, because most of the time goes into making messages
@by_kind
@given(data=st.data())
def test_every_message_arrives_as_it_was_sent_and_fields_of_a_later_version_are_refused_only_in_requests(
    direction, kind, data
):
    message = data.draw(messages_of(kind))
    _, encode, decode = DIRECTIONS[direction]
    payload = encode(message)
    fields = msgspec.msgpack.decode(payload, strict=False)
    fields["of_a_later_version"] = data.draw(plain_values)
    later = msgspec.msgpack.encode(fields)

    assert decode(payload) == message
    if direction == "request" and kind is not Hello:
        with pytest.raises(ProtocolError, match="unknown field `of_a_later_version`"):
            decode(later)
    else:
        assert decode(later) == message


@pytest.mark.parametrize(
    ("request_", "unknown"),
    [
        ({"type": "submit", "spec": {"argv": ["a"], "retires": 3}}, "`retires` - at `$.spec`"),
        ({"type": "cancel", "where": {"tags": "x"}}, "`tags` - at `$.where`"),
        ({"type": "edit", "jobs": [1], "changes": {"prioritee": 1}}, "`prioritee` - at `$.changes`"),
        (
            {"type": "set_schedule", "name": "a", "spec": {"job": {"argv": ["a"], "retires": 3}}},
            "`retires` - at `$.spec.job`",
        ),
    ],
)
def test_an_unknown_field_within_a_request_is_refused(request_, unknown):
    with pytest.raises(ProtocolError) as caught:
        decode_request(msgspec.msgpack.encode({**request_, "id": 1}))

    assert unknown in str(caught.value)


def structs_in(kind, found):
    """Add all structs that a type holds to those that were found."""
    if isinstance(kind, inspect.StructType) and kind.cls not in found:
        found.add(kind.cls)
        for field in kind.fields:
            structs_in(field.type, found)
    several = (*getattr(kind, "types", ()), *getattr(kind, "item_types", ()))
    for inner in (*several, getattr(kind, "item_type", None), getattr(kind, "value_type", None)):
        if inner is not None:
            structs_in(inner, found)
    return found


@pytest.mark.parametrize("kind", kinds_of("request"), ids=lambda kind: kind.__name__)
def test_everything_in_a_request_refuses_fields_of_a_later_version_and_leaves_out_defaults(kind):
    structs = structs_in(inspect.type_info(kind), set()) - {Hello, JobCause}  # only bgd sets a cause

    for struct in structs:
        assert struct.__struct_config__.forbid_unknown_fields, struct
        assert struct.__struct_config__.omit_defaults or not struct.__struct_defaults__, struct


def test_a_list_in_a_request_that_is_longer_than_it_may_be_is_refused():
    spec = {"target": "a:b", "references": [[1, ["args", 0], "of a later version"]]}

    with pytest.raises(ProtocolError):
        decode_request(msgspec.msgpack.encode({"type": "submit", "id": 1, "spec": spec}))


def test_a_client_lists_schedules_that_have_options_of_a_later_version():
    job = {"argv": ["date"], "of_a_later_version": 1}
    schedule = {
        "name": "nightly",
        "spec": {"job": job, "every": "1d", "of_a_later_version": 1},
        "is_configured": False,
        "is_paused": False,
        "words": "every day",
        "timezone": "UTC",
        "upcoming": [],
    }

    reply = decode_reply(msgspec.msgpack.encode({"type": "schedules", "id": 1, "schedules": [schedule]}))

    assert isinstance(reply, SchedulesPart)
    assert reply.schedules[0].spec.job.argv == ("date",)


def test_a_digest_tells_definitions_apart():
    daily, weekly = (ScheduleSpec(job=JobSpec(argv=("date",)), every=each) for each in ("1d", "7d"))

    assert digest_of(daily) == digest_of(replace(daily)) != digest_of(weekly)


@by_direction
def test_no_two_messages_of_a_direction_share_a_tag(direction):
    tags = [tag_of(kind) for kind in kinds_of(direction)]

    assert len(tags) == len(set(tags))


# --- what cannot be decoded is refused in one way only -------------------------------------------------


@by_direction
@given(payload=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(direction, payload):
    read(direction, payload)


@by_direction
@given(data=st.data())
def test_any_maps_are_a_message_or_a_protocol_error(direction, data):
    kind = data.draw(st.sampled_from(kinds_of(direction)))
    names = st.sampled_from([*kind.__struct_fields__, "else"])
    fields = data.draw(st.dictionaries(names, plain_values))

    read(direction, msgspec.msgpack.encode({"type": tag_of(kind), **fields}))


@by_direction
@given(data=st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(direction, data):
    _, encode, _ = DIRECTIONS[direction]
    payload = encode(data.draw(any_message(direction)))
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, len(payload)))

    read(direction, payload[:start] + data.draw(st.binary(max_size=8)) + payload[end:])


@by_direction
@given(data=st.data())
def test_half_a_message_is_a_protocol_error(direction, data):
    _, encode, _ = DIRECTIONS[direction]
    payload = encode(data.draw(any_message(direction)))

    assert isinstance(read(direction, payload[: data.draw(st.integers(0, len(payload) - 1))]), ProtocolError)


@by_kind
@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1x"], ids=["lists", "maps"])
def test_a_field_nested_too_deep_is_a_protocol_error(direction, kind, nest):
    tag = msgspec.msgpack.encode(tag_of(kind))
    field = msgspec.msgpack.encode(next(iter(kind.__struct_fields__), "x"))

    for name in (b"\xa1x", field):
        payload = b"\x82\xa4type" + tag + name + nest * DEEP + b"\xc0"
        assert isinstance(read(direction, payload), ProtocolError)


@by_direction
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\xc1",
        b"\x91" * DEEP,
        b"\x81\xa1x" * DEEP,
        b"\xde\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81\xa4type\xa7nothing",
        b"\x81\xa4type\xc0",
        b"\x81\xa4type\xa2\xff\xfe",
        b"\x81\xa4\xff\xfe\xfd\xfc\xa5hello",
    ],
    ids=range(13),
)
def test_garbage_is_a_protocol_error(direction, payload):
    assert isinstance(read(direction, payload), ProtocolError)


@by_direction
@given(data=st.data())
def test_a_message_with_bytes_after_it_is_a_protocol_error(direction, data):
    _, encode, _ = DIRECTIONS[direction]
    payload = encode(data.draw(any_message(direction)))

    assert isinstance(read(direction, payload + b"\xc0"), ProtocolError)
