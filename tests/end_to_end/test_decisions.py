"""Class jobs that decide what happens after them, under a real daemon."""

from __future__ import annotations

import pytest

from bgd import JobFailed, Outcome, State
from tests.support import DEADLINE, wait_until

MODULE = """
import pathlib
import bgd_job

def attempts(file):
    with open(file, "a") as lines: lines.write("x")
    return len(pathlib.Path(file).read_text())

def until_third(file, how):
    if attempts(file) < 3:
        if how == "retry":
            raise bgd_job.Retry("not yet", after="1ms")
        raise bgd_job.Snooze(0, message="not yet")
    return list(bgd_job.current())

def give_up():
    raise bgd_job.Fail("no such customer")

def snooze():
    raise bgd_job.Snooze("1h", message="the market is closed")

def value(x):
    return {"x": x}

def broken():
    return 1 / 0
"""

NEEDY = "import not_installed\ndef function(): pass\n"

CONFIGURATION = """
[security]
allowed_classes = ["work.*", "needy.*"]
[python]
path = ["{folder}"]
[retry]
delay = "1h"
"""


pytestmark = pytest.mark.daemon(CONFIGURATION, {"work.py": MODULE, "needy.py": NEEDY})


@pytest.mark.parametrize(
    ("how", "outcome", "snoozes"), [("retry", Outcome.ERROR, 0), ("snooze", Outcome.SNOOZED, 2)]
)
def test_job_runs_until_it_no_longer_asks_for_another_attempt(daemon, tmp_path, how, outcome, snoozes):
    with daemon.client() as client:
        job = client.call("work:until_third", [str(tmp_path / "file"), how], retries=2)

        identity, attempt, queue, slot = job.result(DEADLINE)

        assert (identity, attempt, queue) == (job.id, 3, "default")
        assert slot >= 1
        assert [each.outcome for each in job.attempts()] == [outcome, outcome, Outcome.SUCCEEDED]
        assert job.refresh().snoozes == snoozes
        errors = [each.error.message for each in job.attempts() if each.error is not None]
        assert errors == ["not yet", "not yet"]


def test_snooze_uses_up_no_retry(daemon, tmp_path):
    with daemon.client() as client:
        job = client.call("work:until_third", [str(tmp_path / "file"), "snooze"], retries=0)

        assert job.wait(DEADLINE).state is State.SUCCEEDED


def test_retries_that_a_job_asks_for_are_counted(daemon, tmp_path):
    with daemon.client() as client:
        job = client.call("work:until_third", [str(tmp_path / "file"), "retry"], retries=1).wait(DEADLINE)

        assert (job.state, job.attempt) == (State.FAILED, 2)


def test_job_that_decides_to_fail_is_not_retried(daemon):
    with daemon.client() as client:
        job = client.call("work:give_up", retries=5)

        with pytest.raises(JobFailed, match=r"bgd_job\.Fail: no such customer") as caught:
            job.result(DEADLINE)

        assert caught.value.error_type == "bgd_job.Fail"
        assert 'raise bgd_job.Fail("no such customer")' in (caught.value.traceback or "")
        assert job.refresh().attempt == 1
        assert "not retried: another attempt would not help" in daemon.bgctl("show", str(job.id)).stdout


@pytest.mark.parametrize("isolation", ["fork", "spawn", "reuse"])
@pytest.mark.parametrize(
    ("target", "arguments", "error"),
    [
        ("work:nothing", [], "has no 'nothing'"),
        ("work:give_up", [1, 2], "takes 0 positional arguments but 2 were given"),
        ("needy:function", [], "No module named 'not_installed', which needy needs"),
    ],
)
def test_call_that_cannot_succeed_is_not_retried(daemon, target, arguments, error, isolation):
    with daemon.client() as client:
        job = client.call(target, arguments, retries=5, isolation=isolation)

        with pytest.raises(JobFailed, match=error):
            job.result(DEADLINE)
        assert job.refresh().attempt == 1


@pytest.mark.daemon(
    CONFIGURATION.replace("path", 'preload = ["needy"]\npath'), {"work.py": MODULE, "needy.py": NEEDY}
)
def test_a_job_whose_preload_cannot_be_imported_is_not_retried(own_daemon):
    with own_daemon.client() as client:
        job = client.call("work:value", [1], retries=5)

        with pytest.raises(JobFailed, match="preload failed: needy cannot be imported: ModuleNotFoundError"):
            job.result(DEADLINE)
        assert job.refresh().attempt == 1


def test_snoozing_job_is_listed_as_scheduled_and_can_be_cancelled(daemon):
    with daemon.client() as client:
        job = client.call("work:snooze")
        wait_until(lambda: job.refresh().state is State.SCHEDULED)

        shown = daemon.bgctl("show", str(job.id)).stdout
        assert "snoozed    once" in shown
        assert "Attempt 1: snoozed" in shown
        assert "the market is closed" in shown
        assert daemon.shown(str(job.id))["snoozes"] == 1
        job.cancel()
        assert job.refresh().state is State.CANCELLED


def test_result_is_the_value_or_the_error_that_the_job_raised(daemon):
    with daemon.client() as client:
        assert client.call("work:value", [[1, None, "ü"]]).result(DEADLINE) == {"x": [1, None, "ü"]}
        with pytest.raises(JobFailed, match="ZeroDivisionError: division by zero") as caught:
            client.call("work:broken", retries=0).result(DEADLINE)

    assert caught.value.outcome is Outcome.ERROR
    assert "return 1 / 0" in (caught.value.traceback or "")
