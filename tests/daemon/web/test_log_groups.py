"""Groups of lines in a log: they nest in no other, go on in later parts, and end where they should."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup, escape

from bgd.daemon.web import log_groups
from bgd.daemon.web.log_groups import END, folded, group_after, group_before, title_of, without_mark
from bgd.daemon.web.log_text import LogText, linked, part_before, part_from
from bgd.logs.files import LogReader


@pytest.fixture
def log(tmp_path):
    found = LogReader(str(tmp_path), 1, 1)
    found.path.parent.mkdir()
    return found


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("::group::Set up", "Set up"),
        ("::group::", ""),
        ("::endgroup::", END),
        ("::endgroup:: ", END),
        (" ::group::x", None),
        ("::groups::x", None),
        ("::", None),
        ("text", None),
    ],
)
def test_a_line_begins_a_group_ends_one_or_does_neither(text, title):
    assert title_of([(text, "")]) == title


def test_a_title_keeps_its_colours():
    line = [("::gro", "1"), ("up::Set ", "2"), ("up", "3")]

    assert title_of(line) == "Set up"
    assert without_mark(line) == [("", "1"), ("Set ", "2"), ("up", "3")]


def test_each_group_is_one_that_can_be_folded_and_ends_with_its_part():
    lines = ["a", "::group::<b>", "c", "::group::d", "e", "::endgroup::", "f", "::group::g", "h"]
    shown = [(title_of([(line, "")]), escape(f"{line} ")) for line in lines]

    assert re.sub(r"::[a-z]+::", "", folded(shown, None)) == (
        "a <details open><summary>&lt;b&gt; </summary>c </details>"
        "<details open><summary>d </summary>e </details>f <details open><summary>g </summary>h </details>"
    )
    assert folded([(None, Markup("x"))], "<b>") == (
        '<details class="continued" open><summary>&lt;b&gt;, continued\n</summary>x</details>'
    )
    assert group_after([[(line, "")] for line in lines], None) == "g"
    assert group_after([[("x", "")]], "before") == "before"
    assert group_after([[("::endgroup::", "")]], "before") is None


def test_a_part_knows_the_group_that_it_begins_in(log, monkeypatch):
    head = b"::group::\x1b[1mOne\r\n" + b"line\n" * 1200
    log.path.write_bytes(head + b"::endgroup::\n" + b"::endgroup:: no\nmore\n")
    first = part_from(log, 0)
    second = part_from(log, first.at)

    assert (first.group, second.group, part_before(log, log.size()).group) == (None, "One", "One")
    assert str(linked(second)["lines"]).count("<details") == 1
    assert group_before(log, len(head) + len(b"::endgroup::\n")) is None
    assert group_before(log, len(head)) == "One"
    monkeypatch.setattr(log_groups, "MAX_GROUP", 100)
    assert group_before(log, len(head)) is None  # it began too far before


def test_a_page_that_follows_a_group_is_told_of_it_until_it_ends(log):
    log.path.write_bytes(b"::group::One\n")
    text = LogText(log, 0)
    groups = []
    for more in (b"a\n", b"b\n::endgroup::\n", b"c\n" * 2000, b"d\n"):
        part = text.read_on()
        assert part is not None
        groups.append(part.group)
        with log.path.open("ab") as file:
            file.write(more)

    assert groups == [None, "One", "One", None]
    log.path.write_bytes(b"::group::Two\n" + b"e\n" * 1500)
    later = LogText(log, log.size() - 2).read_on()
    assert later is not None
    assert later.group == "Two"
