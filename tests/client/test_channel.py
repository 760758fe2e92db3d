"""Which users may serve a socket that the client was not told about."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgd.errors import BgdError, DaemonUnreachable, NotAllowed
from tests.support import DEADLINE, Home

STRANGER = 4_000_000  # a uid that nobody has
IMPOSTOR = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
listening = socket.socket(fileno=int(sys.argv[1]))
listening.listen()
print("ready", flush=True)
connection, _ = listening.accept()
print("received", len(connection.recv(1000)), flush=True)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")


@contextmanager
def impostor(path: Path, uid: int = STRANGER) -> Iterator[subprocess.Popen[str]]:
    """Listen as another user; it prints how many bytes its first client sent, then hangs up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        command = [sys.executable, "-c", IMPOSTOR, str(bound.fileno()), str(uid)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[bound.fileno()])
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def received(process: subprocess.Popen[str]) -> int:
    """Return how many bytes the impostor got."""
    text, _ = process.communicate(timeout=DEADLINE)
    return int(text.removeprefix("received "))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "bgd.toml"
    path.write_text(f'[daemon]\nstate_dir = "{tmp_path}/state"\nsocket = "{tmp_path}/run/bgd.sock"\n')
    return path


def test_nothing_is_sent_to_the_own_socket_if_another_user_serves_it(client_at, config, tmp_path):
    path = tmp_path / "run/bgd.sock"
    with impostor(path) as process:
        client = client_at(config=str(config), timeout=DEADLINE)
        with pytest.raises(NotAllowed, match=f"{path} is served by uid {STRANGER}, not by uid 0, so nothing"):
            client.info()
        assert received(process) == 0


def test_the_owner_of_its_folder_may_serve_the_systems_socket(client_at, config, tmp_path):
    with impostor(tmp_path / "run/bgd.sock") as process:
        os.chown(tmp_path / "run", STRANGER, STRANGER)
        with pytest.raises(DaemonUnreachable, match="closed the connection without an answer"):
            client_at(config=str(config), system=True, timeout=DEADLINE).info()
        assert received(process) > 0


def test_nothing_is_sent_to_the_systems_socket_if_another_user_serves_it(client_at, config, tmp_path):
    with impostor(tmp_path / "run/bgd.sock", STRANGER + 1) as process:
        os.chown(tmp_path / "run", STRANGER, STRANGER)
        with pytest.raises(
            NotAllowed, match=f"by uid {STRANGER + 1}, not by uid 0 or {STRANGER}, so nothing"
        ):
            client_at(config=str(config), system=True, timeout=DEADLINE).info()
        assert received(process) == 0


def test_any_user_may_serve_a_named_socket(client_at, tmp_path):
    with impostor(tmp_path / "run/bgd.sock") as process:
        with pytest.raises(BgdError, match="closed the connection without an answer"):
            client_at(str(tmp_path / "run/bgd.sock"), timeout=DEADLINE).info()
        assert received(process) > 0


def test_bgctl_says_in_one_line_which_user_serves_the_socket(tmp_path):
    home = Home(tmp_path)
    with impostor(home.socket) as process:
        done = home.bgctl("submit", "true", env={"SECRET": "of the caller"})
        assert received(process) == 0

    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.startswith(f"bgctl: {home.socket} is served by uid {STRANGER}")
    assert done.stderr.count("\n") == 1
