"""Functions that follow the end of a job."""

from __future__ import annotations

import pytest

from bgd import Client, Job, NotAllowed
from tests.functions import tasks
from tests.support import DEADLINE

pytestmark = pytest.mark.usefixtures("served")


def following(job: Job) -> Job:
    """Return the job that follows the end of this one."""
    job.wait(DEADLINE)
    [job_id] = job.refresh().follow_ups
    with Client() as client:
        return client.job(job_id).wait(DEADLINE)


@pytest.mark.parametrize("isolation", ["fork", "spawn", "reuse"])
def test_a_function_gets_what_it_names_of_the_end(isolation):
    with Client() as client:
        job = client.call(
            "tests.functions.tasks:fail",
            ["bad"],
            name="try",
            retries=0,
            isolation=isolation,
            on_failure=tasks.told,
        )

        assert following(job).result() == [job.id, "try", "LookupError: bad", ""]


def test_a_function_follows_a_success():
    job = tasks.add.options(on_success="tests.functions.tasks:told").submit(1)

    assert following(job).result() == [job.id, None, None, ""]


def test_a_target_that_is_not_allowed_is_refused():
    with pytest.raises(NotAllowed, match="on_failure: os:getcwd is not in"):
        tasks.add.options(on_failure="os:getcwd").submit(1)


def test_a_word_that_is_not_a_target_is_refused_here():
    with pytest.raises(TypeError, match="on_failure is a target such as "):
        tasks.add.options(on_failure="mail ops")
