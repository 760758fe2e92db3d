"""Parts of a log: whatever it contains, they join without a gap, in both directions and from any place."""

from __future__ import annotations

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgd.daemon.web import log_text
from bgd.daemon.web.log_text import (
    LogLine,
    LogPart,
    LogText,
    line_begin,
    linked,
    linked_line,
    part_before,
    part_from,
    shown_line,
)
from bgd.daemon.web.markup import line_markup
from bgd.logs.files import LogReader
from bgd.logs.search import Needle

PIECES = st.lists(
    st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"\r", b"\r\n", "é".encode(), "\N{HOURGLASS}".encode()]),
    max_size=40,
).map(b"".join)


@pytest.fixture
def log(tmp_path):
    return log_in(tmp_path)


@pytest.fixture
def small(monkeypatch):
    """Parts of 16 bytes or 3 lines."""
    make_small(monkeypatch)


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_text, "MAX_PART", 16)
    patch.setattr(log_text, "MAX_LINES", 3)


def log_in(folder: Path) -> LogReader:
    found = LogReader(str(folder), 1, 1)
    found.path.parent.mkdir()
    return found


def segment(log: LogReader, offset: int, data: bytes) -> None:
    log.path.with_name(f"{log.path.name}.{offset}").write_bytes(data)


def parts_down(log: LogReader) -> list[LogPart]:
    parts = [part_from(log, 0)]
    while parts[-1].open is None:
        parts.append(part_from(log, parts[-1].at, parts[-1].number))
        assert parts[-1].open or parts[-1].at > parts[-1].begin
    return parts


def parts_up(log: LogReader) -> list[LogPart]:
    parts = [part_before(log, log.size())]
    while parts[0].begin:
        parts.insert(0, part_before(log, parts[0].begin, parts[0].first))
        assert parts[0].begin < parts[1].begin
    return parts


def shown(lines: list[LogLine]) -> list[tuple[int, str]]:
    return [(line.at, "".join(text for text, _ in line.runs)) for line in lines]


def all_lines(parts: list[LogPart]) -> list[tuple[int, str]]:
    return shown([line for part in parts for line in part.lines]) + shown(
        [parts[-1].open] if parts[-1].open and parts[-1].open.runs else []
    )


def whole(log: LogReader) -> list[tuple[int, str]]:
    lines = LogText(log, 0).read()
    return (
        []
        if lines is None
        else shown(lines.lines) + shown([lines.open] if lines.open and lines.open.runs else [])
    )


@given(
    lines=st.lists(st.sampled_from(["", "a", "word", "\x1b[31mred", "1%\r2%", "é\r"]), max_size=30),
    is_open=st.booleans(),
)
def test_parts_of_short_lines_are_the_whole_log_in_both_directions(lines, is_open):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        log = log_in(Path(folder))
        log.path.write_bytes("".join(f"{line}\n" for line in lines).encode() + b"open" * is_open)

        assert all_lines(parts_down(log)) == all_lines(parts_up(log)) == whole(log)
        numbered = [line for part in parts_down(log) for line in part.lines]
        assert [line.number for line in numbered] == list(range(1, len(numbered) + 1))


@given(head=PIECES, gap=st.integers(0, 40), tail=PIECES)
@example(head=b"before\r" + b"a" * 16, gap=0, tail=b"")  # a part's first byte follows a carriage return
def test_parts_join_whatever_the_log_contains(head, gap, tail):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        log = log_in(Path(folder))
        log.path.write_bytes(head)
        if tail:
            segment(log, len(head) + gap, tail)
        for parts in (parts_down(log), parts_up(log)):
            assert parts[0].begin == 0
            assert [part.at for part in parts[:-1]] == [part.begin for part in parts[1:]]
            text = "".join(text for _, text in all_lines(parts))
            assert f"==> {gap} bytes left out" in text or not (gap and tail)
            if b"\r" not in head + tail:
                joined = (head + tail).decode().replace("\n", "")
                assert text.replace(f"==> {gap} bytes left out, over the log's limit <==", "") == joined


@given(data=PIECES, offset=st.integers(0, 80))
def test_a_link_to_any_place_shows_the_line_there_first(data, offset):
    with TemporaryDirectory() as folder:
        log = log_in(Path(folder))
        log.path.write_bytes(data)
        begin = data.rfind(b"\n", 0, min(offset, len(data))) + 1

        assert line_begin(log, offset) == begin
        part = part_from(log, begin)
        assert all_lines([part]) == [(at, text) for at, text in whole(log) if at >= begin]


@pytest.mark.usefixtures("small")
def test_a_long_line_that_overwrites_itself_is_one_line(log):
    bar = b"".join(b"\r%3d%% #" % share for share in range(101))
    log.path.write_bytes(b"begin\n" + bar + b"\nend\n")

    expected = [(0, "begin"), (6, "100% #"), (6 + len(bar) + 1, "end")]
    assert all_lines(parts_down(log)) == all_lines(parts_up(log)) == expected
    assert line_begin(log, len(bar)) == 6
    assert [part.first for part in parts_down(log)] == [1, 2, 3]


def test_a_reader_of_a_long_progress_bar_goes_on_near_its_end(log):
    bar = b"".join(b"\r\x1b[32m%6d %s" % (number, b"#" * 50) for number in range(5000))
    log.path.write_bytes(b"begin\n" + bar)
    part = part_before(log, log.size())
    text = LogText(log, 0)
    while lines := text.read():
        last = lines

    assert part.begin in {0, 6}
    assert part.at > 6 + len(bar) - 70_000
    assert last.at > 6 + len(bar) - 140_000
    assert (part.style, last.style) == ("38;5;2", "38;5;2")
    assert part.open is not None
    assert last.open is not None
    assert part.open.runs == last.open.runs == [(f"  4999 {'#' * 50}", "38;5;2")]


@pytest.mark.usefixtures("small")
def test_colours_that_an_earlier_part_sets_are_in_effect(log):
    log.path.write_bytes(b"\x1b[1;31m\n" + b"word\n" * 10)
    part = part_from(log, 28)

    assert part.lines[0].runs == [("word", "1;38;5;1")]


def test_a_gap_is_shown_where_it_is_and_lines_behind_it_have_no_number(log):
    log.path.write_bytes(b"one\ntwo\n")
    segment(log, 1008, b"three\nfour\n")
    gap = (8, "==> 1000 bytes left out, over the log's limit <==")
    expected = [(0, "one"), (4, "two"), gap, (1008, "three"), (1014, "four")]

    assert all_lines(parts_down(log)) == all_lines(parts_up(log)) == expected
    assert [line.number for part in parts_down(log) for line in part.lines] == [1, 2, None, None, None]
    assert [line.number for part in parts_up(log) for line in part.lines] == [1, 2, None, None, None]
    assert line_begin(log, 500) == 8
    assert part_before(log, 1008).begin == 0
    assert part_from(log, 1014).first is None


@pytest.mark.usefixtures("small")
def test_lines_far_from_the_beginning_have_the_number_that_their_neighbour_says(log, monkeypatch):
    monkeypatch.setattr(log_text, "COUNTED", 10)
    log.path.write_bytes(b"word\n" * 20)

    assert part_from(log, 50).first is None
    assert part_from(log, 50, 11).number == 14
    assert part_before(log, 50, 11).first == 8
    assert part_before(log, 10, None).first == 1


def test_each_line_has_the_time_of_its_first_byte(log):
    log.path.write_bytes(b"one\ntwo\nthree")
    marks = [(0, 100.0), (6, 200.0), (10, 300.0)]
    packed = [struct.pack(">QQ", offset, round(at * 1e6)) for offset, at in marks]
    log.path.with_name(f"{log.path.name}.times").write_bytes(b"".join(packed))
    part = part_before(log, log.size())

    assert [line.time for line in part.lines] == [100.0, 100.0]
    assert part.open is not None
    assert part.open.time == 200.0
    assert shown_line(log, 8).time == 200.0


@pytest.mark.parametrize("microseconds", [2**64 - 1, 2**62, 10**18])
def test_a_time_that_no_clock_shows_is_left_out(log, microseconds):
    log.path.write_bytes(b"one\n")
    log.path.with_name(f"{log.path.name}.times").write_bytes(struct.pack(">QQ", 0, microseconds))

    assert 'data-t=""' in linked(part_from(log, 0))["lines"]


def test_an_open_page_is_sent_some_lines_at_a_time(log):
    log.path.write_bytes(b"y\n" * 250)
    text = LogText(log, 0)
    numbers = []
    while lines := text.read_on():
        numbers.append(len(lines.lines))

    assert numbers == [100, 100, 50]


@pytest.mark.parametrize("more", [b"x" * 99 + b"\n" * 1001, (b"x" * 999 + b"\n") * 300])
def test_a_page_that_is_far_behind_is_sent_the_last_lines_and_told_what_it_missed(log, more):
    log.path.write_bytes(b"first\n")
    text = LogText(log, 0, number=1)
    first = text.read_on()
    log.path.write_bytes(b"first\n" + more)
    later = text.read_on()

    assert first is not None
    assert later is not None
    assert (first.skipped, first.number) == (None, 2)
    assert later.skipped is not None
    begin, end = later.skipped
    skipped = more[: end - begin]
    assert begin == len(b"first\n")
    assert skipped.endswith(b"\n")
    assert len(more) - len(skipped) <= log_text.MAX_PART
    assert more.count(b"\n") - skipped.count(b"\n") <= log_text.MAX_LINES
    assert later.lines[0].number == 2 + skipped.count(b"\n")
    assert later.lines[0].at == end


def test_lines_behind_a_gap_that_a_page_missed_have_no_number(log):
    log.path.write_bytes(b"first\n")
    text = LogText(log, 0, number=1)
    text.read_on()
    segment(log, 1000, b"y\n" * 200_000)
    later = text.read_on()

    assert later is not None
    assert later.skipped == (6, log.size() - 1000)
    assert later.lines[0].number is None


def test_a_line_is_a_link_to_itself():
    line = LogLine([("<b>", "38;5;1")], 12, 3, None)
    assert linked_line(line, target=0) == (
        '<span class="target"><a tabindex="-1" aria-hidden="true" href="view?at=12" data-n="3" data-t=""></a>'
        '<span class="f1">&lt;b&gt;</span>\n</span>'
    )


def test_all_that_was_searched_for_is_marked_and_one_place_can_be_linked_to():
    line = LogLine([("One o", "1"), ("ne <one>", "")], 12, None, None)
    shown = linked_line(line, Needle.of("one"), target=1)

    assert 'href="view?at=12&amp;text=one#found"' in shown
    assert shown.partition("</a>")[2] == (
        '<mark><span class="bold">One</span></mark><span class="bold"> </span>'
        '<mark id="found" tabindex="-1"><span class="bold">o</span></mark><mark>ne</mark>'
        " &lt;<mark>one</mark>&gt;\n</span>"
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("see http://a.example/b?c=d&e=f.", "http://a.example/b?c=d&amp;e=f"),
        ("(https://a.example:8080/~x#y)", "https://a.example:8080/~x#y"),
        ("'http://a/\"onclick=x'", "http://a/"),
        ("<http://a/><b>", "http://a/"),
    ],
)
def test_addresses_of_http_are_links_that_tell_the_other_site_nothing(text, address):
    assert f'<a class="address" href="{address}" rel="noopener noreferrer">{address}</a>' in line_markup(
        [(text, "")]
    )


def test_an_address_in_several_colours_is_one_address():
    shown = line_markup([("http://", ""), ("a.example", "1")])

    assert shown.count('href="http://a.example"') == 2
    assert '<span class="bold">a.example</span>' in shown


@pytest.mark.parametrize(
    "text", ["javascript://a", "ftp://a", "xhttp://a", "http://", "data:text/html,x", "http:a"]
)
def test_nothing_else_is_a_link(text):
    assert line_markup([(text, "")]) == text
