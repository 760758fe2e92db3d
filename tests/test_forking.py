"""A fork that runs bgctl, bgd or the launcher for a test does what a new Python would do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking
from tests.support import DEADLINE

WORDS = [
    ["--help"],
    ["nonsense"],
    ["list", "--json", "--name", "größe"],
    ["run", "--stdin", "-", "cat"],
    ["run", "sh", "-c", "pwd; echo $COLOUR; echo bad >&2; exit 7"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_fork_answers_as_a_new_python_does(daemon, tmp_path, words):
    given = "größe\r\n" if "--stdin" in words else ""
    env = {"COLOUR": "red"}

    forked = daemon.bgctl(*words, env=env, cwd=tmp_path, read=given)

    started = subprocess.run(
        [sys.executable, "-m", "bgctl", *words],
        env=daemon.env | env,
        cwd=tmp_path,
        input=given,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert forked.args[0] == "bgctl", "it was no fork"
    assert said_by(forked) == said_by(started)


def said_by(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, re.sub(r"job \d+", "job N", done.stderr)


def test_a_fork_that_takes_too_long_is_killed(daemon):
    with pytest.raises(subprocess.TimeoutExpired):
        forking.run(("run", "sleep", "1000"), daemon.env, daemon.folder, "", 0.5)

    assert daemon.bgctl("list", "--ids").returncode == 0  # the others go on


def test_what_a_pipe_cannot_hold_is_left_to_a_new_python(daemon):
    assert daemon.bgctl("run", "--stdin", "-", "wc", "-c", read="x" * 100_000).stdout == "100000\n"


def test_a_forked_daemon_and_its_launcher_look_like_new_ones(daemon):
    with daemon.client() as client:
        launcher = client.info().launcher_pid

    assert command_line(daemon.process.pid)[:5] == [sys.executable, "-P", "-m", "bgd", "--ready-fd"]
    assert command_line(launcher)[:5] == [sys.executable, "-P", "-m", "bgd.launcher", "--state"]
    assert Path(f"/proc/{launcher}/stat").read_text().rpartition(")")[2].split()[3] == str(
        launcher
    )  # session


def test_a_forked_daemon_that_is_killed_says_so(own_daemon):
    own_daemon.process.kill()

    assert own_daemon.process.wait(DEADLINE) == -9
    assert own_daemon.process.poll() == -9
    own_daemon.start()


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
