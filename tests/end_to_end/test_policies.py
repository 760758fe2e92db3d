"""Class policies set the options that a job does not set itself, under a real daemon."""

from __future__ import annotations

import pytest

from bgd import NotAllowed, Outcome, Refused, State
from tests.support import DEADLINE, wait_until

MODULE = """
import json

class Locked(Exception): pass
class LockedLong(Locked): pass

def hopeless(): json.loads("{")
def locked(): raise LockedLong("by somebody")
def broken(): raise KeyError("x")
def fine(): return 1
def bill(customer): return customer
"""
CONFIGURATION = """
[security]
allowed_classes = ["work.*"]
[python]
path = ["{folder}"]
[retry]
retries = 7
[classes."work.*"]
retries = 3
delay = "1h"
queue = "work"
priority = 4
on_exceptions = { "ValueError" = "fail", "work.Locked" = "snooze 1h", "KeyError" = "retry 1ms" }
[classes."work.fine"]
timeout = "90s"
[classes."work.bill"]
limit = "customer:{0}"
[classes."other.*"]
retries = 1
"""


pytestmark = pytest.mark.daemon(CONFIGURATION, {"work.py": MODULE})


def test_job_gets_the_options_of_its_policy_that_it_does_not_set(daemon):
    with daemon.client() as client:
        silent = client.call("work:fine").wait(DEADLINE)
        outspoken = client.call("work:fine", queue="default", priority=0, retries=0, timeout=5.0).wait(
            DEADLINE
        )
        command = client.submit(["true"]).wait(DEADLINE)

    def said(job):
        return job.queue, job.priority, job.retries, job.timeout

    assert said(silent) == ("work", 4, 3, 90.0)
    assert said(outspoken) == ("default", 0, 0, 5.0)
    assert said(command) == ("default", 0, 0, None)


def test_exception_with_a_listed_base_class_is_not_retried(daemon):
    with daemon.client() as client:
        job = client.call("work:hopeless").wait(DEADLINE)

        assert (job.state, job.attempt, job.outcome) == (State.FAILED, 1, Outcome.ERROR)
        assert job.attempts()[0].error.type == "json.decoder.JSONDecodeError"
        shown = daemon.bgctl("show", str(job.id)).stdout
        assert "on_exceptions says that another attempt would not help after ValueError" in shown


def test_exception_may_mean_a_pause_that_uses_up_no_retry(daemon):
    with daemon.client() as client:
        job = client.call("work:locked", retries=0)
        wait_until(lambda: job.refresh().state is State.SCHEDULED)

        (attempt,) = job.attempts()
        assert (attempt.outcome, attempt.error.message, job.snoozes) == (Outcome.SNOOZED, "by somebody", 1)
        job.cancel()


def test_exception_may_have_a_delay_of_its_own(daemon):
    with daemon.client() as client:
        job = client.call("work:broken", retries=2).wait(DEADLINE)

        assert (job.state, job.attempt) == (State.FAILED, 3)


def test_policy_is_shown_and_stays_when_the_job_is_edited(daemon):
    with daemon.client() as client:
        job = client.call("work:fine", hold=True)
        job.edit(name="mine")

        assert (job.refresh().queue, job.timeout, job.retries) == ("work", 90.0, 3)
        assert job.on_exceptions == {
            "ValueError": "fail",
            "work.Locked": "snooze 1h",
            "KeyError": "retry 1ms",
        }
        shown = daemon.bgctl("show", str(job.id)).stdout
        assert "on errors  ValueError: fail, work.Locked: snooze 1h, KeyError: retry 1ms\n" in shown
        job.cancel()


def test_a_policy_limits_by_an_argument_which_a_call_must_have(daemon):
    with daemon.client() as client:
        first = client.call("work:bill", [9], hold=True)
        own = client.call(
            "work:bill", [9], limit=("{customer}/{0}", 3), kwargs={"customer": "ada"}, hold=True
        )

        assert (first.limit, own.limit) == (("customer:9", 1), ("ada/9", 3))
        words = r"limit 'customer:\{0\}': the job has no argument 0 by position"
        with pytest.raises(Refused, match=words):
            client.call("work:bill", kwargs={"customer": 9})
        with pytest.raises(Refused, match=f"job 1 of the batch: {words}"):
            client.submit_many([["true"], {"target": "work:bill", "kwargs": {"customer": 9}}])
        first.cancel()
        own.cancel()


def test_policy_allows_nothing_by_itself(daemon):
    with daemon.client() as client, pytest.raises(NotAllowed):
        client.call("other:fine")
