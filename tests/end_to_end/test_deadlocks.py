"""Jobs that wait for jobs which never start because all slots are taken: everybody says so."""

from __future__ import annotations

import json
import sys

import pytest

from bgd import State
from tests.support import wait_until

BGCTL = [sys.executable, "-m", "bgctl"]
ONE_SLOT = pytest.mark.daemon("[daemon]\nslots = 1\n")
WAITS = "in a deadlock, because jobs that wait hold what is needed: job 1 waits for job 2"
REMEDY = "; cancel one, or allow more"

MODULE = """
import bgd

def submit_and_wait(timeout):
    with bgd.Client() as client:
        client.submit(["true"]).wait(timeout=timeout)
"""


def lines_of(daemon, *arguments):
    return daemon.bgctl(*arguments).stdout.splitlines()


def has_written(client, job, text):
    return lambda: text in b"".join(part.data for part in client.logs(job.id)).decode()


@ONE_SLOT
@pytest.mark.parametrize(
    "script",
    [
        "{bgctl} run true",
        "{bgctl} submit true; {bgctl} wait 2",
        "{bgctl} submit --wait true",
        "{bgctl} submit --hold true; {bgctl} release 2; {bgctl} wait --match x 2",
    ],
)
def test_a_job_that_waits_for_a_job_without_a_slot_says_so_at_once(own_daemon, script):
    with own_daemon.client() as client:
        outer = client.submit(script.format(bgctl=" ".join(BGCTL)), shell=True)

        wait_until(has_written(client, outer, f"bgctl: job 2 waits {WAITS}{REMEDY}\n"))

        wait_until(lambda: WAITS in own_daemon.bgctl("explain", "2").stdout)
        assert WAITS in own_daemon.bgctl("explain", "1").stdout
        shown = json.loads(own_daemon.bgctl("explain", "--json", "2").stdout)
        assert [each["cause"] for each in shown["reasons"]] == ["deadlock", "slots"]
        assert WAITS in own_daemon.bgctl("show", "1").stdout
        client.set_slots(2)
        assert outer.wait().state is (State.FAILED if "--match" in script else State.SUCCEEDED)


@pytest.mark.daemon(
    '[daemon]\nslots = 1\n[security]\nallowed_classes = ["work.*"]\n[python]\npath = ["{folder}"]\n'
    "[retry]\nretries = 0\n",
    {"work.py": MODULE},
)
@pytest.mark.parametrize("isolation", ["fork", "spawn", "reuse"])
def test_a_time_out_in_a_job_says_that_it_is_a_deadlock(own_daemon, isolation):
    with own_daemon.client() as client:
        outer = client.call("work:submit_and_wait", [0.3], isolation=isolation)
        outer.wait()
        [attempt] = outer.attempts()

    assert attempt.error is not None
    assert attempt.error.type == "TimeoutError"
    assert attempt.error.message == f"job 2 has not finished within 0.3 s: job 2 waits {WAITS}{REMEDY}"


@ONE_SLOT
def test_a_job_that_waits_for_itself_says_so(own_daemon):
    with own_daemon.client() as client:
        outer = client.submit([*BGCTL, "wait", "1"])

        wait_until(has_written(client, outer, "job 1 waits for job 1"))
        outer.cancel()


@pytest.mark.daemon("[daemon]\nslots = 2\n")
def test_jobs_that_wait_while_another_one_works_are_in_no_deadlock(own_daemon):
    with own_daemon.client() as client:
        worker = client.submit(["sleep", "1000"])
        outer = client.submit([*BGCTL, "run", "true"])
        wait_until(lambda: "held by jobs 1, 2" in own_daemon.bgctl("explain", "3").stdout)

        assert "deadlock" not in own_daemon.bgctl("explain", "3").stdout
        assert "nothing blocks it" in own_daemon.bgctl("explain", "2").stdout
        worker.cancel()
        assert outer.wait().state is State.SUCCEEDED
        assert b"".join(part.data for part in client.logs(outer.id)) == b""


@ONE_SLOT
def test_a_client_outside_that_waits_makes_no_deadlock(own_daemon):
    with own_daemon.client() as client:
        client.submit(["sleep", "1000"])
        second = client.submit(["true"])
        with pytest.raises(TimeoutError, match=r"job 2 has not finished within 0.1 s$"):
            second.wait(timeout=0.1)
