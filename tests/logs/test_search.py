"""A search counts what it should, wherever blocks, steps and gaps lie."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.logs import files as logfiles
from bgd.logs import search as logsearch
from bgd.logs.files import LogReader
from bgd.logs.search import LogSearch, Needle, lines_with

OUTPUT = st.text("ab\nA", max_size=60).map(str.encode)


def searched(log: LogReader, text: str, most: int = 1000) -> tuple[int, list[int]]:
    search = LogSearch(log, Needle.of(text), most)
    hits: list[int] = []
    count = 0
    while progress := search.step():
        hits += progress.hits
        count = progress.count
    return count, hits


def found_in(data: bytes, text: bytes) -> list[int]:
    hits, index = [], 0
    while (index := data.find(text, index)) >= 0:
        hits.append(index)
        index += len(text)
    return hits


@given(head=OUTPUT, gap=st.integers(0, 9), tail=OUTPUT, text=st.text("abA", min_size=1, max_size=4))
def test_all_places_are_found(head, gap, tail, text):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfiles, "BLOCK", 7)
        patch.setattr(logsearch, "STEP", 20)
        log = LogReader(folder, 1, 1)
        log.path.parent.mkdir()
        log.path.write_bytes(head)
        log.path.with_name(f"{log.path.name}.{len(head) + gap}").write_bytes(tail)
        pieces = [(0, head), (len(head) + gap, tail)] if gap else [(0, head + tail)]
        needle = text.encode()
        if text == text.lower():
            pieces = [(begin, piece.lower()) for begin, piece in pieces]
        expected = [begin + hit for begin, piece in pieces for hit in found_in(piece, needle)]

        assert searched(log, text) == (len(expected), expected)
        assert searched(log, text, 2) == (len(expected), expected[:2])


COLORED = st.lists(st.sampled_from(["a", "b", "\n", "\x1b[1m", "\x1b[0;31m", "\x1b"]), max_size=40).map(
    "".join
)


@given(output=COLORED, text=st.text("ab", min_size=1, max_size=4))
def test_a_text_is_found_although_color_codes_divide_it(output, text):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfiles, "BLOCK", 7)
        patch.setattr(logsearch, "MAX_LINE", 20)
        log = LogReader(folder, 1, 1)
        log.path.parent.mkdir()
        log.path.write_text(output)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
        found = [line for lines in lines_with(log, Needle.of(text)) for _, line in lines]

        assert searched(log, text)[0] == plain.count(text)
        wanted = [line for line in plain.split("\n") if text in line]
        assert len(found) >= len(wanted)  # a line that is longer than MAX_LINE is found in parts
        assert bool(found) == bool(wanted)


def test_a_text_across_the_border_of_two_blocks_of_a_long_line_is_found(tmp_path):
    log = LogReader(str(tmp_path), 1, 1)
    log.path.parent.mkdir()
    for before in range(logfiles.BLOCK - 12, logfiles.BLOCK + 2):
        log.path.write_bytes(b"x" * before + b"needle\x1b[1m 7" + b"y" * logfiles.BLOCK)

        assert len(list(lines_with(log, Needle.of("needle 7")))) == 1
        assert searched(log, "needle 7") == (1, [before])


@pytest.mark.parametrize(
    "code", ["\x1b[01;31m\x1b[K", "\x1b(B\x1b[m", "\x1b]8;;https://example.org\x1b\\", "\x1b]8;;\x07"]
)
def test_what_programs_write_for_terminals_divides_no_text(tmp_path, code):
    log = LogReader(str(tmp_path), 1, 1)
    log.path.parent.mkdir()
    log.path.write_text(f"a warn{code} disk full\n")

    assert searched(log, "warn disk full") == (1, [2])


def test_an_empty_log_is_searched_once(tmp_path):
    assert searched(LogReader(str(tmp_path), 1, 1), "x") == (0, [])


def test_a_log_that_grows_is_searched_to_the_end_that_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(logsearch, "STEP", 4)
    monkeypatch.setattr(logsearch, "MAX_LINE", 3)
    monkeypatch.setattr(logfiles, "BLOCK", 4)
    log = LogReader(str(tmp_path), 1, 1)
    log.path.parent.mkdir()
    log.path.write_bytes(b"xxxxxxxx")
    search = LogSearch(log, Needle.of("x"), 10)
    first = search.step()
    Path(log.path).write_bytes(b"x" * 100)
    second = search.step()

    assert first is not None
    assert second is not None
    assert (first.count, first.at, second.count, second.at) == (4, 4, 8, 8)
    assert search.step() is None
