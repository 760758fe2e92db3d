"""Exit codes of bgctl: its own, and those that pass on how a job ended."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = ["sh", "-c"]

ENDS = [
    (["true"], 0),
    ([*SCRIPT, "exit 3"], 3),
    ([*SCRIPT, "exit 75"], 75),
    ([*SCRIPT, "kill -9 $$"], 137),
    ([*SCRIPT, "kill -TERM $$"], 143),
    (["--timeout", "0.2", "sleep", "60"], 124),
    (["--no-check", "no-such-program"], 127),
    (["--no-check", "./no-interpreter"], 127),
    (["--no-check", "./not-executable"], 126),
    (["--no-check", "/"], 126),
    (["--no-check", "--cwd", "/no/such/folder", "true"], 125),
]


@pytest.fixture(scope="module")
def folder(daemon):
    (daemon.folder / "not-executable").write_text("#!/bin/sh\n")
    script = daemon.folder / "no-interpreter"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    return daemon.folder


@pytest.mark.parametrize(("arguments", "code"), ENDS, ids=[" ".join(arguments) for arguments, _ in ENDS])
def test_run_exits_with_the_code_of_the_job(daemon, folder, arguments, code):
    assert daemon.bgctl("run", *arguments, cwd=folder).returncode == code


def test_submit_wait_and_wait_exit_with_the_code_of_the_job(daemon):
    waited = daemon.bgctl("submit", "--wait", *SCRIPT, "exit 4")
    job_id = waited.stdout.strip()

    assert waited.returncode == 4
    assert daemon.bgctl("wait", job_id).returncode == 4


def test_wait_for_several_is_0_only_if_all_succeeded(daemon):
    good, bad = (daemon.bgctl("submit", *SCRIPT, f"exit {code}").stdout.strip() for code in (0, 9))

    assert daemon.bgctl("wait", good, bad).returncode == 1
    assert daemon.bgctl("wait", good, good).returncode == 0


def test_a_cancelled_job_is_143(daemon):
    job_id = daemon.bgctl("submit", "--delay", "1h", "true").stdout.strip()
    daemon.bgctl("cancel", job_id)

    waited = daemon.bgctl("wait", job_id)

    assert (waited.returncode, waited.stdout) == (143, f"{job_id} cancelled\n")


def test_a_timeout_of_wait_is_75(daemon):
    job_id = daemon.bgctl("submit", "--delay", "1h", "true").stdout.strip()

    waited = daemon.bgctl("wait", "--timeout", "50ms", job_id)

    assert waited.returncode == 75
    assert f"job {job_id} has not finished within 0.05 s" in waited.stderr


def test_wait_any_returns_after_the_first_job(daemon):
    slow = daemon.bgctl("submit", "--delay", "1h", "true").stdout.strip()
    quick = daemon.bgctl("submit", "true").stdout.strip()

    waited = daemon.bgctl("wait", "--any", slow, quick)

    assert (waited.returncode, waited.stdout) == (0, f"{quick} succeeded\n")


@pytest.mark.parametrize("verb", ["show", "logs", "wait", "cancel", "retry"])
def test_a_job_that_does_not_exist_is_66(daemon, verb):
    done = daemon.bgctl(verb, "999999")

    assert (done.returncode, done.stdout) == (66, "")
    assert "no job 999999" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["call", "app.services:Example.method"],
        ["call", "os:system"],  # a module that bgctl has imported, without the argument that it needs
        ["batch", "--then", "os:system", "--", "true", ":::", "a"],
        ["schedule", "add", "forbidden", "@daily", "--target", "os:system"],
    ],
)
def test_a_class_that_is_not_allowed_is_77(daemon, words):
    done = daemon.bgctl(*words)

    assert done.returncode == 77
    assert "allowed_classes" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-program"], "no program named 'no-such-program'"),
        (["./no/such/file"], "/no/such/file does not exist"),
        (["/"], "is a folder, not a program"),
        (["echo hi | wc"], "to run it in a shell, type `bgctl submit --shell 'echo hi | wc'`"),
        (["-e", "A=1", "--cwd", "/usr", "./no-such"], "/usr/no-such does not exist"),
        (
            ["--cwd", "/no/such", "true"],
            "folder /no/such does not exist; --no-check queues it anyway",
        ),
        (
            ["-n", "a\tb", "true"],
            "names, keys, tags and words for Slurm must be printable text",
        ),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_it_is_queued(daemon, arguments, message):
    before = json.loads(daemon.bgctl("list", "--json", "--limit", "1").stdout)

    done = daemon.bgctl("submit", *arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert daemon.env["PATH"] not in done.stderr
    assert done.stderr.count("\n") == 1
    after = json.loads(daemon.bgctl("list", "--json", "--limit", "1").stdout)
    assert [job["id"] for job in before] == [job["id"] for job in after]


def test_modes_of_shutdown_exclude_each_other(daemon):
    done = daemon.bgctl("shutdown", "--wait", "--cancel")

    assert (done.returncode, done.stderr) == (
        2,
        "bgctl: --wait, --requeue and --cancel cannot be combined\n",
    )
    assert daemon.bgctl("info").returncode == 0


@pytest.mark.parametrize("text", ["[NaN]", "[Infinity]", "[" * 100_000])
def test_arguments_that_are_not_json_are_a_usage_error(daemon, text):
    done = daemon.bgctl("call", "app:f", "--args", text)

    assert done.returncode == 2
    assert "--args is not valid JSON" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_keep_a_job_from_running(daemon, tmp_path, closed):
    ran = tmp_path / "ran"
    words = [sys.executable, "-m", "bgctl", "run", "touch", str(ran)]

    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words], env=daemon.env, check=False, capture_output=True
    )

    assert (done.returncode, ran.exists()) == (0, True)
    assert b"Traceback" not in done.stderr


def test_a_failed_class_job_shows_its_exception(own_daemon):
    (own_daemon.folder / "quarrel.py").write_text(
        "def f():\n    raise ValueError('no \\x1b[31mluck\\n' + 'x' * 1000)\n"
    )
    rest = f'[security]\nallowed_classes = ["quarrel.*"]\n[python]\npath = ["{own_daemon.folder}"]\n'
    own_daemon.configure(rest)
    own_daemon.stop()
    own_daemon.start()

    done = own_daemon.bgctl("call", "--wait", "--retries", "0", "quarrel:f")

    assert done.returncode == 1
    assert "failed (ValueError: no \u241b[31mluck\u240axxx" in done.stderr
    assert done.stderr.endswith("xxx...)\n")

    with own_daemon.client() as client:
        missing = str(client.call("quarrel:g", retries=0).wait(20).id)
    assert own_daemon.bgctl("show", missing).stdout.count("has no 'g'") == 1  # no traceback repeats it
