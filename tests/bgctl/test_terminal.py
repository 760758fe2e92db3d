"""Escaping of untrusted output for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgctl.terminal import TerminalEscaper
from bgd.escape import one_line


def shown(*pieces: bytes) -> str:
    text = TerminalEscaper()
    return "".join(text.feed(piece) for piece in pieces) + text.feed(b"", is_last=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("Grüße, 世界\n".encode(), "Grüße, 世界\n"),
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        (b"\x1b[38;2;1;2;3mtrue colour", "\x1b[38;2;1;2;3mtrue colour"),
        (b"\x1b[2Jcleared", "␛[2Jcleared"),
        (b"\x1b]0;title\x07", "␛]0;title␇"),
        (b"\x1b]52;c;cm0gLXJmIC8=\x1b\\", "␛]52;c;cm0gLXJmIC8=␛\\"),
        (b"\x1b[6n", "␛[6n"),
        (b"\x1b[?25m", "␛[?25m"),
        (b"dos\r\nline", "dos\nline"),
        (b"100%\rrm -rf", "100%␍rm -rf"),
        (b"\x00\x07\x08\x7f", "␀␇␈␡"),
        ("\x9b31m".encode(), "<U+009B>31m"),
        ("evil\u202etxt.exe".encode(), "evil<U+202E>txt.exe"),
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"ends in \x1b", "ends in ␛"),
        (b"ends in \r", "ends in ␍"),
        (b"ends in \xe4\xb8", "ends in \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_only_text_newlines_and_colors_reach_a_terminal(data, expected):
    assert shown(data) == expected


@pytest.mark.parametrize("sequence", ["8", "0;8", "08", "38;5;1;8", "38;2;1;2;3;8", "8:1", "31;8;1"])
def test_text_cannot_be_hidden(sequence):
    assert shown(f"\x1b[{sequence}mhidden".encode()) == f"\u241b[{sequence}mhidden"


@pytest.mark.parametrize("sequence", ["38;5;8", "48;5;8", "38;2;8;8;8", "58;5;8", "38:5:8", "18", "28", ""])
def test_a_color_with_number_8_is_a_color(sequence):
    assert shown(f"\x1b[{sequence}mred".encode()) == f"\x1b[{sequence}mred"


@given(
    st.lists(
        st.sampled_from([b"\x1b", b"[", b"31", b"m", b"\r", b"\n", b"\xe4", b"\xb8\x96", b"x"]), max_size=12
    )
)
def test_the_result_does_not_depend_on_how_output_is_split(pieces):
    assert shown(*pieces) == shown(b"".join(pieces))


def test_text_is_shown_at_once():
    assert TerminalEscaper().feed(b"prompt> ") == "prompt> "


def test_a_name_stays_on_its_line():
    assert one_line("a\nb\tc\x1b[31m") == "a␊b␉c␛[31m"
