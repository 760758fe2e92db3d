from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.core import conditions
from bgd.core.job import Conditions, Job, JobId, Now, RetryPolicy, State
from bgd.core.spec import JobSpec, Reference

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


FINISHED = Job(JobId(9), State.CANCELLED, "default", 0, RetryPolicy())
ENDED = {JobId(1): State.SUCCEEDED, JobId(2): State.FAILED, JobId(3): State.CANCELLED}


@pytest.mark.parametrize(
    ("options", "attempt", "problem"),
    [
        ({"after": (1,), "after_any": (2, 5)}, 0, None),
        ({"after": (4,)}, 0, None),  # it has not finished
        ({"after": (1, 2)}, 1, "job 9 waits for job 2, which failed: retry it, too"),
        ({"after": (3,)}, 0, "job 9 waits for job 3, which was cancelled: retry it, too"),
        ({"after": (5,)}, 0, "job 9 waits for job 5, which was removed: submit it again"),
        ({"after": (5,)}, 1, None),  # it has waited for it
        (
            {"after": (5,), "references": (Reference(5, ("args", 0)),)},
            1,
            "job 9 waits for job 5, which was removed: submit it again",
        ),
    ],
)
def test_a_finished_job_waits_again_unless_what_it_waits_for_cannot_succeed(options, attempt, problem):
    spec = JobSpec(argv=("true",), **options)

    assert conditions.unmet(replace(FINISHED, attempt=attempt), spec, ENDED, [JobId(4)]) == problem


@pytest.mark.parametrize(("attempt", "expires"), [(0, 160.0), (1, None)])
def test_a_finished_job_waits_for_everything_again_except_its_delay(attempt, expires):
    kept = Conditions(key="k", slots=2, resources=(("gpu", 1),))
    job = replace(FINISHED, attempt=attempt, conditions=kept)
    spec = JobSpec(argv=("true",), delay=5.0, at=9.0, expires=60.0, after=(1, 4), after_any=(2, 6), key="k")

    revived = conditions.revived(job, spec, NOW, [JobId(4), JobId(6)])

    assert revived.due is None
    assert revived.conditions == replace(kept, at=9.0, expires=expires, after=(4,), after_any=(6,))
