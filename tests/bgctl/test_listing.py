"""The verb list in a pipe: columns, order, pages and filters."""

from __future__ import annotations

import json
import subprocess
import sys

from bgctl import selecting
from tests.support import wait_until

EVERY_JOB = dict.fromkeys(("states", "queue", "name", "tag", "since", "until", "words"))


def test_list_in_a_pipe_prints_aligned_columns_with_headings(daemon):
    job_id = daemon.finished_job("-n", "two words", "echo", "a b")

    heading, first, *_ = daemon.bgctl().stdout.splitlines()

    assert " ".join(heading.split()) == "ID STATE PRIORITY QUEUE ATTEMPT AGE TIME NAME COMMAND"
    cells = first.split(maxsplit=8)
    assert cells[:5] == [job_id, "succeeded", "0", "default", "1/1"]
    assert cells[7] == "two\N{OPEN BOX}words"
    assert cells[8] == "echo 'a b'"
    assert first.index("succeeded") == heading.index("STATE")


def test_list_selects(daemon):
    wanted = daemon.submit("--delay", "1h", "-n", "pick-1", "-t", "picked", "-q", "pick", "true")
    daemon.submit("--delay", "1h", "-n", "other", "true")

    for selection in (["--name", "pick-*"], ["--tag", "picked"], ["--queue", "pick"]):
        assert daemon.bgctl("list", "--ids", *selection).stdout.split() == [wanted]
    assert wanted in daemon.bgctl("ls", "--ids", "--state", "scheduled", "--since", "1m").stdout.split()
    assert daemon.bgctl("list", "--ids", "--state", "stopping").stdout == ""
    assert daemon.bgctl("list", "--ids", "--since", "2099-01-01").stdout == ""
    assert daemon.bgctl("list", "--ids", "--tag", "picked", "--until", "1h").stdout == ""
    assert daemon.bgctl("list", "--ids", "--tag", "picked", "--until", "0s").stdout.split() == [wanted]
    assert daemon.bgctl("list", "--ids", "--filter", "name:PICK -state:held").stdout.split() == [wanted]
    assert daemon.bgctl("list", "--ids", "--tag", "picked", "--filter", "-queue:pick").stdout == ""


def test_until_selects_what_was_submitted_before_for_every_verb_with_a_selection(daemon):
    job_id = daemon.submit("--hold", "-t", "early", "true")

    for verb in ("cancel", "hold", "search text"):
        daemon.bgctl(*verb.split(), "--tag", "early", "--until", "1h")
    assert daemon.shown(job_id)["state"] == "held"
    daemon.bgctl("cancel", "--until", "0s", "--tag", "early")
    assert daemon.shown(job_id)["state"] == "cancelled"


def test_words_of_the_page_select_jobs_for_every_verb_with_a_selection(daemon):
    job_id = daemon.submit("--hold", "-t", "worded", "true")

    for verb in ("cancel", "hold", "search text"):
        daemon.bgctl(*verb.split(), "--filter", "tag:worded -state:held")
    refused = daemon.bgctl("cancel", "--filter", "stat:held tag:worded")
    assert refused.returncode != 0
    assert "There is no filter 'stat' (did you mean state?)" in refused.stderr
    assert daemon.shown(job_id)["state"] == "held"
    daemon.bgctl("cancel", "--state", "held", "--filter", "tag:worded")
    assert daemon.shown(job_id)["state"] == "cancelled"
    assert daemon.bgctl("list", "--ids", "--filter", "tag:worded state:cancelled").stdout.split() == [job_id]


def test_list_shows_all_of_a_range_that_exist_and_match(own_daemon):
    batch = own_daemon.bgctl("batch", "--hold", read="true\n" * 60).stdout.strip()
    assert batch == "1-60"
    own_daemon.bgctl("cancel", "20-22")
    own_daemon.submit("--hold", "true")

    assert own_daemon.bgctl("list", "--ids", "3-58").stdout.split() == [
        str(job) for job in (*range(58, 22, -1), *range(19, 2, -1), 22, 21, 20)
    ]
    assert own_daemon.bgctl("list", "--ids", "5-99", "--state", "cancelled").stdout.split() == [
        "22",
        "21",
        "20",
    ]
    assert own_daemon.bgctl("list", "--ids", "--sort", "id", "21,60", "4").stdout.split() == ["4", "21", "60"]
    assert own_daemon.bgctl("list", "--ids", "3-58", "-n", "2").stdout.split() == ["58", "57"]
    assert own_daemon.bgctl("list", "500-600").stderr == "bgctl: no jobs match\n"


def test_an_empty_list_prints_its_message_to_stderr(own_daemon):
    empty = own_daemon.bgctl("list")
    chosen = own_daemon.bgctl("list", "--state", "failed")
    quiet = own_daemon.bgctl("list", "--ids")

    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "bgctl: no jobs yet\n")
    assert (chosen.returncode, chosen.stdout, chosen.stderr) == (0, "", "bgctl: no jobs match\n")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert own_daemon.bgctl("list", "--json").stdout == "[]\n"


def test_list_sorts(daemon):
    low, high = (
        daemon.submit("-p", priority, "-q", "sorted", "--delay", "1h", "true") for priority in ("-3", "3")
    )

    assert daemon.bgctl("list", "--ids", "--queue", "sorted", "--sort", "priority").stdout.split() == [
        high,
        low,
    ]
    assert daemon.bgctl("list", "--ids", "--queue", "sorted", "--sort", "id").stdout.split() == [low, high]


def test_list_sorts_before_it_applies_the_limit(own_daemon):
    ids = [own_daemon.submit("--hold", "-p", str(priority), "true") for priority in (5, 1, 9, 3)]

    def listed(*options):
        return own_daemon.bgctl("list", "--ids", *options).stdout.split()

    assert listed("--sort", "priority", "--limit", "2") == [ids[2], ids[0]]
    assert listed("--sort", "id", "--limit", "2") == ids[:2]


def test_running_jobs_come_first_then_waiting_ones(own_daemon):
    done = own_daemon.finished_job("true")
    running = own_daemon.submit("sleep", "60")
    held = own_daemon.submit("--hold", "true")
    last = own_daemon.finished_job("true")
    wait_until(lambda: own_daemon.shown(running)["state"] == "running")

    assert own_daemon.bgctl("list", "--ids").stdout.split() == [running, held, last, done]
    assert own_daemon.bgctl("list", "--ids", "-r").stdout.split() == [done, last, held, running]
    assert own_daemon.bgctl("list", "--ids", "-n", "2").stdout.split() == [running, held]
    own_daemon.bgctl("cancel", running)


def test_a_sorted_list_can_be_reversed(own_daemon):
    ids = [own_daemon.submit("--hold", "-p", str(priority), "true") for priority in (5, 1, 9, 3)]

    listed = own_daemon.bgctl("list", "--ids", "--sort", "priority", "--reverse", "-n", "2").stdout.split()

    assert listed == [ids[1], ids[3]]


def test_all_jobs_can_be_listed(own_daemon):
    ids = [own_daemon.submit("--hold", "true") for _ in range(3)]
    with own_daemon.client() as client:
        client.submit_many([{"argv": ["true"], "hold": True}] * 60)

    table = own_daemon.bgctl("list")
    sorted_table = own_daemon.bgctl("list", "--reverse")

    assert len(own_daemon.bgctl("list", "--ids").stdout.split()) == 63
    assert len(json.loads(own_daemon.bgctl("list", "--json", "--state", "held").stdout)) == 63
    assert len(own_daemon.bgctl("list", "--ids", "-n", "50").stdout.split()) == 50
    for limited in (table, sorted_table):  # by the short way, and by the client
        assert len(limited.stdout.splitlines()) == 1 + 50
        assert limited.stderr == "bgctl: showing 50 jobs; there may be more: --all, --limit N\n"
    assert own_daemon.bgctl("list", "-n", "50").stderr == ""
    assert own_daemon.bgctl("list", "--ids", "--all").stdout.split()[-3:] == ids[::-1]
    assert "--all and --limit cannot be combined" in own_daemon.bgctl("list", "--all", "-n", "3").stderr


def test_a_list_of_any_length_has_each_job_once(own_daemon, monkeypatch):
    monkeypatch.setattr(selecting, "MAX_LIST", 4)
    done = [own_daemon.finished_job("true") for _ in range(3)]
    held = [own_daemon.submit("--hold", "true") for _ in range(6)]
    more = own_daemon.finished_job("true")
    states = {"states": ("held", "succeeded")}
    with own_daemon.client() as client:
        listed = [str(job.id) for job in selecting.all_matching(client, EVERY_JOB)]
        named = [str(job.id) for job in selecting.all_matching(client, EVERY_JOB | states)]
        below = [str(job.id) for job in selecting.all_matching(client, EVERY_JOB, before=int(held[1]))]

    assert listed == [*held[:1:-1], more, held[1], held[0], *done[::-1]]
    assert sorted(named) == sorted(listed)
    assert below == [held[0], *done[::-1]]


def test_list_before_an_id_prints_the_next_page(own_daemon):
    ids = [own_daemon.submit("--hold", "true") for _ in range(4)]

    first = own_daemon.bgctl("list", "--ids", "--limit", "2").stdout.split()
    rest = own_daemon.bgctl("list", "--ids", "--limit", "2", "--before", first[-1]).stdout.split()

    assert [*first, *rest] == ids[::-1]


def test_pages_of_a_list_leave_no_job_out(own_daemon):
    held = own_daemon.submit("--hold", "true")
    done = [own_daemon.submit("true") for _ in range(4)]
    own_daemon.bgctl("wait", *done)

    first = own_daemon.bgctl("list", "--ids", "--limit", "2").stdout.split()
    second = own_daemon.bgctl("list", "--ids", "--limit", "2", "--before", done[3]).stdout.split()
    third = own_daemon.bgctl("list", "--ids", "--limit", "2", "--before", second[-1]).stdout.split()
    beyond = own_daemon.bgctl("list", "--before", held)

    assert first == [held, done[3]]
    assert [*second, *third] == [done[2], done[1], done[0], held]
    assert "no jobs match" in beyond.stderr


def test_list_shows_a_suspended_job_as_suspended(own_daemon):
    job_id = own_daemon.submit("sleep", "60")
    wait_until(lambda: own_daemon.bgctl("suspend", job_id).returncode == 0)

    [_, row] = own_daemon.bgctl("list").stdout.splitlines()

    assert row.split()[1] == "suspended"
    assert own_daemon.bgctl("list", "--ids", "--state", "suspended").stdout.split() == [job_id]
    assert own_daemon.bgctl("list", "--ids", "--state", "running").stdout.split() == [job_id]
    shown = own_daemon.bgctl("show", job_id).stdout
    assert shown.startswith(f"Job {job_id}: suspended\n")
    assert "\nAttempt 1: suspended\n" in shown
    assert own_daemon.bgctl("continue", "--state", "suspended").stdout == "continued 1 job\n"
    assert own_daemon.bgctl("list", "--ids", "--state", "suspended").stdout == ""
    own_daemon.bgctl("cancel", job_id)


def test_a_closed_pipe_prints_no_error(daemon):
    job_id = daemon.finished_job("sh", "-c", "seq 200000")

    reader = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m bgctl logs {job_id} | head -n 1"],
        env=daemon.env,
        capture_output=True,
        text=True,
        check=True,
    )

    assert (reader.stdout, reader.stderr) == ("1\n", "")


def test_colors_reach_a_pipe_if_they_are_asked_for(daemon):
    daemon.bgctl("run", "false")

    assert "\x1b[" in daemon.bgctl("list", "--color", "always").stdout
    assert "\x1b[" in daemon.bgctl("--color", "always", "show").stdout
    assert "\x1b" not in daemon.bgctl("list").stdout
