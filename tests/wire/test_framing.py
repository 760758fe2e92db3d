from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.errors import ProtocolError
from bgd.wire.framing import HEADER, MAX_FRAME, FrameReader, frame

payloads = st.lists(st.binary(max_size=300), max_size=6)


def pieces_of(stream, cuts):
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(payloads, st.lists(st.integers(0, 2000)))
def test_payloads_arrive_complete_and_in_order_whatever_the_pieces(sent, cuts):
    reader = FrameReader()
    stream = b"".join(map(frame, sent))

    received = [payload for piece in pieces_of(stream, cuts) for payload in reader.feed(piece)]

    assert received == sent
    assert not reader.is_mid_frame


def test_a_stream_of_single_bytes_is_read():
    reader = FrameReader()

    received = [payload for byte in frame(b"abc") + frame(b"") for payload in reader.feed(bytes([byte]))]

    assert received == [b"abc", b""]


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_frame_cut_short_yields_nothing_and_is_noticed(payload, data):
    reader = FrameReader()
    cut = data.draw(st.integers(1, HEADER + len(payload) - 1))

    assert list(reader.feed(frame(payload)[:cut])) == []

    assert reader.is_mid_frame


def test_a_fresh_reader_is_not_inside_a_frame():
    assert not FrameReader().is_mid_frame


def test_the_longest_payload_passes():
    longest = b"x" * MAX_FRAME

    assert list(FrameReader().feed(frame(longest))) == [longest]


def test_a_longer_payload_is_not_sent():
    with pytest.raises(ProtocolError, match=f"{MAX_FRAME + 1} bytes is over the limit of {MAX_FRAME}"):
        frame(b"x" * (MAX_FRAME + 1))


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**32 - 1])
def test_a_longer_payload_is_refused_by_its_length_alone(length):
    reader = FrameReader()

    with pytest.raises(ProtocolError, match=f"a frame of {length} bytes"):
        list(reader.feed(length.to_bytes(HEADER, "big")))


def test_frames_before_a_refused_one_are_read():
    reader = FrameReader(limit=10)
    received: list[bytes] = []

    with pytest.raises(ProtocolError):
        received.extend(reader.feed(frame(b"good", 10) + frame(b"x" * 11)))

    assert received == [b"good"]


def test_nothing_is_read_after_a_refused_frame():
    reader = FrameReader(limit=10)
    with pytest.raises(ProtocolError):
        list(reader.feed(frame(b"x" * 11)))

    with pytest.raises(ProtocolError):
        list(reader.feed(frame(b"good")))


def test_frames_left_unread_come_with_the_next_bytes():
    reader = FrameReader()
    first, second, third = b"hello", b"request", b"another"

    assert next(reader.feed(frame(first) + frame(second))) == first

    assert list(reader.feed(frame(third))) == [second, third]


def test_both_ends_may_agree_on_another_limit():
    payload = b"x" * (MAX_FRAME + 1)
    limit = 2 * MAX_FRAME

    assert list(FrameReader(limit).feed(frame(payload, limit))) == [payload]


@given(st.binary(min_size=1, max_size=50), st.data())
def test_the_length_of_a_frame_and_its_missing_bytes_are_known(payload, data):
    reader = FrameReader()
    whole = frame(payload)
    cut = data.draw(st.integers(0, len(whole)))

    list(reader.feed(whole[:cut]))

    is_known = HEADER <= cut < len(whole)
    assert reader.announced == (len(whole) if is_known else 0)
    assert reader.missing == (len(whole) - cut if is_known else 0)
