"""bgd as the first process of a container, with which the kernel kills all others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgd import DaemonUnreachable, Job, Outcome, State
from tests.support import DEADLINE, Home, wait_until

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(subprocess.run([*NAMESPACE, "true"], check=False).returncode),
    reason="NOT TESTED AS PROCESS 1: that takes root and a PID namespace",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.configure("[daemon]\nslots = 4\n")
    return home


@contextmanager
def container(home: Home, *prelude: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run bgd as process 1, and stop it cleanly."""
    with (home.folder / "log").open("ab") as log:
        running = subprocess.Popen(
            [*NAMESPACE, *prelude, sys.executable, "-P", "-m", "bgd"],
            env=home.env,
            cwd=home.folder,
            stderr=log,
        )
    try:
        yield running
        if running.poll() is None:
            [first] = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            assert running.wait(DEADLINE) == 0, (home.folder / "log").read_text()
    finally:
        running.kill()
        running.wait(DEADLINE)


def answers(home: Home) -> bool:
    try:
        with home.client() as client:
            return bool(client.info().launcher_pid)
    except DaemonUnreachable:
        return False


def runs(job: Job) -> bool:
    return job.refresh().state == State.RUNNING and bool(job.attempts()[0].pid)


def test_jobs_are_ended_in_order_and_interrupted(home):
    script = f"trap 'echo bye > {home.folder}/bye; exit 3' TERM; while :; do sleep 0.05; done"
    with container(home):
        wait_until(lambda: answers(home))
        with home.client() as client:
            jobs = [
                client.submit(["sh", "-c", script]),
                client.submit(["sleep", "100"]),
                client.submit(["sh", "-c", f"test -e {home.folder}/bye || sleep 100"], retries=1),
            ]
            wait_until(lambda: all(map(runs, jobs)))

    assert (home.folder / "bye").read_text() == "bye\n"
    with container(home):
        wait_until(lambda: answers(home))
        with home.client() as client:
            again = [client.job(job.id).wait(DEADLINE) for job in jobs]
            assert [job.state for job in again] == [State.FAILED, State.FAILED, State.SUCCEEDED]
            ends = [job.attempts()[0].outcome for job in again]
            assert ends == [Outcome.INTERRUPTED] * 3
            assert len(again[2].attempts()) == 2


def test_children_of_a_killed_launcher_leave_no_zombie(home):
    with container(home) as running:
        wait_until(lambda: answers(home))
        [first] = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        with home.client() as client:
            job = client.submit(["sh", "-c", "sleep 1000 & sleep 1001"])
            wait_until(lambda: runs(job))
            [launcher] = children_of(first)
            os.kill(int(launcher), signal.SIGKILL)
            assert job.wait(DEADLINE).attempts()[0].outcome == Outcome.UNKNOWN
            wait_until(lambda: bool(client.info().launcher_pid))

            wait_until(lambda: len(children_of(first)) == 1)


def children_of(pid: str) -> list[str]:
    """Return the children of a process, including those of its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def test_missing_proc_is_reported_in_a_line(home):
    with container(
        home, "sh", "-c", 'while umount -l /proc 2> /dev/null; do :; done; exec "$@"', "sh"
    ) as running:
        assert running.wait(DEADLINE) == 1

    [line] = (home.folder / "log").read_text().splitlines()
    assert "/proc is not mounted" in line
