"""Behavior that all verbs share."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.support import DEADLINE


@pytest.mark.parametrize("verb", ["info", "list", "stats"])
def test_a_full_disk_under_stdout_is_one_line_of_error(daemon, verb):
    daemon.bgctl("submit", "true")
    done = daemon.execute("sh", "-c", f"{sys.executable} -m bgctl {verb} > /dev/full")

    assert done.returncode == 1
    assert done.stderr == "bgctl: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "true"], r"job \d+ is queued\n"),
        (["run", "echo", "hi"], r"job \d+ is queued: `bgctl logs -f \d+` follows it, .*\n"),
        (["batch"], r"the lines up to 2 are queued: --skip 2 continues after them\n"),
        (["batch", "--json", "--wait"], r"the lines up to 2 are queued: --skip 2 continues after them\n"),
    ],
)
def test_what_is_queued_is_told_if_stdout_cannot_be_written(daemon, arguments, said):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "bgctl", *arguments],
            env=daemon.env,
            cwd=daemon.folder,
            input="true\ntrue\n",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    assert done.returncode == 1
    assert re.fullmatch(f"bgctl: cannot write to stdout: No space left on device; {said}", done.stderr)


def test_global_options_go_before_or_after_the_verb(daemon):
    before = daemon.bgctl("--json", "--socket", str(daemon.socket), "info").stdout
    after = daemon.bgctl("info", "--socket", str(daemon.socket), "--json").stdout

    assert json.loads(before)["pid"] == json.loads(after)["pid"] == daemon.process.pid
