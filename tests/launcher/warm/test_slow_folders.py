"""Class jobs whose folder or interpreter is on a file system that does not answer."""

from __future__ import annotations

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import StopProcesses
from tests.launcher.silent_mount import silent_mount
from tests.support import wait_until

JOB = """
import os

def folder():
    return os.getcwd()
"""


@pytest.fixture
def silent(tmp_path):
    with silent_mount(tmp_path) as mount:
        yield mount


def test_a_job_whose_folder_does_not_answer_delays_no_other_of_the_same_kind(every, silent):
    every.write("job", JOB)
    stuck = every.launch("job:folder", cwd=str(silent.point))
    wait_until(silent.is_asked)

    others = [every.run("job:folder") for _ in range(2)]
    every.supervisor.say(StopProcesses(stuck, 1.0))

    assert [each.outcome for each in others] == [Outcome.SUCCEEDED] * 2
    assert every.supervisor.ended(stuck).outcome is Outcome.CANCELLED


def test_a_job_whose_interpreter_does_not_answer_delays_no_other_and_keeps_its_time_limit(every, silent):
    every.write("job", JOB)
    here, every.interpreter = every.interpreter, f"{silent.point}/bin/python"
    stuck = every.launch("job:folder", timeout=1.0)
    wait_until(silent.is_asked)

    every.interpreter = here
    other = every.run("job:folder")

    assert other.outcome is Outcome.SUCCEEDED
    assert every.supervisor.ended(stuck).outcome is Outcome.TIMEOUT


def test_a_job_in_a_folder_that_might_hang_runs_like_any_other(every):
    every.write("job", JOB)

    end = every.run("job:folder", cwd="/proc/self/root/usr")
    missing = every.run("job:folder", cwd="/proc/self/nowhere")

    assert end.outcome is Outcome.SUCCEEDED, end
    assert b"/usr" in (end.result or b"")
    assert missing.outcome is Outcome.NOT_STARTED
    assert (missing.problem or "").startswith("no such directory: /proc/self/nowhere")
