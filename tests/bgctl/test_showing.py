"""The verb show: JSON and text."""

from __future__ import annotations

import json
import re

from tests.support import serving, wait_until


def test_show_prints_the_other_jobs_if_one_is_missing(own_daemon):
    ids = [own_daemon.submit("true") for _ in range(3)]
    own_daemon.bgctl("wait", *ids)
    own_daemon.bgctl("remove", ids[0])

    shown = own_daemon.bgctl("show", f"{ids[0]}-{ids[2]}")

    assert shown.returncode == 66
    assert f"no job {ids[0]}" in shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("Job ")] == [
        f"{job_id}:" for job_id in ids[1:]
    ]


def test_json_of_a_job_has_the_keys_that_scripts_rely_on(daemon):
    job_id = daemon.finished_job("sh", "-c", "exit 3")

    job = daemon.shown(job_id)

    keys = "id kind argv target args kwargs cwd user state outcome exit_code signal queue priority name tags"
    keys += " retries attempt created_at due_at started_at finished_at timeout delay result attempts"
    assert set(keys.split()) <= job.keys()
    assert (job["state"], job["outcome"], job["exit_code"], job["result"]) == ("failed", "exit", 3, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(job["created_at"]))
    [attempt] = job["attempts"]
    keys = "attempt outcome exit_code signal started_at finished_at user_seconds system_seconds max_rss_bytes"
    assert set(f"{keys} error log_bytes log_path pid".split()) <= attempt.keys()


def test_show_prints_text_for_people(daemon):
    job_id = daemon.finished_job("-n", "odd", "sh", "-c", "exit 3")

    sheet = daemon.bgctl("show", job_id).stdout

    assert sheet.startswith(f"Job {job_id}: failed (3)\n  command    sh -c 'exit 3'\n  name       odd\n")
    assert "\nAttempt 1: exit code 3\n" in sheet


def test_show_names_the_jobs_that_a_job_was_to_wait_for_once_it_no_longer_waits(daemon):
    first = daemon.submit("--hold", "false")
    second = daemon.submit("--after", first, "true")
    while_blocked = daemon.bgctl("show", second).stdout
    daemon.bgctl("release", first)
    daemon.bgctl("wait", second)

    assert f"waits      for job {first}" in while_blocked
    assert "after " not in while_blocked
    assert f"after      job {first}" in daemon.bgctl("show", second).stdout


def test_show_prints_durations_as_they_were_given(daemon):
    job_id = daemon.submit("--hold", "--retries", "2", "--retry-delay", "5s", "--timeout", "8s", "true")

    sheet = daemon.bgctl("show", job_id).stdout
    assert "\n  retries    2, 5s apart, jitter 10%\n" in sheet
    assert "\n  timeout    8s\n" in sheet


def test_show_says_why_an_attempt_was_not_started(daemon):
    job_id = daemon.finished_job("--no-check", "no-such-program")

    sheet = daemon.bgctl("show", job_id).stdout
    assert "\n  error      program not found: no-such-program" in sheet
    assert "\n  log " not in sheet


def test_show_names_the_log_only_if_the_attempt_wrote_output(daemon):
    silent, talking = daemon.finished_job("true"), daemon.finished_job("echo", "hallo")

    assert "\n  log " not in daemon.bgctl("show", silent).stdout
    assert re.search(r"\n  log +/.* \(6 bytes written\)\n", daemon.bgctl("show", talking).stdout)


def test_show_names_the_signal_that_ended_an_attempt(daemon):
    killed = daemon.finished_job("sh", "-c", "kill -USR1 $$")
    late = daemon.finished_job("--timeout", "0.2", "sleep", "1000")

    assert "\nAttempt 1: ended by SIGUSR1\n" in daemon.bgctl("show", killed).stdout
    assert "\nAttempt 1: timeout (SIGTERM)\n" in daemon.bgctl("show", late).stdout


def test_show_begins_with_the_first_job_that_there_is(daemon):
    job_id = daemon.finished_job("true")

    done = daemon.bgctl("show", "999", job_id)

    assert done.stdout.startswith(f"Job {job_id}: ")
    assert "no job 999" in done.stderr


def test_show_names_the_processes_that_were_left_behind(daemon):
    job_id = daemon.finished_job("sh", "-c", "sleep 100 & exit 0")

    assert re.search(r"\n  killed     leftover sleep \(pid \d+\)\n", daemon.bgctl("show", job_id).stdout)


def test_a_traceback_that_attempts_share_is_shown_once():
    files = {"jobs.py": "def fail():\n    raise ValueError('no luck')\n"}
    configuration = '[security]\nallowed_classes = ["jobs.*"]\n[python]\npath = ["{folder}"]\n'
    with serving(configuration, files) as daemon:
        called = daemon.bgctl("call", "--wait", "--retries", "1", "--retry-delay", "0", "jobs:fail")
        job_id = called.stdout.strip()

        sheet = daemon.bgctl("show", job_id).stdout

        assert sheet.startswith(f"Job {job_id}: failed (ValueError)\n")
        assert sheet.count("Traceback") == 1
        assert sheet.count("ValueError: no luck") == 2
        assert "  error      ValueError: no luck\n\nAttempt 2: error\n" in sheet


def test_explain_names_the_holders_and_without_an_id_explains_all_that_wait(own_daemon):
    assert own_daemon.bgctl("explain").stderr == "bgctl: no job waits\n"
    own_daemon.bgctl("queue", "set", "mail", "--slots", "1")
    first = own_daemon.submit("-q", "mail", "sleep", "600")
    waiting = [
        own_daemon.submit("-q", "mail", "-n", "nightly", "true"),
        own_daemon.submit("--hold", "echo", "x" * 60),
    ]
    wait_until(lambda: own_daemon.shown(first)["state"] == "running")
    later = own_daemon.submit("-q", "mail", "--delay", "20h", "true")
    due, when, start = own_daemon.bgctl("explain", later).stdout.splitlines()
    assert (due, when.startswith("  until "), start) == (
        f"Job {later} (true): scheduled, and waits",
        True,
        when.replace("  until ", "Likely start: "),
    )
    own_daemon.bgctl("cancel", later)
    assert own_daemon.bgctl("explain", later).stdout == f"Job {later} (true): cancelled before it started\n"

    text = own_daemon.bgctl("explain").stdout

    assert [line for line in text.splitlines() if line.startswith("Job ")] == [
        f"Job {waiting[0]} (nightly): queued, and waits",
        f"Job {waiting[1]} (echo {'x' * 45}...): held, and waits",
    ]
    assert f"  for a slot of queue mail: 1 of 1 is taken\n    held by job {first}\n" in text
    documents = map(json.loads, own_daemon.bgctl("explain", "--json").stdout.splitlines())
    assert [(each["id"], each["reasons"][0].get("holders")) for each in documents] == [
        (int(waiting[0]), [int(first)]),
        (int(waiting[1]), []),
    ]
    own_daemon.bgctl("batch", "--hold", read="true\n" * 25)
    many = own_daemon.bgctl("explain")
    assert many.stderr.startswith("bgctl: the newest 20 that wait; `bgctl list")
    assert many.stdout.count("\nJob ") == 19
