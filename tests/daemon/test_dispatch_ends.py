"""What is saved of the end of an attempt: reported by the launcher, or by nobody."""

from __future__ import annotations

import pytest

from bgd.core.job import Decision, Job, JobId, NextStep, Outcome, RetryPolicy, State
from bgd.daemon.dispatch import reported_end, unreported_end
from bgd.wire.launching import AttemptEnded, AttemptKey
from bgd.wire.views import JobError

JOB = Job(JobId(7), State.RUNNING, "mail", 0, RetryPolicy(), attempt=2)
KEY = AttemptKey("store", 7, 2)


def ended(outcome=Outcome.SUCCEEDED, **fields):
    return reported_end(AttemptEnded(key=KEY, outcome=outcome, finished_at=2.0, **fields))


def test_report_of_a_command_is_saved_unchanged():
    got = ended(Outcome.EXIT, exit_code=3, started_at=1.0, user_seconds=0.5, log_bytes=4, run_seconds=7.0)
    assert (got.job, got.attempt, got.outcome, got.exit_code) == (7, 2, Outcome.EXIT, 3)
    assert (got.started_at, got.finished_at, got.user_seconds, got.log_bytes) == (1.0, 2.0, 0.5, 4)
    assert got.run_seconds == 7.0
    assert (got.error, got.result) == (None, None)


def test_value_that_a_class_job_returned_is_saved_as_json_text():
    assert ended(exit_code=0, result=b'{"ok": [1e400, "\xc3\xa9"]}').result == '[1e400, "é"]'


def test_exception_of_a_class_job_makes_its_outcome_an_error():
    raised = b'{"error": {"type": "app.Broken", "message": "no", "traceback": "..."}}'
    got = ended(Outcome.EXIT, exit_code=1, result=raised)
    assert got.outcome is Outcome.ERROR
    assert got.error == JobError("app.Broken", "no", "...")


def test_class_job_that_was_stopped_keeps_the_outcome_of_the_launcher():
    got = ended(Outcome.TIMEOUT, result=b'{"ok": 1}')
    assert (got.outcome, got.result) == (Outcome.TIMEOUT, None)


def test_reason_for_not_starting_becomes_the_error_of_the_attempt():
    got = ended(Outcome.NOT_STARTED, problem="program not found: nope")
    assert got.error == JobError("not_started", "program not found: nope")


@pytest.mark.parametrize(
    ("problem", "decision"),
    [
        ("preload failed: app cannot be imported: ImportError: x", Decision(NextStep.FAIL)),
        ("cannot start: app cannot be imported: ValueError: x", None),
    ],
)
def test_only_a_preload_that_would_fail_again_is_not_retried(problem, decision):
    assert ended(Outcome.NOT_STARTED, problem=problem).decision == decision


def test_unreported_end_says_why():
    got = unreported_end(JOB, Outcome.UNKNOWN, 9.0, "gone")
    assert (got.job, got.attempt, got.finished_at) == (7, 2, 9.0)
    assert got.error == JobError("unknown", "gone")
