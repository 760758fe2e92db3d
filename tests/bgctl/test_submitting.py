"""The verbs submit and run: ids, environment, folders and output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import click
import pytest

from bgctl.cli import cli
from bgctl.submitting import GROUPS


def test_submit_prints_only_the_id(daemon):
    done = daemon.bgctl("submit", "true")

    assert re.fullmatch(r"[1-9]\d*\n", done.stdout)
    assert done.stderr == ""


def test_submit_json_prints_id_and_created(daemon):
    done = json.loads(daemon.bgctl("--json", "submit", "true").stdout)

    assert done == {"id": done["id"], "created": True}


def test_options_end_at_the_program(daemon):
    job_id = daemon.submit("-p", "5", "echo", "-p", "7", "--json", "--", "-x")

    job = daemon.shown(job_id)

    assert job["argv"] == ["echo", "-p", "7", "--json", "--", "-x"]
    assert job["priority"] == 5


def test_every_option_reaches_the_job(daemon):
    options = "-p 7 -q mail -n nightly -t a -t b --retries 2 --retry-delay 2s --backoff 3 --max-delay 1m"
    options += " --jitter 0.2 --rerun yes --timeout 1h --delay 2h --cwd /"
    job_id = daemon.submit(*options.split(), "true")

    job = daemon.shown(job_id)

    expected = {"priority": 7, "queue": "mail", "name": "nightly", "tags": ["a", "b"], "retries": 2}
    expected |= {"retry_delay": 2.0, "backoff": 3.0, "max_delay": 60.0, "jitter": 0.2, "rerun": True}
    expected |= {"timeout": 3600.0, "delay": 7200.0, "cwd": "/", "state": "scheduled", "kind": "command"}
    assert {key: job[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "1 2 "),
        (["-e", "B=9", "-e", "C=3=3"], "1 9 3=3"),
        (["--env-pass", "none"], "  "),
        (["--env-pass", "B"], " 2 "),
    ],
)
def test_a_job_gets_the_requested_environment(daemon, options, expected):
    done = daemon.bgctl("run", *options, "/bin/sh", "-c", 'echo "$A $B $C"', env={"A": "1", "B": "2"})

    assert done.stdout == expected + "\n"


def test_a_variable_that_is_not_utf8_is_named_and_not_passed_on(daemon):
    done = daemon.bgctl("submit", "true", env={"CAFE": os.fsdecode(b"caf\xe9")})

    assert done.returncode == 0
    assert done.stderr == "bgctl: not passed on, because not UTF-8: CAFE\n"


def test_a_job_runs_in_the_callers_folder_with_its_umask(daemon, tmp_path):
    command = [sys.executable, "-m", "bgctl", "run", "sh", "-c", "pwd; umask"]

    done = subprocess.run(
        command, env=daemon.env, cwd=tmp_path, umask=0o027, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{tmp_path}\n0027\n"


def test_a_job_from_a_deleted_folder_needs_another_folder(daemon, tmp_path):
    script = f'mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m bgctl run "$@" pwd'

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", script, "sh", *options]
        return subprocess.run(
            command, env=daemon.env, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run("--cwd", "/usr").stdout == "/usr\n"
    refused = run()
    assert refused.returncode == 1
    assert refused.stderr == "bgctl: the working directory is gone: change to another, or give cwd\n"


def test_run_prints_both_streams_of_the_job_in_order_byte_for_byte(daemon):
    command = [
        sys.executable,
        "-m",
        "bgctl",
        "run",
        "sh",
        "-c",
        r"echo a; echo b >&2; printf '\033[2J\377\r'",
    ]

    done = subprocess.run(command, env=daemon.env, capture_output=True, check=True)

    assert done.stdout == b"a\nb\n\x1b[2J\xff\r"


def test_run_follows_all_attempts(daemon):
    script = 'echo "attempt $BGD_ATTEMPT"; [ "$BGD_ATTEMPT" = 3 ]'

    done = daemon.bgctl("run", "--retries", "4", "--retry-delay", "0", "sh", "-c", script)

    assert (done.returncode, done.stdout) == (0, "attempt 1\nattempt 2\nattempt 3\n")
    assert re.fullmatch(r"(==> job \d+, attempt [23] <==\n){2}", done.stderr)


def test_run_json_prints_id_output_and_end(daemon):
    done = daemon.bgctl("run", "--json", "sh", "-c", "echo hallo; exit 3")

    first, *output, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert first == {"id": last["id"], "created": True}
    assert "".join(piece["data"] for piece in output) == "hallo\n"
    assert (last["outcome"], last["exit_code"], done.returncode) == ("exit", 3, 3)


def test_submit_in_a_script_says_that_a_live_job_has_the_key(own_daemon):
    first = own_daemon.bgctl("submit", "--key", "nightly", "--hold", "true")
    second = own_daemon.bgctl("submit", "--key", "nightly", "true")

    assert second.stdout == first.stdout
    assert "already has this key: nothing was queued" in second.stderr

    own_daemon.submit("--key", "site", "--debounce", "1h", "true")
    newer = own_daemon.bgctl("submit", "--key", "site", "--debounce", "1h", "false")
    assert "already has this key: if it has not started, it will run this command instead" in newer.stderr


@pytest.mark.parametrize("verb", ["submit", "call", "run", "batch"])
def test_help_groups_all_options_and_each_takes_one_line(verb):
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    context = click.Context(command, info_name=verb, max_content_width=80, terminal_width=80)
    text = command.get_help(context)

    groups = " ".join(GROUPS.values()).split()
    assert len(set(groups)) == len(groups)
    assert re.search(r"^Other:\n  (-h, )?--help  .*\n\n", text, re.MULTILINE)
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if isinstance(param, click.Option) and record is not None:
            line = rf"^  {re.escape(record[0])} +{re.escape(record[1])}$"
            assert re.search(line, text, re.MULTILINE), record


@pytest.mark.parametrize("command", [["cat"], ["wc", "-w"]])
def test_run_says_that_a_filter_did_not_get_what_was_piped_in(daemon, command):
    done = daemon.bgctl("run", *command, read="x\n")

    hint = f"bgctl: the job did not get what was piped in: `bgctl run -i {' '.join(command)}` passes it on\n"
    assert done.stderr == hint


@pytest.mark.parametrize("arguments", [["-i", "cat"], ["--stdin", "-", "cat"], ["echo", "x"]])
def test_run_says_nothing_of_input_that_the_job_got_or_does_not_want(daemon, arguments):
    assert daemon.bgctl("run", *arguments, read="x\n").stderr == ""
    assert daemon.bgctl("run", "cat", read="").stderr == ""


def test_a_loop_that_reads_a_pipe_keeps_its_input(daemon):
    loop = f"printf 'a\\nb\\n' | while read x; do {sys.executable} -m bgctl run echo $x; done"
    done = subprocess.run(
        ["sh", "-c", loop], env=daemon.env, cwd=daemon.folder, capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("a\nb\n", "")


def test_run_passes_stdin_on_only_if_asked_to(daemon):
    assert daemon.bgctl("run", "-i", "cat", read="x\n").stdout == "x\n"
    assert daemon.bgctl("run", "cat", read="x\n").stdout == ""
    (daemon.folder / "input").write_text("from a file\n")
    assert daemon.bgctl("run", "--stdin", "input", "cat", read="x\n").stdout == "from a file\n"
