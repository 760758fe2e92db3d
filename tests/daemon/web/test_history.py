"""The history of a job has words for whatever may have happened to it."""

from __future__ import annotations

from bgd.core.job import Move
from bgd.core.scheduler import NOTE, SUBMIT
from bgd.daemon.web.history import WORDS


def test_each_move_has_words():
    assert WORDS.keys() == {SUBMIT, NOTE, *Move}
