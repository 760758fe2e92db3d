"""The latest runs as bars."""

from __future__ import annotations

import re

from bgd.core.job import Outcome, State
from bgd.daemon.storage.summaries import RECENT, Run
from bgd.daemon.web.strip import strip


def bars_of(runs):
    """Return the class, the place and the height of each bar."""
    found = re.findall(r'<rect class="(\w+)" x="(\d+)" height="([\d.]+)"><title>([^<]*)</title>', strip(runs))
    return [(look, int(x), float(height), title.partition(": ")[2]) for look, x, height, title in found]


def test_bars_have_the_colour_of_the_outcome_and_the_height_of_the_duration_and_the_newest_is_last():
    runs = [
        Run(6, State.SCHEDULED, 0.0, 1.0, Outcome.EXIT, 1),
        Run(5, State.QUEUED, 0.0, None),
        Run(4, State.STOPPING, 0.0, None),
        Run(3, State.CANCELLED, 0.0, None),
        Run(2, State.FAILED, 0.0, 8.0, Outcome.EXIT, 3),
        Run(1, State.SUCCEEDED, 0.0, 4.0, Outcome.SUCCEEDED),
    ]

    assert bars_of(runs) == [
        ("succeeded", 0, 12.0, "succeeded in 4.0s"),
        ("failed", 5, 20.0, "exit code 3 in 8.0s"),
        ("cancelled", 10, 4.0, "cancelled"),
        ("running", 15, 20.0, "stopping"),
        ("waiting", 20, 4.0, "queued"),
        ("waiting", 25, 6.0, "scheduled in 1.0s"),
    ]
    assert (
        'role="img" aria-label="The latest runs, oldest first: 1 succeeded, 1 exit code 3, 1 cancelled,'
        ' 1 stopping, 1 queued, 1 scheduled. The longest took 8.0s."'
    ) in strip(runs)


def test_a_strip_has_at_most_thirty_bars_and_none_is_no_picture():
    runs = [Run(number, State.SUCCEEDED, 0.0, 0.0, Outcome.SUCCEEDED) for number in range(100, 0, -1)]

    assert len(bars_of(runs)) == RECENT == 30
    assert "Job 100," in strip(runs)
    assert "Job 70," not in strip(runs)
    assert 'oldest first: 30 succeeded."' in strip(runs)
    assert strip([]) == ""
