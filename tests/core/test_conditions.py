from __future__ import annotations

import pytest

from bgd.core import conditions
from bgd.core.job import Now
from bgd.core.spec import JobSpec

NOW = Now(elapsed=100.0, wall=1_790_000_000.0)


@pytest.mark.parametrize(
    ("options", "never_starts"),
    [
        ({"delay": 60.0}, False),
        ({"expires": 60.0}, False),
        ({"expires": 60.0, "delay": 59.0}, False),
        ({"expires": 60.0, "delay": 60.0}, True),
        ({"expires": 60.0, "at": NOW.wall - 1}, False),
        ({"expires": 60.0, "at": NOW.wall + 59}, False),
        ({"expires": 60.0, "at": NOW.wall + 61}, True),
    ],
)
def test_a_job_expires_first_if_it_may_start_only_later(options, never_starts):
    spec = JobSpec(argv=("true",), **options)

    assert (
        conditions.expires_first(conditions.due_of(spec, NOW), conditions.conditions_of(spec, NOW), NOW)
        is never_starts
    )
