"""`private_daemon()`: a real daemon that all clients find, and that ends with everything it started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bgd import Client, ConfigError, DaemonUnreachable, NotAllowed, run_background_job
from bgd.testing import private_daemon
from tests.functions import tasks
from tests.support import DEADLINE, wait_until

TASKS = "tests.functions.tasks"


def test_jobs_run_in_their_own_processes_with_this_import_path():
    with private_daemon(allowed=[f"{TASKS}.*"]) as daemon:
        assert run_background_job(f"{TASKS}.Report", "text", [3]).result(DEADLINE) == "made anew, 3 pages"
        assert tasks.add.submit(1).result(DEADLINE) == 3
        with daemon.client() as client:
            assert client.call(f"{TASKS}:process_id").result(DEADLINE) != os.getpid()
            assert (
                client.submit(["sh", "-c", "test $BGD_SOCKET = " + str(daemon.socket)]).result(DEADLINE) == 0
            )


def test_nothing_is_allowed_by_default():
    with private_daemon(), pytest.raises(NotAllowed):
        tasks.add.submit(1)


def test_settings_are_the_rest_of_the_configuration(tmp_path):
    (tmp_path / "own_module.py").write_text("def run():\n    raise ValueError\n")
    settings = {
        "daemon": {"slots": 3},
        "retry": {"retries": 1, "delay": "0s", "commands": {"retries": 2}},
        "queues": {"night.ly": {"slots": 1}},
        "security": {"allowed_classes": ["own_module.run"]},
    }
    with private_daemon(path=[tmp_path], settings=settings) as daemon, daemon.client() as client:
        assert client.info().slots == 3
        assert client.submit(["false"]).wait(DEADLINE).attempt == 3
        assert client.call("own_module:run").wait(DEADLINE).attempt == 2
        assert [queue.slots for queue in client.queues().queues if queue.name == "night.ly"] == [1]


def test_policies_of_classes_are_settings_too(tmp_path):
    (tmp_path / "own_module.py").write_text("def run():\n    raise ValueError\n")
    settings = {"classes": {"own_module.*": {"queue": "night", "retries": 1, "delay": "0s"}}}
    with (
        private_daemon(allowed=["own_module.*"], path=[tmp_path], settings=settings) as daemon,
        daemon.client() as client,
    ):
        job = client.call("own_module:run").wait(DEADLINE)

    assert (job.queue, job.attempt) == ("night", 2)


def test_child_programs_find_this_daemon_and_no_other(monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", "/nonexistent/bgd.sock")
    monkeypatch.setenv("BGD_DAEMON_SLOTS", "7")
    with private_daemon(settings={"daemon": {"slots": 2}}):
        done = subprocess.run(
            [sys.executable, "-m", "bgctl", "slots"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("2")

    assert (os.environ["BGD_SOCKET"], os.environ["BGD_DAEMON_SLOTS"]) == ("/nonexistent/bgd.sock", "7")


@pytest.mark.parametrize("is_killed", [False, True], ids=["running", "killed"])
def test_nothing_is_left_at_the_end(is_killed, tmp_path):
    with private_daemon() as daemon:
        client = daemon.client()
        stubborn = client.submit(
            ["sh", "-c", "trap '' TERM; echo $$ > pid; while :; do sleep 1; done"], cwd=tmp_path
        )
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        info = client.info()
        assert info.launcher_pid is not None
        pids = [info.pid, info.launcher_pid, int((tmp_path / "pid").read_text())]
        assert stubborn.refresh().state == "running"
        if is_killed:
            os.kill(info.pid, signal.SIGKILL)

    assert [pid for pid in pids if _runs(pid)] == []
    assert not daemon.folder.exists()
    with pytest.raises(DaemonUnreachable):
        client.info()


@pytest.mark.skipif(shutil.which("strace") is None, reason="NO CALL HAS FAILED: strace is not installed")
@pytest.mark.parametrize("error", ["EINVAL", "ENOENT", "ESRCH"])
def test_the_end_works_though_the_launcher_is_ending_already(error):
    """Kernels report several errors for this."""
    program = """
from bgd.testing import private_daemon
with private_daemon() as daemon, daemon.client() as client:
    client.submit(["true"]).wait()  # so there is a launcher
    print(daemon.folder)
"""
    inject = ["-e", "trace=pidfd_open", "-e", f"inject=pidfd_open:error={error}"]  # only in that program
    done = subprocess.run(
        ["strace", "-o", "/dev/null", *inject, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()


def test_the_daemon_ends_when_the_block_fails():
    with pytest.raises(ZeroDivisionError), private_daemon() as daemon:
        _ = 1 / 0

    assert not daemon.folder.exists()


def test_a_daemon_that_does_not_start_says_why():
    with (
        pytest.raises(ConfigError, match=r"daemon\.slots = 'many'"),
        private_daemon(settings={"daemon": {"slots": "many"}}),
    ):
        pass


def test_several_daemons_may_run_at_once():
    with private_daemon() as first, private_daemon() as second:
        assert Client().info().pid == second.client().info().pid != first.client().info().pid


def _runs(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
