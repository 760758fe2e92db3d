"""Behavior that all verbs share."""

from __future__ import annotations

import json
import subprocess
import sys


def test_a_full_disk_under_stdout_is_one_line_of_error(daemon):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m bgctl info > /dev/full"],
        env=daemon.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_global_options_go_before_or_after_the_verb(daemon):
    before = daemon.bgctl("--json", "--socket", str(daemon.socket), "info").stdout
    after = daemon.bgctl("info", "--socket", str(daemon.socket), "--json").stdout

    assert json.loads(before)["pid"] == json.loads(after)["pid"] == daemon.process.pid
