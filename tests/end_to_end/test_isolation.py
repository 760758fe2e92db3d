"""Class jobs with each isolation, under a real daemon, chosen in all possible ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgd import JobFailed, Refused
from tests.support import DEADLINE, wait_until

MODULE = """
import os, threading

def parent():
    return os.getppid()

def process():
    return os.getpid()

def stay():
    threading.Event().wait()

def boom():
    raise KeyError("x")
"""
CONFIGURATION = """
[security]
allowed_classes = ["work.*"]
[python]
path = ["{folder}"]
preload = ["work"]
[retry]
retries = 0
"""


pytestmark = pytest.mark.daemon(CONFIGURATION, {"work.py": MODULE})


def launcher_of(daemon):
    with daemon.client() as client:
        return client.info().launcher_pid


def test_class_jobs_are_forked_from_one_worker_by_default(daemon):
    with daemon.client() as client:
        first, second = (client.call("work:parent").result(DEADLINE) for _ in range(2))
        alone = client.call("work:parent", isolation="spawn")
        reused = [client.call("work:process", isolation="reuse").result(DEADLINE) for _ in range(2)]

        assert first == second != launcher_of(daemon)
        assert reused[0] == reused[1] != first
        assert alone.result(DEADLINE) == launcher_of(daemon)
        assert (alone.isolation, client.call("work:parent").isolation) == ("spawn", None)


def test_bgctl_sets_shows_and_changes_the_isolation(daemon):
    done = daemon.bgctl("call", "--hold", "--isolation", "spawn", "work:parent")
    job_id = done.stdout.strip()
    assert daemon.shown(job_id)["isolation"] == "spawn"
    assert "isolation  spawn" in daemon.bgctl("show", job_id).stdout

    daemon.bgctl("edit", job_id, "--isolation", "fork")
    assert daemon.shown(job_id)["isolation"] == "fork"
    daemon.bgctl("edit", job_id, "--unset", "isolation")
    daemon.bgctl("release", job_id)

    with daemon.client() as client:
        assert client.job(int(job_id)).result(DEADLINE) != launcher_of(daemon)
    assert daemon.shown(job_id)["isolation"] is None


def test_a_command_and_an_unknown_isolation_are_refused(daemon):
    with daemon.client() as client, pytest.raises(Refused, match="isolation belong to a class job"):
        client.submit(["true"], isolation="fork")
    done = daemon.bgctl("call", "--isolation", "thread", "work:parent")
    assert (done.returncode, "'thread' must be one of" in done.stderr) == (2, True)
    command = daemon.submit("--hold", "true")
    assert daemon.bgctl("edit", command, "--isolation", "fork").returncode == 1


def test_traceback_of_a_forked_job_has_no_frames_of_the_worker(daemon):
    with daemon.client() as client, pytest.raises(JobFailed) as caught:
        client.call("work:boom").result(DEADLINE)

    assert (caught.value.error_type, caught.value.error_message) == ("KeyError", "'x'")
    lines = str(caught.value.traceback).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "work.py" in lines[1]


def test_a_reload_restarts_workers(daemon):
    with daemon.client() as client:
        before = client.call("work:parent").result(DEADLINE)
        daemon.configure(
            CONFIGURATION.replace("{folder}", str(daemon.folder)) + "\n[retry.commands]\nretries = 0\n"
        )

        assert daemon.bgctl("reload").returncode == 0

        assert client.call("work:parent").result(DEADLINE) != before
        wait_until(lambda: not Path(f"/proc/{before}").exists())


def test_code_that_changes_between_two_jobs_is_loaded_again(daemon):
    file = daemon.folder / "work.py"
    with daemon.client() as client:
        before = client.call("work:parent").result(DEADLINE)
        file.write_text(MODULE + "\ndef new(): return 'new'\n")

        assert client.call("work:new").result(DEADLINE) == "new"
        wait_until(lambda: not Path(f"/proc/{before}").exists())


@pytest.mark.parametrize("isolation", ["fork", "spawn", "reuse"])
def test_a_job_that_is_to_end_tells_where_it_was(daemon, isolation):
    with daemon.client() as client:
        late = client.call("work:stay", isolation=isolation, timeout=2.0)
        cancelled = client.call("work:stay", isolation=isolation)
        wait_until(lambda: cancelled.refresh().state == "running")
        wait_until(lambda: late.refresh().state == "failed")
        cancelled.cancel()
        with pytest.raises(JobFailed) as failed:
            late.result(DEADLINE)
        assert cancelled.wait(DEADLINE).state == "cancelled"

    assert (failed.value.outcome, failed.value.error_type) == ("timeout", "bgd_job.TimedOut")
    assert "in stay\n    threading.Event().wait()" in (failed.value.traceback or "")
    for job, outcome, error in (
        (late, "timeout", "bgd_job.TimedOut: its time limit is over"),
        (cancelled, "cancelled", "bgd_job.Cancelled: it was cancelled"),
    ):
        shown = daemon.bgctl("show", str(job.id)).stdout
        assert outcome in shown
        assert error in shown
        assert "in stay" in shown
