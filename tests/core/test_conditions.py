from __future__ import annotations

import pytest

from bgd.core import conditions
from bgd.core.job import Conditions, Job, JobId, Now, RetryPolicy, State
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


def test_an_edit_adds_variables_and_unsets_what_its_options_exclude():
    spec = JobSpec(argv=("true",), delay=5.0, env={"A": "1", "B": "2"}, explicit_env=("A",))

    edited = conditions.edited_spec(spec, {"at": NOW.wall, "env": {"B": "3"}})

    assert edited == JobSpec(argv=("true",), at=NOW.wall, env={"A": "1", "B": "3"}, explicit_env=("B",))
    assert conditions.edited_spec(spec, {"name": "x"}).env == spec.env
    assert conditions.edited_spec(spec, {"env": {}}).env == spec.env


def test_a_search_for_a_cycle_looks_once_at_a_job_that_many_wait_for():
    waits = {2: (4,), 3: (4,), 4: (5,), 5: ()}
    jobs = {
        job_id: Job(
            JobId(job_id),
            State.BLOCKED,
            "default",
            0,
            RetryPolicy(),
            conditions=Conditions(after=tuple(map(JobId, after))),
        )
        for job_id, after in waits.items()
    }
    looks = []

    def job_of(job_id):
        looks.append(job_id)
        return jobs.get(job_id)

    assert conditions.find_cycle(JobId(1), [2, 3], job_of) is None
    assert looks == [2, 4, 5, 3, 4]
    assert conditions.find_cycle(JobId(5), [2, 3], job_of) == 2
