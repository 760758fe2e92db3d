from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from bgd.daemon.web.rendering import as_markup
from bgd.escape import BIDI_CONTROL, CONTROL


@pytest.mark.parametrize(
    ("output", "markup"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m and not", '<span class="fore1">red</span> and not'),
        ("\x1b[1;91;42mmuch\x1b[m", '<span class="back2 bold fore1">much</span>'),
        ("\x1b[1;2;3;4mx\x1b[22;23;24my", '<span class="bold dim italic underlined">x</span>y'),
        ("\x1b[31mx\x1b[39my", '<span class="fore1">x</span>y'),
        ("\x1b[41mx\x1b[49my", '<span class="back1">x</span>y'),
        ("\x1b[38;5;1;1mx", '<span class="bold">x</span>'),
        ("\x1b[38;2;1;2;3;4mx", '<span class="underlined">x</span>'),
        ("\x1b[38:5:1;1mx", '<span class="bold">x</span>'),
        ("\x1b[38mx", "x"),
        ("\x1b[8mhidden\x1b[28m", "hidden"),
        ("\x1b[999;;mx", "x"),
        ("one\r\ntwo\tthree\n", "one\ntwo\tthree\n"),
        ("50%\r60%", "50%\N{SYMBOL FOR CARRIAGE RETURN}60%"),
        ("\x1b]0;title\x07", "\N{SYMBOL FOR ESCAPE}]0;title\N{SYMBOL FOR BELL}"),
        ("\x1b[2J", "\N{SYMBOL FOR ESCAPE}[2J"),
        ("a\u202eb", "a&lt;U+202E&gt;b"),
        ("</pre><script>", "&lt;/pre&gt;&lt;script&gt;"),
        ('\x1b[31m"><img src=x>', '<span class="fore1">&#34;&gt;&lt;img src=x&gt;</span>'),
    ],
)
def test_only_colour_sequences_have_an_effect(output, markup):
    assert as_markup(output) == markup


@given(st.text(st.sampled_from("ax<>&\"'\x1b[;:m0123489\r\n\t\x07\u202e"), max_size=60))
def test_any_output_becomes_text_and_known_spans_only(output):
    markup = str(as_markup(output))

    assert not re.search(f"[{CONTROL}{BIDI_CONTROL}]", markup)
    text = re.sub(r'<span class="[a-z0-7 ]+">|</span>', "", markup)
    assert not re.search(r"[<>\"']", text)
    assert set(
        re.findall(r'[a-z]+[0-7]?(?=[ "])', " ".join(re.findall(r'class="([^"]*)"', markup)) + " ")
    ) <= {
        *(f"{ground}{number}" for ground in ("fore", "back") for number in range(8)),
        *("bold", "dim", "italic", "underlined"),
    }


@given(st.text())
def test_no_text_is_lost(text):
    plain = re.sub(f"[{CONTROL}{BIDI_CONTROL}]", "", text)
    assert Markup(as_markup(plain)).unescape() == plain
