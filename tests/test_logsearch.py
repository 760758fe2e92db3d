"""A search counts what it should, wherever blocks, steps and gaps lie."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd import logfiles, logsearch
from bgd.logfiles import LogReader
from bgd.logsearch import LogSearch, Needle

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


def test_an_empty_log_is_searched_once(tmp_path):
    assert searched(LogReader(str(tmp_path), 1, 1), "x") == (0, [])


def test_a_log_that_grows_is_searched_to_the_end_that_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(logsearch, "STEP", 4)
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
