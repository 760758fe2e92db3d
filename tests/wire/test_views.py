"""What people see of a job."""

from __future__ import annotations

import pytest

from bgd.wire.views import JobError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (JobError("ValueError", "no such luck"), "ValueError: no such luck"),
        (JobError("MemoryError", ""), "MemoryError"),
        (JobError("not_started", "no such directory: /nope"), "no such directory: /nope"),
    ],
)
def test_an_error_is_worded_without_gaps_or_repetition(error, words):
    assert error.in_words("not_started") == words
