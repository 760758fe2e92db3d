"""A target is told by a real job, from the failure to the program that gets the message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import Daemon, wait_until

CONFIGURATION = """
[security]
allowed_commands = ["/bin/sh"]

[daemon]
slots = 1

[notify.ops]
program = ["/bin/sh", "-c", "cat >>{folder}/told; echo >>{folder}/told"]
on = ["failed", "recovered"]

[notify.broken]
program = ["/bin/sh", "-c", "echo no line to the pager; exit 3"]
"""


pytestmark = pytest.mark.daemon(CONFIGURATION)


def told(daemon: Daemon) -> list[dict[str, Any]]:
    file = daemon.folder / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_program_is_told_although_all_slots_are_taken_all_is_paused_and_it_is_not_allowed(daemon):
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "echo disk full; exit 4"], name="backup", notify="ops").wait()
        blocker = client.submit(["/bin/sh", "-c", "read line"], stdin=fifo(daemon))
        client.pause()
        wait_until(lambda: told(daemon))
        client.resume()
        blocker.cancel()
        shown = daemon.shown(str(job.id))
        latest = daemon.bgctl("show", "--json").stdout

    [message] = told(daemon)
    assert (message["event"], message["job"], message["exit_code"]) == ("failed", job.id, 4)
    assert message["output"] == ["disk full"]
    assert shown["notify"] == "ops"
    assert json.loads(latest)["id"] == blocker.id, "nobody means the job that tells"


@pytest.mark.parametrize(
    ("arguments", "code", "output", "errors"),
    [
        (["ops"], 0, "a test was sent to ops by job", ""),
        (["broken"], 1, "no test was sent to broken: no line to the pager (bgctl logs ", ""),
        (["opps"], 1, "", "there is no [notify.opps]; did you mean ops?\n"),
        (["a b"], 2, "", "a name of at most 64 letters"),
    ],
)
def test_doctor_says_whether_a_test_was_sent(daemon, arguments, code, output, errors):
    done = daemon.bgctl("doctor", "--notify", *arguments)

    assert done.returncode == code
    assert done.stdout.startswith(output)
    assert done.stdout.count("\n") == bool(output)
    assert errors in done.stderr


def test_doctor_tells_programs_whether_a_test_was_sent(daemon):
    done = json.loads(daemon.bgctl("doctor", "--notify", "broken", "--json").stdout)

    assert (done["target"], done["sent"], done["problem"]) == ("broken", False, "no line to the pager")


def test_the_queue_of_notifications_is_not_for_others(daemon):
    for words in (["submit", "-q", "bgd-notifications", "/bin/sh"], ["pause", "bgd-notifications"]):
        done = daemon.bgctl(*words)

        assert done.returncode == 1
        assert "queue bgd-notifications is for bgd's own notifications" in done.stderr


def fifo(daemon: Daemon) -> str:
    """Return the path of a pipe that nobody writes to: who reads it waits."""
    path = daemon.folder / "pipe"
    done = daemon.bgctl("submit", "--wait", "/bin/sh", "-c", f"mkfifo {path}")
    assert done.returncode == 0, done.stderr
    return str(path)
