"""Batches by their names: counts, what follows, and the verbs of batches."""

from __future__ import annotations

import json

import pytest

from bgctl import exit_codes


def shown(daemon, batch):
    return json.loads(daemon.bgctl("batch", "show", batch, "--json").stdout)


def test_a_batch_starts_what_follows_and_shows_it(daemon):
    words = ["--then", "touch then", "--catch", "echo 'not now'", "--finally", "sh -c 'exit 3'"]
    daemon.bgctl("batch", "--name", "pair", *words, "--", "true", ":::", "a", "b")

    done = daemon.bgctl("batch", "wait", "pair")

    assert done.returncode == 0
    found = shown(daemon, "pair")
    assert (found["total"], found["succeeded"], found["failed"]) == (2, 2, 0)
    assert found["finished_at"] is not None
    assert found["then"] == {"argv": ["touch", "then"], "target": None, "job": found["then"]["job"]}
    assert found["catch"] == {"argv": ["echo", "not now"], "target": None, "job": None}
    job = json.loads(daemon.bgctl("show", str(found["finally"]["job"]), "--json").stdout)
    assert job["cause"] == {**job["cause"], "id": found["id"], "event": "finally", "of_batch": True}
    assert f"then       touch then (job {found['then']['job']})\n" in done.stdout
    assert "catch      echo 'not now' (not started)\n" in done.stdout
    listed = json.loads(daemon.bgctl("batch", "list", "--json").stdout)
    assert listed[0] == found
    assert daemon.bgctl("batch", "list").stdout.split()[:3] == ["BATCH", "NAME", "TOTAL"]


def test_a_batch_that_is_retried_names_the_jobs_that_come_along(daemon):
    daemon.bgctl("batch", "--name", "piped", "--hold", "--", "false", ":::", "a", read="")
    [first] = json.loads(daemon.bgctl("--json", "list", "--name", "piped").stdout)
    then = daemon.submit("--after", str(first["id"]), "true")
    daemon.bgctl("release", str(first["id"]))
    daemon.bgctl("wait", then)

    again = daemon.bgctl("batch", "retry", "piped").stderr
    assert again.endswith(f" queued again; also {then}, cancelled because of it\n")
    daemon.bgctl("wait", then)
    alone = daemon.bgctl("batch", "retry", "piped", "--alone").stderr
    assert alone.endswith(" queued again\n")


def test_a_batch_is_cancelled_and_its_failed_jobs_run_again(daemon):
    program = ["--", "sh", "-c", "test -e {}"]
    daemon.bgctl("batch", "--name", "again", *program, ":::", "there", read="")
    assert daemon.bgctl("batch", "wait", "again").returncode == exit_codes.FAILED
    (daemon.folder / "there").touch()

    said = daemon.bgctl("batch", "retry", "again").stderr

    assert said.startswith("bgctl: 1 job of batch ")
    assert daemon.bgctl("batch", "wait", str(shown(daemon, "again")["id"])).returncode == 0
    daemon.bgctl("batch", "--name", "held", "--hold", "--finally", "true", "--", "true", ":::", "a", "b")
    number = shown(daemon, "held")["id"]
    late = daemon.bgctl("batch", "wait", "held", "--timeout", "10ms")
    assert (late.returncode, late.stderr) == (
        exit_codes.TRY_LATER,
        f"bgctl: batch {number} has not ended within 0.01 s; `bgctl batch wait {number}` waits longer\n",
    )
    assert "2 cancelled" in daemon.bgctl("batch", "cancel", "held").stdout
    assert shown(daemon, "held")["finally"]["job"] is not None
    again = daemon.bgctl("batch", "cancel", "held")
    assert (again.returncode, again.stderr.endswith(" has ended: there is nothing to cancel\n")) == (0, True)
    again = daemon.bgctl("batch", "retry", "held")
    assert (
        again.returncode,
        again.stderr.endswith(" has no failed job: there is nothing to run again\n"),
    ) == (0, True)
    wrong = daemon.bgctl("list", "--filter", "batch:held").stderr
    assert "batch: 'held' must be the id of a batch, as `bgctl batch show NAME` prints it" in wrong


def test_a_batch_that_was_interrupted_stays_open_until_it_is_resumed(daemon):
    lines = ["batch", "--name", "halves", "--joblog", "halves.log", "--then", "true", "--ndjson"]
    good = '{"argv": ["true"]}\n'
    assert daemon.bgctl(*lines, read=good + "{\n").returncode != 0
    assert "not yet: more jobs may come" in daemon.bgctl("batch", "show", "halves").stdout
    number = shown(daemon, "halves")["id"]
    waiting = daemon.bgctl("batch", "wait", "halves", "--timeout", "10ms")
    assert waiting.stderr.startswith(
        f"bgctl: batch {number} takes more jobs: it ends after the last one (if its `bgctl batch` was"
        f" interrupted, --resume queues the rest) or by `bgctl batch cancel {number}`\n"
    )

    daemon.bgctl(*lines, "--resume", read=good + good)

    found = shown(daemon, "halves")
    assert (found["total"], found["succeeded"]) == (2, 2)
    assert found["then"]["job"] is not None


def test_a_target_that_follows_is_checked_like_a_job(daemon):
    done = daemon.bgctl("batch", "--catch", "app.jobs:report", "--", "true", ":::", "a")

    assert (done.returncode, done.stdout) == (exit_codes.NOT_ALLOWED, "")
    assert "app.jobs:report" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["call", "click:echo", "--args", "[1, 2, 3, 4, 5, 6]"], ""),
        (["call", "click:missing"], ""),
        (["batch", "--then", "click:style", "--", "true", ":::", "a"], ""),
        (["batch", "--ndjson"], '{"target": "click:missing"}\n'),
        (["schedule", "add", "styled", "@daily", "--target", "click:style"], ""),
    ],
)
def test_only_the_daemon_judges_a_target_whose_module_bgctl_has_imported_for_itself(daemon, arguments, lines):
    done = daemon.bgctl(*arguments, read=lines)

    assert done.returncode == exit_codes.NOT_ALLOWED
    assert "is not in [security] allowed_classes" in done.stderr


def test_what_follows_a_batch_runs_in_the_folder_of_the_caller_and_is_looked_for_there(daemon, tmp_path):
    for name in ("here/report", "there/count"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    words = ["--cwd", str(tmp_path / "there"), "--finally"]

    done = daemon.bgctl("batch", *words, "./report", "--", "./count", ":::", "a", cwd=tmp_path / "here")
    assert (done.returncode, done.stderr) == (0, "")

    done = daemon.bgctl("batch", *words, "./count", "--", "./count", ":::", "a", cwd=tmp_path / "here")
    assert f"finally: {tmp_path}/here/count does not exist; --no-check queues the batch anyway" in done.stderr


@pytest.mark.parametrize("batch", ["9999", "nowhere", "0", "9" * 30])
def test_a_batch_that_does_not_exist_has_the_exit_code_for_it(daemon, batch):
    done = daemon.bgctl("batch", "show", batch)

    assert done.returncode == exit_codes.NO_SUCH_JOB
    assert "no batch" in done.stderr
