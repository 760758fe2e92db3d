"""The verbs slots, pause, resume and queue."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from tests.support import seen, serving, wait_until


def test_slots_are_shown_set_and_reset_to_the_configuration(own_daemon):
    usual = json.loads(own_daemon.bgctl("slots", "--json").stdout)["configured_slots"]

    assert own_daemon.bgctl("slots", "77").stdout == f"77 slots (configured: {usual}), 0 taken\n"
    assert own_daemon.bgctl("slots", "1").stdout == f"1 slot (configured: {usual}), 0 taken\n"
    assert json.loads(own_daemon.bgctl("slots", "--json").stdout)["slots"] == 1
    assert own_daemon.bgctl("slots", "auto").stdout == f"{usual} slots, 0 taken\n"


def test_a_paused_queue_starts_nothing_until_it_is_resumed(daemon):
    daemon.bgctl("queue", "set", "night", "--slots", "9")
    assert daemon.bgctl("pause", "night").stderr == "bgctl: queue night is paused\n"
    job_id = daemon.submit("-q", "night", "true")

    sheet = daemon.bgctl("show", job_id).stdout
    assert "  waits      until `bgctl resume night`: its queue is paused\n" in sheet
    assert daemon.bgctl("resume", "night").stderr == "bgctl: queue night is resumed\n"
    assert daemon.bgctl("wait", job_id).returncode == 0


def test_an_unknown_queue_is_refused_and_not_created(own_daemon):
    own_daemon.bgctl("queue", "set", "mail", "--slots", "2")

    assert own_daemon.bgctl("pause", "371").stderr == (
        "bgctl: there is no queue 371; for job 371: `bgctl hold 371` keeps it from starting,"
        " `bgctl suspend 371` stops a running one\n"
    )
    assert own_daemon.bgctl("resume", "371").stderr == (
        "bgctl: there is no queue 371; for job 371: `bgctl release 371` lets it start,"
        " `bgctl continue 371` continues a suspended one\n"
    )
    typo = own_daemon.bgctl("resume", "mial")
    assert typo.returncode == 1
    assert "there is no queue mial (did you mean mail?)" in typo.stderr
    assert [row.split()[0] for row in own_daemon.bgctl("queue").stdout.splitlines()[1:]] == [
        "default",
        "mail",
    ]


def test_a_queue_may_be_paused_before_it_has_a_job(own_daemon):
    assert own_daemon.bgctl("pause", "mail").stderr == (
        "bgctl: queue mail is paused; no job waits in it yet (known are default); "
        "`bgctl suspend ID` halts a job\n"
    )
    job_id = own_daemon.submit("-q", "mail", "true")
    assert own_daemon.shown(job_id)["state"] == "queued"
    assert own_daemon.bgctl("pause", "mial").stderr == (
        "bgctl: queue mial is paused; no job waits in it yet (did you mean mail?); "
        "`bgctl suspend ID` halts a job\n"
    )
    own_daemon.bgctl("resume", "mial")
    own_daemon.bgctl("resume", "mail")
    assert own_daemon.bgctl("wait", job_id).returncode == 0


def test_resume_of_all_queues_leaves_single_queues_paused(own_daemon):
    assert own_daemon.bgctl("pause").stderr == "bgctl: all queues are paused\n"
    own_daemon.bgctl("queue", "set", "night", "--slots", "9")
    own_daemon.bgctl("pause", "night")
    job_id = own_daemon.submit("true")

    assert "until `bgctl resume`: all queues are paused" in own_daemon.bgctl("show", job_id).stdout
    assert "all queues are paused together" in own_daemon.bgctl("slots").stderr
    assert own_daemon.bgctl("resume", "night").stderr == (
        "bgctl: queue night is not paused by name any more; "
        "all queues are paused together: `bgctl resume` undoes that\n"
    )
    own_daemon.bgctl("queue", "set", "night", "--slots", "9")
    own_daemon.bgctl("pause", "night")
    for _ in range(2):  # the second one has nothing to undo
        assert own_daemon.bgctl("resume").stderr == (
            "bgctl: all queues are resumed except night: `bgctl resume night`\n"
        )
    assert own_daemon.bgctl("resume", "night").stderr == "bgctl: queue night is resumed\n"
    assert own_daemon.bgctl("resume").stderr == "bgctl: all queues are resumed\n"


def test_queues_are_listed_with_their_slots_and_jobs(own_daemon):
    assert (
        own_daemon.bgctl("queue", "set", "mail", "--slots", "3").stderr == "bgctl: queue mail has 3 slots\n"
    )
    own_daemon.submit("-q", "mail", "--hold", "true")

    heading, *rows = own_daemon.bgctl("queue", "list").stdout.splitlines()

    assert heading.split() == [
        "QUEUE",
        "SLOTS",
        "STARTS",
        "RUNNING",
        "QUEUED",
        "SCHEDULED",
        "BLOCKED",
        "HELD",
    ]
    assert [row.split() for row in rows] == [
        ["default", "unlimited", "yes", "0", "0", "0", "0", "0"],
        ["mail", "3", "yes", "0", "0", "0", "0", "1"],
    ]
    _, queue = json.loads(own_daemon.bgctl("queue", "--json").stdout)["queues"]
    assert (queue["name"], queue["slots"], queue["paused"]) == ("mail", 3, False)


LIMITED = """
[daemon]
slots = 8
[queues.api]
rate = "2/1h"
[queues.mail]
weight = 3
[resources]
gpu = ["a", "b"]
"""


def test_the_list_shows_rates_weights_and_what_waits_for_resources():
    with serving(LIMITED, {}) as daemon:
        for _ in range(3):
            daemon.submit("-q", "api", "true")
        for _ in range(3):
            daemon.submit("--resource", "gpu=1", "sleep", "600")
        wait_until(lambda: _queues(daemon)["taken"] == 2)
        queues = _queues(daemon)
        lines = [line.split() for line in daemon.bgctl("queue").stdout.splitlines()]
        daemon.bgctl("pause", "api")
        paused = daemon.bgctl("queue").stdout.splitlines()[6]

    api, default, mail = queues["queues"]
    assert [api[key] for key in ("rate", "weight")] == ["2/1h", None]
    assert datetime.fromisoformat(api["opens_at"]) > datetime.now(UTC)
    assert [default[key] for key in ("rate", "weight", "opens_at")] == [None, None, None]
    assert [mail[key] for key in ("rate", "weight", "opens_at")] == [None, 3, None]
    assert queues["resources"] == [{"name": "gpu", "tokens": 2, "taken": 2, "waiting": 1}]
    assert [line[:2] for line in lines[4:]] == [
        [],
        ["QUEUE", "RATE"],
        ["api", "2/1h"],
        ["mail", "-"],
        [],
        ["RESOURCE", "TOKENS"],
        ["gpu", "2"],
        [],
        ["QUEUE", "QUEUED"],
        ["api", "for"],
        ["default", "for"],
    ]
    assert lines[6][2] == "in"  # some minutes
    assert paused.split() == ["api", "2/1h", "paused", "-"]
    assert (lines[6][4], lines[7][2:], lines[10][2:]) == ("-", ["-", "3"], ["2", "1"])


def _queues(daemon):
    return json.loads(daemon.bgctl("queue", "--json").stdout)


def test_show_names_a_full_queue_as_the_reason_to_wait(own_daemon):
    said = own_daemon.bgctl("queue", "set", "mail", "--slots", "1").stderr
    assert said == "bgctl: queue mail has 1 slot\n"
    own_daemon.submit("-q", "mail", "sleep", "60")
    job_id = own_daemon.submit("-q", "mail", "true")

    assert "  waits      for a slot of queue mail: 1 of 1 is taken\n" in own_daemon.bgctl("show").stdout
    own_daemon.bgctl("queue", "set", "mail", "--slots", "unlimited")
    own_daemon.bgctl("wait", job_id)
    own_daemon.bgctl("slots", "1")
    second = own_daemon.submit("true")
    assert "  waits      for the only slot: it is taken\n" in own_daemon.bgctl("show", second).stdout
    assert own_daemon.bgctl("wait", job_id).returncode == 0


def test_a_submit_says_that_there_are_fewer_slots_than_it_needs(own_daemon):
    own_daemon.bgctl("slots", "2")
    own_daemon.bgctl("queue", "set", "mail", "--slots", "3")

    def said(*words):
        return own_daemon.bgctl(*words).stderr.removeprefix("bgctl: ").removesuffix("\n")

    assert said("submit", "--slots", "20", "--wait", "true") == (
        "the daemon has 2 slots: a job that takes 20 runs only while no other one does;"
        " `bgctl slots 20` changes that"
    )
    assert said("run", "-q", "mail", "--slots", "4", "true") == (
        "queue mail has 3 slots: a job that takes 4 runs only while no other one does;"
        " `bgctl queue set mail --slots 4` changes that"
    )
    assert said("submit", "-q", "mail", "--slots", "3", "true") == ""
    many = ["batch", "-j", "5", "--slots", "2", "--wait", "--", "true", ":::", "a", "b"]
    assert said(*many) == "the daemon has 2 slots: only 1 at once; `bgctl slots 10` changes that"
    assert said("batch", "-j", "2", "--", "true", ":::", "a") == ""


def test_queue_remove_resets_a_queue(own_daemon):
    own_daemon.bgctl("queue", "set", "mail", "--slots", "1")

    assert own_daemon.bgctl("queue", "remove", "mail").returncode == 0
    assert own_daemon.bgctl("queue", "remove", "mail").returncode == 1
    [queue] = json.loads(own_daemon.bgctl("queue", "--json").stdout)["queues"]
    assert queue["name"] == "default"


def test_list_on_a_terminal_names_the_pause_that_stops_its_jobs(daemon, terminal):
    daemon.bgctl("queue", "set", "night", "--slots", "9")
    daemon.bgctl("pause", "night")
    job_id = daemon.submit("--queue", "night", "true")

    assert "bgctl: paused: night: `bgctl resume QUEUE` starts its jobs again" in seen(terminal("list"))
    daemon.bgctl("pause")
    assert "bgctl: all queues are paused together: `bgctl resume` undoes that" in seen(terminal("list"))
    assert daemon.bgctl("list").stderr == ""

    daemon.bgctl("resume")
    daemon.bgctl("resume", "night")
    daemon.bgctl("wait", job_id)


def test_following_a_waiting_job_on_a_terminal_says_why_it_waits(daemon, terminal):
    job_id = daemon.submit("--delay", "1h", "true")
    child = terminal("logs", "-f", job_id)

    child.expect(rf"bgctl: job {job_id} is scheduled: it waits until [^\r]* \(in (1h|59m\d+s)\)\r\n")

    daemon.bgctl("cancel", job_id)
    assert "was never started" in seen(child)


def test_run_on_a_terminal_names_the_pause_it_waits_for(daemon, terminal):
    daemon.bgctl("queue", "set", "night", "--slots", "9")
    daemon.bgctl("pause", "night")
    child = terminal("run", "-q", "night", "echo", "hallo")
    child.expect(r"bgctl: job \d+ is queued: it waits until `bgctl resume night`: its queue is paused\r\n")

    daemon.bgctl("resume", "night")

    assert seen(child).strip() == "hallo"
