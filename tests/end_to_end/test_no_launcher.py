"""Without a launcher, whoever asks is told the reason, and a shutdown does not wait."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from bgd.wire.framing import frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, Declined, encode
from tests.support import DEADLINE, Daemon, wait_until

PROBLEM = "it declined: its generation is 2, and one of generation 9 has taken over"


def decline_all(listening):
    """Answer each supervisor like a launcher of an earlier bgd that obeys a higher generation."""
    with suppress(OSError):  # the test has closed the socket
        while True:
            connection, _ = listening.accept()
            with connection:
                problem = PROBLEM.removeprefix("it declined: ")
                connection.sendall(frame(encode(Declined(problem)), MAX_LAUNCHING_FRAME))
                connection.recv(1 << 16)


@pytest.fixture
def home(tmp_path):
    """A daemon with a running job, and with a launcher that declines to work for it."""
    running = Daemon(tmp_path)
    running.start()
    with running.client() as client:
        job = client.submit(["sleep", "600"])
        wait_until(lambda: job.refresh().attempts()[0].pid if job.refresh().attempt else None)
        pid = job.attempts()[0].pid
        launcher = client.info().launcher_pid
    assert pid is not None
    assert launcher is not None
    running.process.kill()
    running.process.wait(DEADLINE)
    os.kill(launcher, signal.SIGKILL)
    path = running.state_dir / "launcher.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=decline_all, args=[listening], daemon=True).start()
        try:
            running.start()
            with running.client() as client:
                wait_until(lambda: client.info().obstacle is not None)
            yield running
        finally:
            os.kill(pid, signal.SIGKILL)
            if running.process.poll() is None:
                running.process.kill()
            running.process.wait(DEADLINE)
            listening.shutdown(socket.SHUT_RDWR)


def test_clients_are_told_that_nothing_starts_and_why(home):
    submitted = home.bgctl("submit", "true")
    assert submitted.returncode == 0
    assert f"nothing starts: there is no launcher: {PROBLEM}" in submitted.stderr

    job = submitted.stdout.strip()
    assert f"nothing starts: there is no launcher: {PROBLEM}" in home.bgctl("info").stdout
    assert PROBLEM in home.bgctl("doctor").stdout
    assert f"waits for a launcher: there is no launcher: {PROBLEM}" in " ".join(
        home.bgctl("show", job).stdout.split()
    )


def test_a_shutdown_does_not_wait_for_a_launcher_that_will_not_come(home):
    subprocess.run(
        [sys.executable, "-m", "bgctl", "shutdown", "--cancel"],
        env=home.env,
        timeout=3 * DEADLINE,
        check=True,
        capture_output=True,
    )
    assert home.process.wait(DEADLINE) == 0
    log = (home.folder / "bgd.log").read_text()
    assert f"there is no launcher: {PROBLEM}" in log
    assert "leaving 1 jobs as they are" in log
