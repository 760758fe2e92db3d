"""The program that delivers a notification, run as its job runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bgd.core.notifications import Message
from tests.docs.pages import first_cells, page
from tests.support import DEADLINE, ROOT

HOST = os.uname().nodename
FAILED: dict[str, Any] = {
    "id": "0123456789abcdef",
    "event": "failed",
    "at": "2026-11-27T03:00:12Z",
    "target": "t",
    "subject": "nightly",
    "schedule": "nightly",
    "job": 12,
    "name": "nightly",
    "command": "/usr/local/bin/backup --all",
    "queue": "default",
    "outcome": "exit",
    "exit_code": 3,
    "attempts": 2,
    "failures": 1,
}


class Delivery:
    """Runs deliveries with a configuration of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "bgd.toml"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BGD_")}
        self.env = kept | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "TZ": "UTC"}

    def run(
        self, message: dict[str, Any] | str = FAILED, target: str = "t"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "bgd.delivery", "--config", str(self.config), target],
            input=message if isinstance(message, str) else json.dumps(message),
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def program(self, script: str, *arguments: str) -> None:
        """Let a shell script be what is told."""
        path = self.folder / "tell"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        self.config.write_text(f"[notify.t]\nprogram = {json.dumps([str(path), *arguments])}\n")


@pytest.fixture
def delivery(tmp_path):
    return Delivery(tmp_path)


def test_a_program_gets_all_as_variables_and_as_json(delivery):
    log = delivery.folder / "12.2.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(100)))
    delivery.program('env | grep ^BGD_NOTIFICATION_ | sort; echo "$1"; cat; exit 5', "$HOME; exit 1")

    done = delivery.run(FAILED | {"log": str(log)})

    assert (done.returncode, done.stderr) == (5, "")
    *variables, argument, document = done.stdout.splitlines()
    assert argument == "$HOME; exit 1"
    line = f"nightly failed (exit code 3) on {HOST}"
    expected = FAILED | {"log": str(log), "host": HOST, "line": line}
    lacking = dict.fromkeys(["signal", "reason", "due_at", "count"])
    assert variables == sorted(
        f"BGD_NOTIFICATION_{name.upper()}={'' if value is None else value}"
        for name, value in (expected | lacking).items()
    )
    output = [f"line {number}" for number in range(80, 100)]
    assert json.loads(document) == expected | lacking | {"summary": None, "output": output}


def test_the_end_of_a_program_is_the_end_of_the_job(delivery):
    delivery.program("kill -TERM $$")

    assert delivery.run().returncode == -15


def test_a_program_starts_with_the_usual_signals(delivery):
    delivery.program("grep SigIgn /proc/self/status")

    assert delivery.run().stdout == "SigIgn:\t0000000000000000\n"


@pytest.mark.parametrize(
    ("program", "exit_code", "told"),
    [
        ("no-such-program", 127, "[notify.t] cannot run no-such-program: No such file or directory"),
        ("/etc/hostname", 126, "[notify.t] cannot run /etc/hostname: Permission denied"),
    ],
)
def test_a_program_that_cannot_run_takes_one_line(delivery, program, exit_code, told):
    delivery.config.write_text(f"[notify.t]\nprogram = ['{program}']\n")

    done = delivery.run()

    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "", f"bgd: {told}\n")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", "stdin is not a notification: Input data was truncated"),
        ("{}", "stdin is not a notification: Object missing required field"),
        (json.dumps(FAILED | {"event": "\n"}), "stdin is not a notification: Invalid enum value"),
        ("[" * 100_000, "stdin is not a notification: "),
        (" " * 4_000_001, "the notification is over the limit of 4000000 bytes"),
    ],
)
def test_what_is_not_a_notification_takes_one_line(delivery, message, told):
    delivery.program("true")

    done = delivery.run(message)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert done.stderr.startswith(f"bgd: {told}")


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ("", "there is no [notify.t] in the configuration; it has none"),
        ("notify.other.mail = 'root'", "there is no [notify.t] in the configuration; known are other"),
        ("notify.t.mail = ", "is not a TOML file"),
    ],
)
def test_a_target_that_is_gone_takes_one_line(delivery, configuration, told):
    delivery.config.write_text(configuration)

    done = delivery.run()

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert told in done.stderr


def test_the_page_lists_the_variables():
    said = [
        name for cell in first_cells(page("docs/notifications.md"), "variable") for name in cell.split("`, `")
    ]

    assert sorted(said) == sorted(
        name.upper() for name in (*Message.__struct_fields__, "line", "host") if name != "summary"
    )
