"""What people see of a job."""

from __future__ import annotations

import pytest

from bgd.wire.views import JobError, QueueView


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


@pytest.mark.parametrize(
    ("name", "counts", "paused", "is_left_over"),
    [
        ("batch-0123456789ab", {}, False, True),
        ("batch-0123456789ab", {"queued": 1}, False, False),
        ("batch-0123456789ab", {}, True, False),
        ("batch-of-mine", {}, False, False),
    ],
)
def test_a_queue_that_a_batch_made_is_left_over_once_nothing_is_in_it(name, counts, paused, is_left_over):
    view = QueueView(name=name, slots=2, configured_slots=None, paused=paused, counts=counts)

    assert view.is_left_over == is_left_over
