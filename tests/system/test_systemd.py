"""What daemon and launcher tell the service manager, and how a launcher runs as its own service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.system.systemd import ServiceManager, take_sockets
from bgd.wire.launching import AttemptEnded, Goodbye
from tests.launcher.host import PATIENCE, Host
from tests.support import DEADLINE, ROOT, wait_until

# Puts a socket where systemd would, and prints what take_sockets takes
TAKE = """
import os, sys
from bgd.system.systemd import take_sockets
os.dup2(int(sys.argv[1]), 3)
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "bgd.socket"}
(taken,) = take_sockets(environ)
print(taken.getsockname(), os.get_inheritable(3), environ)
"""


class Listener:
    """The service manager's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(address)

    def hear(self, *besides: str) -> dict[str, str]:
        """Return the next message that does not begin with one of `besides`."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            if lines[0] not in besides:
                return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify"))
    with listener.socket:
        yield listener


def variables(listener: Listener, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": listener.socket.getsockname(), "WATCHDOG_USEC": "100000", **more}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A folder for launchers; what they start is ended after the test."""
    host = Host(tmp_path)
    yield host
    host.clear_up()


def test_only_variables_of_the_manager_are_removed_from_the_environment(listener):
    environ = variables(listener, WATCHDOG_PID=str(os.getpid()), PATH="/bin")

    with closing(ServiceManager.from_environment(environ)):
        assert environ == {"PATH": "/bin"}


async def test_watchdog_of_another_process_is_not_ours(listener):
    with closing(ServiceManager.from_environment(variables(listener, WATCHDOG_PID="1"))) as manager:
        await manager.ping_watchdog()  # would never return if it were


async def test_without_a_manager_nothing_is_sent():
    with closing(ServiceManager.from_environment({"WATCHDOG_USEC": "100000"})) as manager:
        manager.ready("up")
        await manager.ping_watchdog()


def test_manager_may_listen_on_an_abstract_name():
    listener = Listener(f"\0bgd-test-{os.getpid()}")

    with listener.socket, closing(ServiceManager(f"@bgd-test-{os.getpid()}", None)) as manager:
        manager.ready("up")
        assert listener.hear() == {"READY": "1", "STATUS": "up"}


def test_manager_that_does_not_read_blocks_only_briefly(listener, caplog):
    with closing(ServiceManager.from_environment(variables(listener))) as manager:
        while "cannot notify" not in caplog.text:  # until its queue is full
            manager.ready("up")

    assert "cannot notify the service manager of READY=1: timed out" in caplog.text


def test_missing_manager_is_a_warning(tmp_path, caplog):
    with closing(ServiceManager(str(tmp_path / "nobody"), None)) as manager:
        manager.ready("up")

    assert "cannot notify the service manager of READY=1: [Errno 2] No such file" in caplog.text


def test_daemon_notifies_the_manager(home, listener):
    home.env |= variables(listener)
    home.start()

    assert listener.hear("WATCHDOG=1") == {"READY": "1", "STATUS": f"serving {home.socket}"}
    assert listener.hear() == listener.hear() == {"WATCHDOG": "1"}
    home.process.send_signal(signal.SIGHUP)
    assert listener.hear("WATCHDOG=1").keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert listener.hear("WATCHDOG=1")["READY"] == "1"
    home.configure("[daemon]\nslot = 5\n")
    home.process.send_signal(signal.SIGHUP)
    assert "RELOADING" in listener.hear("WATCHDOG=1")
    assert "old configuration" in listener.hear("WATCHDOG=1")["STATUS"]
    home.configure("")
    home.process.send_signal(signal.SIGTERM)
    assert listener.hear("WATCHDOG=1") == {"STOPPING": "1", "STATUS": "stopping, mode leave"}
    assert home.process.wait(DEADLINE) == 0


def test_launcher_service_stays_until_it_is_stopped_and_ends_its_jobs(host, listener, monkeypatch):
    for name, value in variables(listener).items():
        monkeypatch.setenv(name, value)
    launcher = host.start("--stay")
    assert listener.hear("WATCHDOG=1")["READY"] == "1"
    first = host.supervise()
    first.say(Goodbye())
    first.close()
    second = host.supervise(2)
    key = second.launch("sleep", "100")
    second.started(key)

    launcher.send_signal(signal.SIGTERM)

    assert listener.hear("WATCHDOG=1")["STOPPING"] == "1"
    ended = second.hear()
    assert isinstance(ended, AttemptEnded)
    assert ended.outcome is Outcome.INTERRUPTED
    assert launcher.wait(PATIENCE) == 0


def test_daemon_that_awaits_a_launcher_starts_none_and_uses_the_one_that_comes(home):
    home.start("--await-launcher")
    log = home.folder / "bgd.log"
    with home.client() as client:
        wait_until(lambda: "is bgd-launcher.service running?" in log.read_text())
        assert client.info().launcher_pid is None
        job = client.submit(["true"])
        service = Host(home.state_dir)
        launcher = service.start("--stay")

        job.wait(DEADLINE)

        assert client.info().launcher_pid == launcher.pid
    assert log.read_text().count("is bgd-launcher.service running?") == 1
    service.clear_up()


def test_socket_from_systemd_is_taken_and_not_inherited(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
        fd = listening.fileno()
        taken = subprocess.run(
            [sys.executable, "-c", TAKE, str(fd)],
            pass_fds=[fd],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )

    assert taken.stdout.split() == [str(tmp_path / "sock"), "False", "{}"]


def test_sockets_for_another_process_are_left_alone():
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "bgd"}

    assert take_sockets(environ) == []
    assert environ == {}
