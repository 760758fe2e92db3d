"""The verb logs: which output it prints, and how."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support import Daemon, wait_until


@pytest.fixture(scope="module")
def short_logs():
    """Run a daemon with a limit of 1000 bytes per log, and a job that wrote more."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(Path(folder))
        daemon.configure("[logs]\nmax_bytes = 1000\n")
        daemon.start()
        assert daemon.bgctl("run", "seq", "10000", "11000").returncode == 0
        yield daemon
        daemon.stop()


def test_the_default_is_the_latest_job(daemon):
    job_id = daemon.finished_job("echo", "newest")

    assert daemon.bgctl("logs").stdout == "newest\n"
    assert daemon.bgctl("show").stdout.startswith(f"Job {job_id}:")
    assert daemon.bgctl("wait", "last").stdout == f"{job_id} succeeded\n"


def test_logs_prints_the_last_lines_of_an_attempt(daemon):
    script = 'for n in 1 2 3; do echo "$BGD_ATTEMPT.$n"; done; exit 1'
    job_id = daemon.finished_job("--retries", "1", "--retry-delay", "0", "sh", "-c", script)

    assert daemon.bgctl("logs", "-n", "2", job_id).stdout == "2.2\n2.3\n"
    assert daemon.bgctl("logs", "--attempt", "1", job_id).stdout == "1.1\n1.2\n1.3\n"
    everything = daemon.bgctl("logs", "--all", job_id)
    assert everything.stdout == "1.1\n1.2\n1.3\n2.1\n2.2\n2.3\n"
    assert everything.stderr == f"==> job {job_id}, attempt 1 <==\n==> job {job_id}, attempt 2 <==\n"
    assert daemon.bgctl("logs", "--attempt", "3", job_id).returncode == 1


def test_since_shows_what_was_written_since_then_of_each_attempt(daemon):
    script = 'test $BGD_ATTEMPT = 2 || { echo early; sleep 2; }; echo "$BGD_ATTEMPT late"; exit 1'
    job_id = daemon.finished_job("--retries", "1", "--retry-delay", "0", "sh", "-c", script)
    first, _ = daemon.shown(job_id)["attempts"]
    since = datetime.fromisoformat(first["finished_at"]) - timedelta(seconds=1)

    def logs(*options):
        return daemon.bgctl("logs", "--since", since.isoformat(), *options, job_id)

    assert logs("--attempt", "1").stdout == "1 late\n"
    assert logs("--all").stdout == logs("-f", "--attempt", "1").stdout == "1 late\n2 late\n"
    assert logs("--all", "-n", "1").stdout == "1 late\n2 late\n"
    assert logs("--attempt", "1", "-n", "1").stdout == "1 late\n"
    nothing = daemon.bgctl("logs", "--since", "0s", job_id)
    assert (nothing.stdout, nothing.stderr) == ("", f"bgctl: job {job_id} wrote nothing since then\n")


def test_logs_says_why_there_is_no_output(daemon):
    not_started = daemon.finished_job("--no-check", "--cwd", "/no/such", "true")
    waiting = daemon.submit("--delay", "1h", "true")
    silent = daemon.finished_job("true")
    cancelled = daemon.submit("--delay", "1h", "true")
    daemon.bgctl("cancel", cancelled)

    for job_id, words in [
        (not_started, "was not started: no such directory: /no/such"),
        (waiting, "is scheduled: no output yet"),
        (silent, "wrote nothing"),
        (cancelled, "was never started"),
    ]:
        done = daemon.bgctl("logs", job_id)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"bgctl: job {job_id} {words}\n")
        assert daemon.bgctl("logs", "--json", job_id).stderr == ""


def test_logs_of_zero_lines_prints_no_message(daemon):
    job_id = daemon.finished_job("echo", "hallo")

    assert daemon.bgctl("logs", "-n", "0", job_id).stderr == ""


def test_logs_timestamps_prefix_each_line_once(daemon):
    job_id = daemon.finished_job("sh", "-c", "printf 'one\\ntw'; printf 'o\\n'")

    lines = daemon.bgctl("logs", "--timestamps", job_id).stdout.splitlines()

    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(f"{stamp} one", lines[0])
    assert re.fullmatch(f"{stamp} two", lines[1])


def test_logs_json_contains_the_time_of_output(daemon):
    job_id = daemon.finished_job("echo", "hallo")

    [piece] = [json.loads(line) for line in daemon.bgctl("logs", "--json", job_id).stdout.splitlines()]
    _, of_run, _ = map(json.loads, daemon.bgctl("--json", "run", "echo", "hallo").stdout.splitlines())

    assert (piece["job"], piece["attempt"], piece["data"]) == (int(job_id), 1, "hallo\n")
    assert piece["at"].endswith("Z")
    assert of_run["at"].endswith("Z")


def test_logs_path_is_the_file_itself(daemon):
    job_id = daemon.finished_job("echo", "in the file")

    path = daemon.bgctl("logs", "--path", job_id).stdout.strip()

    assert Path(path).read_text() == "in the file\n"


def test_logs_path_never_names_a_missing_file(daemon):
    silent, removed = daemon.finished_job("true"), daemon.finished_job("echo", "word")
    running = daemon.submit("sleep", "60")
    wait_until(lambda: daemon.shown(running)["state"] == "running")
    path = Path(daemon.bgctl("logs", "--path", removed).stdout.strip())
    path.unlink()

    of_silent = daemon.bgctl("logs", "--path", silent)
    of_removed = daemon.bgctl("logs", "--path", "--json", removed)
    of_running = daemon.bgctl("logs", "--path", running)

    assert (of_silent.returncode, of_silent.stdout) == (1, "")
    assert of_silent.stderr == f"bgctl: job {silent} wrote nothing: it has no log\n"
    assert (of_removed.returncode, of_removed.stdout) == (1, "")
    assert of_removed.stderr == f"bgctl: job {removed} wrote 5 bytes, but {path} does not exist\n"
    assert (of_running.returncode, of_running.stdout) == (0, f"{path.with_name(running)}.1.log\n")
    assert "its first output creates the file" in of_running.stderr
    daemon.bgctl("cancel", running)


def test_a_gap_in_a_log_ends_the_line(short_logs):
    done = short_logs.bgctl("logs")

    lines = done.stdout.splitlines()
    assert lines[0] == "10000"
    assert lines[-1] == "11000"
    assert all(len(line) <= 5 for line in lines)
    assert "bytes left out" in done.stderr


def test_bytes_after_a_gap_have_a_timestamp(short_logs):
    lines = short_logs.bgctl("logs", "--timestamps").stdout.splitlines()

    assert all(len(line.split(" ")) == 2 and len(line.split(" ")[1]) <= 5 for line in lines)


def test_raw_logs_print_the_exact_bytes_around_a_gap(short_logs):
    raw = short_logs.bgctl("logs", "--raw").stdout

    assert len(raw) <= 1000
    assert raw.replace("\n", "") == short_logs.bgctl("logs").stdout.replace("\n", "")


def test_a_line_that_is_rewritten_is_shown_as_it_last_was(daemon):
    script = r"printf '10%%\r20%%\r30%%\r\ndone\r\n'"
    job_id = daemon.finished_job("sh", "-c", script)

    def bytes_of(*arguments: str) -> bytes:
        return subprocess.run(
            [sys.executable, "-m", "bgctl", *arguments], env=daemon.env, capture_output=True, check=True
        ).stdout

    assert bytes_of("logs", job_id) == bytes_of("run", "sh", "-c", script) == b"30%\r\ndone\r\n"
    assert bytes_of("logs", "--raw", job_id) == b"10%\r20%\r30%\r\ndone\r\n"
    assert bytes_of("run", "--raw", "printf", "a\rb") == b"a\rb"
    assert json.loads(bytes_of("logs", "--json", job_id))["data"].startswith("10%\r20%")
    assert [len(line.split()) for line in bytes_of("logs", "--timestamps", job_id).splitlines()] == [2, 2]
