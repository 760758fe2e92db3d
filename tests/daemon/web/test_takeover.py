"""Another user of the machine does not get hold of the pages while the daemon is down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.daemon.web.browsing import Browser, configure_pages
from tests.support import DEADLINE, Daemon, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")
pytestmark = needs_root

STRANGER = 65534  # nobody
KILLS = 5
# Try to take a port on any address until stdin is closed; then say what was taken
GRAB = """
import os, select, socket, sys
os.setuid(int(sys.argv[1]))
taken = []
print("trying", flush=True)
is_over = False
while not is_over:
    is_over = bool(select.select([sys.stdin], [], [], 0.001)[0])
    for host in ("127.0.0.1", "::1", "0.0.0.0", "::"):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as grabbing:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                grabbing.setsockopt(socket.SOL_SOCKET, option, 1)
            if ":" in host:
                grabbing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                grabbing.bind((host, int(sys.argv[2])))
                grabbing.listen()
            except OSError:
                continue
            taken.append(host)
print(sorted(set(taken)))
"""


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    configure_pages(daemon, "127.0.0.1:0")
    daemon.start()
    yield daemon
    daemon.stop()


@contextmanager
def grabbing(port: int) -> Iterator[list[str]]:
    """Have another user try all the time to take a port; in the end, fill the list with what was taken."""
    taken: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", GRAB, str(STRANGER), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "trying\n"
        yield taken
        said, _ = stranger.communicate(timeout=DEADLINE)
        taken.append(said.strip())


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(DEADLINE)


def launcher_of(daemon: Daemon) -> int | None:
    with daemon.client() as client:
        return client.info().launcher_pid


def test_a_killed_daemon_never_frees_its_port_and_takes_it_again(daemon):
    browser = Browser(daemon).log_in()
    with grabbing(browser.port) as taken:
        for _ in range(KILLS):
            kill(psutil.Process(daemon.process.pid))
            daemon.process.wait()
            with browser.connect() as waiting:
                waiting.sendall(browser.request("/job-logs"))
                daemon.start()
                assert waiting.recv(12) == b"HTTP/1.1 200"
            assert Browser(daemon).port == browser.port

    assert taken == ["[]"]


def test_a_port_is_held_again_after_the_launcher_was_killed(daemon):
    browser = Browser(daemon).log_in()
    with grabbing(browser.port) as taken:
        first = launcher_of(daemon)
        kill(psutil.Process(first))
        wait_until(lambda: launcher_of(daemon) not in {first, None})
        assert daemon.bgctl("run", "true").returncode == 0
        kill(psutil.Process(daemon.process.pid))
        daemon.process.wait()
        daemon.start()
        assert browser.get("/job-logs").status == 200

    assert taken == ["[]"]


def test_an_orderly_end_frees_the_port(daemon):
    browser = Browser(daemon)
    launcher = psutil.Process(launcher_of(daemon))
    daemon.stop()
    launcher.wait(DEADLINE)

    with grabbing(browser.port) as taken:
        pass

    assert taken != ["[]"]
    daemon.start()
