"""Escaping of untrusted output for a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgctl.terminal import PipeOutput, TerminalEscaper, cells_of, fitted
from bgd.daemon.web.markup import as_markup
from bgd.text import terminal
from bgd.text.escape import one_line
from bgd.text.terminal import Terminal, plain_line


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
        (b"100%\rrm -rf", "rm -rf"),
        (b"longer\rshort\n", "shortr\n"),
        (b"10%\r\x1b[K20%\x1b[K\r\n", "20%\n"),
        (b"word\x1b[1Kx", "word␛[1Kx"),
        (b"\x00\x07\x08\x7f", "␀␇␈␡"),
        ("\x9b31m".encode(), "<U+009B>31m"),
        ("evil\u202etxt.exe".encode(), "evil<U+202E>txt.exe"),
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"ends in \x1b", "ends in ␛"),
        (b"ends in \r", "ends in "),
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


PIECES = [b"\x1b", b"[", b"31", b"m", b"K", b"\r", b"\n", b"\xe4", b"\xb8\x96", b"x", b"yz"]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_the_lines_do_not_depend_on_how_output_is_split(pieces):
    def lines(text: str) -> list[str]:
        return [plain_line(line) for line in text.split("\n")]

    assert lines(shown(*pieces)) == lines(shown(b"".join(pieces)))


COLORED = [b"\x1b[31m", b"\x1b[32m", b"\x1b[0m", b"\x1b[K", b"\x1b[2K", b"\r", b"x", b"yz"]


@given(st.lists(st.sampled_from(COLORED), max_size=12))
def test_the_colors_of_a_line_do_not_depend_on_how_output_is_split(pieces):
    assert as_markup(shown(*pieces)) == as_markup(shown(b"".join(pieces)))


@pytest.mark.parametrize("unit", ["\rx", "\r\x1b[31mx", "\r\x1b[31mx\x1b[0m", "\x1b[Kx", "\r\x1b[2Kx", "\r"])
def test_a_piece_of_a_long_progress_bar_costs_no_more_than_one_of_a_short_one(monkeypatch, unit):
    looked_at = 0  # characters

    class Counted(Terminal):
        def feed(self, text):
            nonlocal looked_at
            looked_at += len(text) + self.length
            return super().feed(text)

    monkeypatch.setattr(terminal, "Terminal", Counted)
    bar = "\x1b[38;5;100;48;5;100m" * 20 + "bar"
    shown(*([bar.encode()] + [unit.encode()] * 2_000))

    assert looked_at < 2_000 * 4 * len(bar)


@given(st.lists(st.sampled_from([b"\x1b[31m", b"\x1b[K", *PIECES[:7], *PIECES[9:]]), max_size=12))
def test_the_lines_in_a_pipe_do_not_depend_on_how_output_is_split(pieces):
    assert piped(*pieces) == piped(b"".join(pieces))


def piped(*pieces: bytes) -> bytes:
    output = PipeOutput()
    return b"".join([*map(output.feed, pieces), output.end()])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\r\ndos\r\n", b"plain\r\ndos\r\n"),
        (b"1%\r2%\r3%\ndone\n", b"3%\ndone\n"),
        (b"1%\r22%\r", b"22%\r"),
        (b"a\x1b[Kb\n", b"a\x1b[Kb\n"),
        (b"\x1b[31m10%\r\x1b[0m20%\n", b"\x1b[0m20%\n"),
        (b"\x89PNG\r\n\x1a\nab\rcd", b"\x89PNG\r\n\x1a\nab\rcd"),
        (b"text\nustar\0ab\rcd\n", b"text\nustar\0ab\rcd\n"),
        (b"cut \xe4\xb8", b"cut \xe4\xb8"),
    ],
)
def test_a_pipe_gets_lines_as_they_ended(data, expected):
    assert piped(data) == expected
    assert piped(*(data[at : at + 1] for at in range(len(data)))).endswith(expected[-3:])


def test_a_line_without_end_is_written_in_pieces():
    output = PipeOutput()

    written = [output.feed(b"x" * 50_000), output.feed(b"x" * 50_000), output.feed(b"\ny\n")]

    assert [len(each) for each in written] == [0, 100_000, 3]


def test_a_progress_bar_without_end_takes_little_memory():
    output = PipeOutput()

    for number in range(20_000):
        assert output.feed(f"\r{number} of 20000".encode()) == b""

    assert output.end() == b"19999 of 20000"


def test_an_incomplete_line_is_drawn_again():
    text = TerminalEscaper()

    assert [text.feed(piece) for piece in (b"1", b"%", b"\r2", b"%\n3")] == ["1", "%", "\r2%\x1b[K", "\n3"]


def test_colors_stay_with_the_text_that_is_left():
    green, red = "\x1b[38;5;2m", "\x1b[38;5;1m"

    drawn = shown(b"\x1b[31mred bar\r\x1b[32mok")

    assert drawn == f"\x1b[0m{green}ok\x1b[0m{red}d bar\x1b[0m{green}"


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("größe", 5), ("\N{CJK UNIFIED IDEOGRAPH-65E5}本", 4), ("e\u0301", 1)]
)
def test_wide_characters_take_two_cells(text, cells):
    assert cells_of(text) == cells


@given(st.text(st.sampled_from("ab日本e\u0301")), st.integers(1, 8))
def test_a_fitted_text_takes_no_more_cells_than_it_may(text, cells):
    assert cells_of(fitted(text, cells)) <= cells
    assert fitted(text, cells) == text or fitted(text, cells).endswith("…")


def test_text_is_shown_at_once():
    assert TerminalEscaper().feed(b"prompt> ") == "prompt> "


def test_a_name_stays_on_its_line():
    assert one_line("a\nb\tc\x1b[31m") == "a␊b␉c␛[31m"


def test_every_character_that_is_not_drawn_is_visible():
    """Of Unicode's categories Cf, Zl and Zp, and tags, fillers and selectors, which have others."""
    categories = {"Cf", "Zl", "Zp"}
    characters = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in categories]
    characters += ["\U000e0041", "\u115f", "\u3164", "\uffa0", "\u034f", "\ufe00", "\U000e0100"]

    for character in characters:
        assert one_line(f"a{character}b") == f"a<U+{ord(character):04X}>b"
        assert shown(f"a{character}b".encode()) == f"a<U+{ord(character):04X}>b"


@pytest.mark.parametrize("text", ["Grüße, 世界", "نص", "⚠️ 10 %", "a\u00a0b", "e\u0301"])
def test_text_of_every_script_stays_as_it_is(text):
    assert one_line(text) == shown(text.encode()) == text
