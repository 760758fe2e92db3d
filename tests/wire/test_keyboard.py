"""Packets of a keyboard."""

from __future__ import annotations

import pytest

from bgd.wire.keyboard import SIZE, size_in, size_packet


def test_a_window_has_the_size_that_was_sent():
    assert size_packet(300, 24) == SIZE + b"\x01\x2c\x00\x18"
    assert size_in(size_packet(300, 24)[1:]) == (300, 24)


@pytest.mark.parametrize("content", [b"", b"\0\x50\0", b"\0\x50\0\x18\0", b"\0\0\0\x18", b"\0\x50\0\0"])
def test_what_is_no_size_is_none(content):
    assert size_in(content) is None
