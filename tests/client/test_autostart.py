"""What autostart checks before it starts a daemon."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from bgd.client.autostart import LOCK_NAME, start_daemon
from bgd.client.connection import ClientSocket
from bgd.errors import ConfigError, DaemonUnreachable
from tests.daemon.harness import configure


@pytest.fixture
def state(tmp_path):
    return Path(configure(tmp_path).daemon.state_dir)


def start(state: Path, patience: float) -> None:
    config = str(state.parent / "bgd.toml")
    start_daemon(config, ClientSocket(f"{state}/bgd.sock", is_own=True), time.monotonic() + patience)


def test_shared_folder_is_refused_before_anything_is_written_to_it(state):
    state.mkdir()
    state.chmod(0o755)
    (state / "precious").touch()

    with pytest.raises(ConfigError, match=f"{state} has mode 0755.*holds 'precious'"):
        start(state, 10)

    assert os.listdir(state) == ["precious"]  # noqa: PTH208 - names are what is judged
    assert state.stat().st_mode & 0o777 == 0o755


def test_lock_of_another_autostart_is_waited_for_only_until_the_deadline(state):
    state.mkdir(mode=0o700)
    with (state / LOCK_NAME).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DaemonUnreachable, match="did not finish in time: try again"):
            start(state, 0.1)
