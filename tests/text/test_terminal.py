from __future__ import annotations

import re
import sys
import time

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from bgd.daemon.web.markup import as_markup, line_markup, palette
from bgd.text.escape import CONTROL, INVISIBLE
from bgd.text.terminal import Terminal

OUTPUT = st.text(st.sampled_from("ax<>&\"'\x1b[];:mKGCD0123489\r\n\b\t\x07\u202e"), max_size=60)


@pytest.mark.parametrize(
    ("output", "markup"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m and not", '<span class="f1">red</span> and not'),
        ("\x1b[1;91;42mmuch\x1b[m", '<span class="bold f9 b2">much</span>'),
        ("\x1b[1;2;3;4mx\x1b[22;23;24my", '<span class="bold dim italic underlined">x</span>y'),
        ("\x1b[7;9mx\x1b[27;29my", '<span class="inverse struck">x</span>y'),
        ("\x1b[31mx\x1b[39my", '<span class="f1">x</span>y'),
        ("\x1b[41mx\x1b[49my", '<span class="b1">x</span>y'),
        ("\x1b[38;5;208;1mx", '<span class="bold f208">x</span>'),
        ("\x1b[38:5:1;1mx", '<span class="bold f1">x</span>'),
        ("\x1b[48;2;255;0;0;4mx", '<span class="underlined b196">x</span>'),
        ("\x1b[38:2::18:18:18mx", '<span class="f233">x</span>'),
        ("\x1b[38;5;256mx\x1b[38mx", "xx"),
        ("\x1b[4:3mx\x1b[58:2::1:2:3my", '<span class="underlined">xy</span>'),
        ("\x1b[8mhidden\x1b[28m", "hidden"),
        ("\x1b[999;;mx", "x"),
        ("</pre><script>", "&lt;/pre&gt;&lt;script&gt;"),
        ('\x1b[31m"><img src=x>', '<span class="f1">&#34;&gt;&lt;img src=x&gt;</span>'),
    ],
)
def test_colours_and_styles_become_classes(output, markup):
    assert as_markup(output) == markup


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("one\r\ntwo\tthree\r\r\n", "one\ntwo\tthree\n"),
        ("50%\r60%", "60%"),
        ("longer\rshort", "shortr"),
        ("longer\r\x1b[Kshort", "short"),
        ("\x1b[2K\rdone\r", "done"),
        ("ab\x1b[1Kc", "  c"),
        ("abc\b\bX", "aXc"),
        ("a\x1b[3Cb\x1b[1Gc", "c   b"),
        ("abc\x1b[2DX", "aXc"),
        ("a\x1b[99999999Cb", "a" + 999 * " " + "b"),
        ("\x1b]0;title\x07x\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        ("\x1b[2J\x1b[?25l\x1b[3Ax\x1b(B\x07", "x"),
        ("a\x00b\x9b31m", "a\N{SYMBOL FOR NULL}b<U+009B>31m"),
        ("a\u202eb", "a<U+202E>b"),
    ],
)
def test_only_the_line_itself_is_changed_by_control_characters(output, shown):
    assert as_markup(output).unescape() == shown


def test_a_progress_bar_with_colours_is_one_line():
    bar = "".join(f"\r\x1b[32m{'#' * done}\x1b[0m{'.' * (5 - done)} {done * 20}%" for done in range(6))

    assert as_markup(bar) == '<span class="f2">#####</span> 100%'


@given(OUTPUT, st.integers(0, 60))
def test_pieces_give_the_same_lines_as_the_whole(output, at):
    whole, pieces = Terminal(), Terminal()
    lines = whole.feed(output)

    assert (pieces.feed(output[:at]) + pieces.feed(output[at:]), pieces.open_line) == (lines, whole.open_line)


@given(OUTPUT, OUTPUT)
def test_a_new_terminal_goes_on_with_the_style_of_the_line(before, after):
    first = Terminal()
    first.feed(before + "\n")
    second = Terminal(first.style)

    assert first.style == second.style
    assert second.feed(after + "\n") == first.feed(after + "\n")


@given(OUTPUT)
def test_any_output_becomes_text_and_known_spans_only(output):
    markup = str(as_markup(output))

    assert not re.search(f"[{CONTROL}{INVISIBLE}]", markup)
    text = re.sub(r'<span class="[a-z0-9 ]+">|</span>', "", markup)
    assert not re.search(r"[<>\"']", text)
    classes = set(" ".join(re.findall(r'class="([^"]*)"', markup)).split())
    assert classes <= {
        *(f"{ground}{number}" for ground in "fb" for number in range(256)),
        *("bold", "dim", "italic", "underlined", "inverse", "struck"),
    }


@given(st.text())
def test_no_text_is_lost(text):
    plain = re.sub(f"[{CONTROL}{INVISIBLE}]", "", text)
    assert Markup(as_markup(plain)).unescape() == plain


COSTLY = st.text(st.sampled_from("ax\x1b[];0129?mKGCD1\r\n\b\x00\x07\u202e"), min_size=1, max_size=8)
LENGTH = 64 * 1024


@settings(max_examples=15, phases=[Phase.explicit, Phase.generate])
@given(COSTLY, COSTLY)
@example("\r", "x")
@example("\x1b[31ma\x1b[32mb", "\x1b[Gx")
@example("x", "\x1b[1K")
@example("\x1b[31mx", "\b\b\x1b[1K")
@example("\x1b]x", "\x1b[1;1")
@example("\x1b[1000G", "x\x1b[1K\r")
def test_the_time_for_each_byte_of_output_is_bounded(first, second):
    output = first * (LENGTH // 2 // len(first)) + second * (LENGTH // 2 // len(second))

    began = time.thread_time()
    as_markup(output)
    assert time.thread_time() - began < LENGTH * 20e-6  # ten times what the costliest takes on a slow machine
    assert _calls(output) < 50 * LENGTH


def _calls(output: str) -> int:
    """Return how many functions are called to show output, those of C included."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        as_markup(output)
    finally:
        sys.setprofile(None)
    return calls


def test_the_palette_has_the_colours_that_the_theme_has_not():
    assert palette().count(".f") == palette().count(".b") == 240
    assert ".f208{color:#ff8700}" in palette()


def test_a_line_is_markup_without_its_end():
    (line,) = Terminal().feed("<\x1b[1mx\n")
    assert line_markup(line) == '&lt;<span class="bold">x</span>'
