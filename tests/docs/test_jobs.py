"""docs/jobs.md names every state, outcome, variable and limit."""

from __future__ import annotations

import re

from bgd.core import spec
from bgd.core.job import Outcome, State
from tests.docs.pages import first_cells, page, rows_of
from tests.support import DEADLINE, serving

JOBS = page("docs/jobs.md")


def test_jobs_page_names_every_state_and_outcome():
    assert first_cells(JOBS, "state") == [state.value for state in State]
    assert first_cells(JOBS, "outcome") == [outcome.value for outcome in Outcome]


def test_jobs_page_names_every_variable_that_a_job_is_given():
    with serving("resources.gpu = 1", {}) as daemon, daemon.client() as client:
        [job] = client.batch([["env"]], env_pass="none", resources={"gpu": 1}).jobs()
        output = job.wait(DEADLINE).logs()
        given = {line.partition("=")[0] for line in b"".join(part.data for part in output).decode().split()}

    assert {name for name in given if name.startswith("BGD_")} == set(first_cells(JOBS, "variable"))
    assert "PYTHONUNBUFFERED" in given


def test_jobs_page_says_what_the_limits_are():
    said = [int(number) for row in rows_of(JOBS, "of a job") for number in re.findall(r"\d+", row[1])]

    assert said == [
        *(spec.MAX_ARGV, spec.MAX_WORK),
        spec.MAX_ENV,
        spec.MAX_WORK,
        spec.MAX_INPUT,
        spec.MAX_NAME,
        spec.MAX_TAGS,
        *(spec.MAX_RESOURCES, spec.MAX_TOKENS),
        spec.MAX_WAITS,
        spec.MAX_RETRIES,
        spec.MAX_DURATION / 86_400,
    ]
    assert spec.MAX_RESULT == spec.MAX_WORK  # one row of the table has both
