"""The verbs events and stats."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from bgctl import common
from tests.support import DEADLINE, seen


def test_events_show_the_life_of_a_job_and_have_a_cursor(own_daemon):
    job_id = int(own_daemon.bgctl("submit", "--wait", "sh", "-c", "exit 3").stdout)

    events = [json.loads(line) for line in own_daemon.bgctl("events").stdout.splitlines()]

    assert [(event["job"], event["what"], event["state"]) for event in events] == [
        (job_id, "submit", "queued"),
        (job_id, "start", "running"),
        (job_id, "give up", "failed"),
    ]
    assert events[-1]["outcome"] == "exit"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", events[0]["at"])
    rest = own_daemon.bgctl("events", "--since", str(events[1]["id"])).stdout
    assert [json.loads(line) for line in rest.splitlines()] == events[2:]


def test_followed_events_arrive_as_they_happen(daemon):
    command = [sys.executable, "-m", "bgctl", "events", "-f", "--since", "0"]
    with subprocess.Popen(command, env=daemon.env, cwd=daemon.folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        job_id = int(daemon.submit("true"))

        ends = (event for line in process.stdout if (event := json.loads(line))["state"] == "succeeded")

        assert next(event["job"] for event in ends if event["job"] == job_id) == job_id
        process.terminate()
        process.wait(DEADLINE)


def test_a_terminal_gets_one_text_line_per_event(daemon, terminal):
    job_id = daemon.bgctl("submit", "--wait", "false").stdout.strip()

    text = seen(terminal("events"))

    assert re.search(rf"\d\d:\d\d:\d\d job {job_id} give up: failed \(attempt 1, exit\)", text)


def test_stats_count_jobs_and_outcomes(own_daemon):
    for program in ("true", "true", "false"):
        own_daemon.bgctl("submit", "--wait", program)
    own_daemon.submit("--hold", "true")

    sheet = own_daemon.bgctl("stats").stdout
    stats = json.loads(own_daemon.bgctl("stats", "--window", "5m", "--json").stdout)

    assert "attempts   ended in the last hour: 2 succeeded, 1 failed (exit code)\n" in sheet
    assert re.search(r"^ran        median \S+, 95% within \S+$", sheet, re.MULTILINE)
    assert stats["window"] == 300.0
    assert stats["outcomes"] == {"succeeded": 2, "exit": 1}
    assert (stats["counts"]["held"], stats["oldest_queued_at"]) == (1, None)


def test_enumerations_continue_below_their_beginning_on_a_terminal(monkeypatch, capsys):
    lines = [("jobs", "1 running, 2 held, 3 blocked"), ("socket", "/a path/with blanks/stays whole.sock")]
    monkeypatch.setenv("COLUMNS", "30")

    common.print_lines(*common.labelled(lines))
    assert capsys.readouterr().out.splitlines()[0] == "jobs       1 running, 2 held, 3 blocked"
    monkeypatch.setattr(common, "is_terminal", lambda: True)
    common.print_lines(*common.labelled(lines))
    assert capsys.readouterr().out.splitlines() == [
        "jobs       1 running, 2 held,",
        "           3 blocked",
        "socket     /a path/with blanks/stays whole.sock",
    ]
