"""What a class job asks for next, by exceptions that it can always import, in its result file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgd.core.job import Decision, NextStep, Outcome
from bgd.wire.class_jobs import read_result

JOB = """
import bgd_job

class RateLimited(bgd_job.Retry):
    def __init__(self):
        super().__init__("slow down", after="1m")

def retry(): raise bgd_job.Retry("busy", after="30s")
def retry_as_configured(): raise bgd_job.Retry
def own(): raise RateLimited
def give_up(): raise bgd_job.Fail("no such customer")
def snooze(): raise bgd_job.Snooze("5m", message="locked")
def snooze_until(): raise bgd_job.Snooze(until=2e9)
def where():
    import sys
    return [bgd_job.__file__, sys.path]
def caused():
    try: 1 / 0
    except ZeroDivisionError as error: raise bgd_job.Retry("again") from error
"""


@pytest.fixture(autouse=True)
def _job(module):
    module("job", JOB)


@pytest.mark.parametrize(
    ("function", "decision", "kind", "message"),
    [
        ("retry", Decision(NextStep.RETRY, after=30.0), "bgd_job.Retry", "busy"),
        ("retry_as_configured", Decision(NextStep.RETRY), "bgd_job.Retry", ""),
        ("own", Decision(NextStep.RETRY, after=60.0), "job.RateLimited", "slow down"),
        ("give_up", Decision(NextStep.FAIL), "bgd_job.Fail", "no such customer"),
    ],
)
def test_exceptions_of_bgd_job_fail_the_attempt_and_decide_what_follows(
    call, function, decision, kind, message
):
    run = call(f"job:{function}")

    report = read_result(run.raw, Outcome.EXIT)
    assert (report.outcome, report.decision) == (Outcome.ERROR, decision)
    assert report.error is not None
    assert (report.error.type, report.error.message) == (kind, message)
    assert report.error.traceback == run.log
    assert run.code == 1


@pytest.mark.parametrize(
    ("function", "decision", "log"),
    [
        ("snooze", Decision(NextStep.SNOOZE, after=300.0), "snoozed: locked\n"),
        ("snooze_until", Decision(NextStep.SNOOZE, until=2e9), "snoozed: no reason given\n"),
    ],
)
def test_snooze_is_not_a_failure(call, function, decision, log):
    run = call(f"job:{function}")

    report = read_result(run.raw, Outcome.SUCCEEDED)
    assert (report.outcome, report.decision) == (Outcome.SNOOZED, decision)
    assert (run.code, run.log) == (0, log)


def test_what_led_to_a_retry_is_in_its_traceback(call):
    run = call("job:caused")

    assert "ZeroDivisionError" in run.told["wish"]["traceback"]


def test_bgd_job_can_be_imported_without_a_folder_on_the_path(call):
    file, path = call("job:where").told["ok"]

    assert file.endswith("inside/bgd_job/__init__.py")
    assert str(Path(file).parent.parent) not in path


def test_copy_of_bgd_job_under_another_name_works_too(call, module):
    module("vendored", "class Later(Exception):\n bgd_wish = {'aim': 'snooze', 'after': 9}")
    module("other", "import vendored\ndef f(): raise vendored.Later('busy')")

    report = read_result(call("other:f").raw, Outcome.SUCCEEDED)

    assert report.decision == Decision(NextStep.SNOOZE, after=9.0)
