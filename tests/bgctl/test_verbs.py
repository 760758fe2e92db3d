"""What the verbs do and print where no person looks: plain, stable, and JSON on demand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bgctl.listing import HEADINGS
from tests.support import Daemon, wait_until


def run_job(daemon: Daemon, *arguments: str) -> str:
    job_id = daemon.submit(*arguments)
    daemon.bgctl("wait", job_id)
    return job_id


def test_submit_prints_the_id_alone(daemon):
    done = daemon.bgctl("submit", "true")

    assert re.fullmatch(r"[1-9]\d*\n", done.stdout)
    assert done.stderr == ""


def test_submit_json_is_the_id_and_that_it_is_new(daemon):
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
def test_a_job_gets_the_environment_that_was_asked_for(daemon, options, expected):
    done = daemon.bgctl("run", *options, "/bin/sh", "-c", 'echo "$A $B $C"', env={"A": "1", "B": "2"})

    assert done.stdout == expected + "\n"


def test_a_variable_that_is_not_utf8_is_named_and_left_behind(daemon):
    done = daemon.bgctl("submit", "true", env={"CAFE": os.fsdecode(b"caf\xe9")})

    assert done.returncode == 0
    assert done.stderr == "bgctl: not passed on, because not UTF-8: CAFE\n"


def test_a_job_runs_in_the_callers_folder_with_its_umask(daemon, tmp_path):
    command = [sys.executable, "-m", "bgctl", "run", "sh", "-c", "pwd; umask"]

    done = subprocess.run(
        command, env=daemon.env, cwd=tmp_path, umask=0o027, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{tmp_path}\n0027\n"


def test_from_a_folder_that_is_gone_a_job_runs_only_in_another(daemon, tmp_path):
    script = f'mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m bgctl run "$@" pwd'

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", script, "sh", *options]
        return subprocess.run(
            command, env=daemon.env, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run("--cwd", "/usr").stdout == "/usr\n"
    refused = run()
    assert refused.returncode == 1
    assert refused.stderr == ("bgctl: the working directory is gone: name another with --cwd DIR (cwd=...)\n")


def test_run_passes_on_both_streams_of_the_job_in_order_and_byte_for_byte(daemon):
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


def test_run_follows_over_the_attempts(daemon):
    script = 'echo "attempt $BGD_ATTEMPT"; [ "$BGD_ATTEMPT" = 3 ]'

    done = daemon.bgctl("run", "--retries", "4", "--retry-delay", "0", "sh", "-c", script)

    assert (done.returncode, done.stdout) == (0, "attempt 1\nattempt 2\nattempt 3\n")
    assert re.fullmatch(r"(==> job \d+, attempt [23] <==\n){2}", done.stderr)


def test_run_json_tells_the_id_the_output_and_the_end(daemon):
    done = daemon.bgctl("run", "--json", "sh", "-c", "echo hallo; exit 3")

    first, *output, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert first == {"id": last["id"], "created": True}
    assert "".join(piece["data"] for piece in output) == "hallo\n"
    assert (last["outcome"], last["exit_code"], done.returncode) == ("exit", 3, 3)


def test_list_in_a_pipe_is_aligned_columns_under_a_heading(daemon):
    job_id = run_job(daemon, "-n", "two words", "echo", "a b")

    heading, first, *_ = daemon.bgctl().stdout.splitlines()

    assert heading.split() == list(HEADINGS)
    cells = first.split(maxsplit=8)
    assert cells[:5] == [job_id, "succeeded", "0", "default", "1/1"]
    assert cells[7] == "two\N{OPEN BOX}words"
    assert cells[8] == "echo 'a b'"
    assert first.index("succeeded") == heading.index("STATE")


def test_list_selects(daemon):
    wanted = daemon.submit("--delay", "1h", "-n", "pick-1", "-t", "picked", "-q", "pick", "true")
    daemon.submit("--delay", "1h", "-n", "other", "true")

    for selection in (["--name", "pick-*"], ["--tag", "picked"], ["--queue", "pick"]):
        assert daemon.bgctl("list", "-q", *selection).stdout.split() == [wanted]
    assert wanted in daemon.bgctl("ls", "-q", "--state", "scheduled", "--since", "1m").stdout.split()
    assert daemon.bgctl("list", "-q", "--state", "stopping").stdout == ""
    assert daemon.bgctl("list", "-q", "--since", "2099-01-01").stdout == ""


def test_list_of_nothing_says_so_outside_the_data(own_daemon):
    empty = own_daemon.bgctl("list")
    chosen = own_daemon.bgctl("list", "--state", "failed")
    quiet = own_daemon.bgctl("list", "-q")

    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "bgctl: no jobs yet\n")
    assert (chosen.returncode, chosen.stdout, chosen.stderr) == (0, "", "bgctl: no jobs match\n")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert own_daemon.bgctl("list", "--json").stdout == "[]\n"


def test_list_sorts(daemon):
    low, high = (
        daemon.submit("-p", priority, "-q", "sorted", "--delay", "1h", "true") for priority in ("-3", "3")
    )

    assert daemon.bgctl("list", "-q", "--queue", "sorted", "--sort", "priority").stdout.split() == [high, low]
    assert daemon.bgctl("list", "-q", "--queue", "sorted", "--sort", "id").stdout.split() == [low, high]


def test_list_sorts_before_it_cuts(own_daemon):
    ids = [own_daemon.submit("--hold", "-p", str(priority), "true") for priority in (5, 1, 9, 3)]

    def listed(*options):
        return own_daemon.bgctl("list", "-q", *options).stdout.split()

    assert listed("--sort", "priority", "--limit", "2") == [ids[2], ids[0]]
    assert listed("--sort", "id", "--limit", "2") == ids[:2]


def test_list_goes_on_before_an_id(own_daemon):
    ids = [own_daemon.submit("--hold", "true") for _ in range(4)]

    first = own_daemon.bgctl("list", "-q", "--limit", "2").stdout.split()
    rest = own_daemon.bgctl("list", "-q", "--limit", "2", "--before", first[-1]).stdout.split()

    assert [*first, *rest] == ids[::-1]


def test_pages_of_a_list_leave_no_job_out(own_daemon):
    held = own_daemon.submit("--hold", "true")
    done = [own_daemon.submit("true") for _ in range(4)]
    own_daemon.bgctl("wait", *done)

    first = own_daemon.bgctl("list", "-q", "--limit", "2").stdout.split()
    second = own_daemon.bgctl("list", "-q", "--limit", "2", "--before", done[3]).stdout.split()
    third = own_daemon.bgctl("list", "-q", "--limit", "2", "--before", second[-1]).stdout.split()
    beyond = own_daemon.bgctl("list", "--before", held)

    assert first == [done[3], held]
    assert [*second, *third] == [done[2], done[1], done[0], held]
    assert "no jobs match" in beyond.stderr


def test_show_tells_of_the_others_if_one_job_is_missing(own_daemon):
    ids = [own_daemon.submit("true") for _ in range(3)]
    own_daemon.bgctl("wait", *ids)
    own_daemon.bgctl("remove", ids[0])

    shown = own_daemon.bgctl("show", f"{ids[0]}-{ids[2]}")

    assert shown.returncode == 66
    assert f"no job {ids[0]}" in shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("Job ")] == [
        f"{job_id}:" for job_id in ids[1:]
    ]


def test_a_key_that_a_live_job_has_is_told_to_a_script_too(own_daemon):
    first = own_daemon.bgctl("submit", "--key", "nightly", "--hold", "true")
    second = own_daemon.bgctl("submit", "--key", "nightly", "true")

    assert second.stdout == first.stdout
    assert "already has this key: nothing was queued" in second.stderr


def test_list_shows_in_which_state_a_suspended_job_is(own_daemon):
    job_id = own_daemon.submit("sleep", "60")
    wait_until(lambda: own_daemon.bgctl("suspend", job_id).returncode == 0)

    [_, row] = own_daemon.bgctl("list").stdout.splitlines()

    assert row.split()[1] == "suspended"
    own_daemon.bgctl("cancel", job_id)


def test_json_of_a_job_has_the_keys_that_scripts_rely_on(daemon):
    job_id = run_job(daemon, "sh", "-c", "exit 3")

    job = daemon.shown(job_id)

    keys = "id kind argv target args kwargs cwd user state outcome exit_code signal queue priority name tags"
    keys += " retries attempt created_at due_at started_at finished_at timeout delay result attempts"
    assert set(keys.split()) <= job.keys()
    assert (job["state"], job["outcome"], job["exit_code"], job["result"]) == ("failed", "exit", 3, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(job["created_at"]))
    [attempt] = job["attempts"]
    keys = "attempt outcome exit_code signal started_at finished_at user_seconds system_seconds max_rss_bytes"
    assert set(f"{keys} error log_bytes log_path pid".split()) <= attempt.keys()


def test_show_tells_a_person_the_same(daemon):
    job_id = run_job(daemon, "-n", "odd", "sh", "-c", "exit 3")

    sheet = daemon.bgctl("status", job_id).stdout

    assert sheet.startswith(f"Job {job_id}: failed\n  command    sh -c 'exit 3'\n  name       odd\n")
    assert "\nAttempt 1: exit (code 3)\n" in sheet


def test_show_repeats_durations_as_they_were_asked_for(daemon):
    job_id = daemon.submit("--hold", "--retries", "2", "--retry-delay", "5s", "--timeout", "8s", "true")

    sheet = daemon.bgctl("show", job_id).stdout
    assert "\n  retries    2, 5s apart\n" in sheet
    assert "\n  timeout    8s\n" in sheet


def test_show_says_why_an_attempt_was_not_started(daemon):
    job_id = run_job(daemon, "--no-check", "no-such-program")

    sheet = daemon.bgctl("show", job_id).stdout
    assert "\n  error      program not found: no-such-program" in sheet
    assert "\n  log " not in sheet


def test_show_names_the_log_of_an_attempt_that_wrote_something(daemon):
    silent, talking = run_job(daemon, "true"), run_job(daemon, "echo", "hallo")

    assert "\n  log " not in daemon.bgctl("show", silent).stdout
    assert re.search(r"\n  log +/.* \(6 bytes written\)\n", daemon.bgctl("show", talking).stdout)


def test_without_an_id_the_latest_job_is_meant(daemon):
    job_id = run_job(daemon, "echo", "newest")

    assert daemon.bgctl("logs").stdout == "newest\n"
    assert daemon.bgctl("show").stdout.startswith(f"Job {job_id}:")
    assert daemon.bgctl("wait", "last").stdout == f"{job_id} succeeded\n"


def test_logs_shows_the_last_lines_of_the_attempt_asked_for(daemon):
    script = 'for n in 1 2 3; do echo "$BGD_ATTEMPT.$n"; done; exit 1'
    job_id = run_job(daemon, "--retries", "1", "--retry-delay", "0", "sh", "-c", script)

    assert daemon.bgctl("logs", "-n", "2", job_id).stdout == "2.2\n2.3\n"
    assert daemon.bgctl("logs", "--attempt", "1", job_id).stdout == "1.1\n1.2\n1.3\n"
    everything = daemon.bgctl("logs", "--all", job_id)
    assert everything.stdout == "1.1\n1.2\n1.3\n2.1\n2.2\n2.3\n"
    assert everything.stderr == f"==> job {job_id}, attempt 1 <==\n==> job {job_id}, attempt 2 <==\n"
    assert daemon.bgctl("logs", "--attempt", "3", job_id).returncode == 1


def test_logs_says_why_there_is_no_output(daemon):
    not_started = run_job(daemon, "--no-check", "--cwd", "/no/such", "true")
    waiting = daemon.submit("--delay", "1h", "true")
    silent = run_job(daemon, "true")
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


def test_logs_that_were_not_asked_for_are_not_missed(daemon):
    job_id = run_job(daemon, "echo", "hallo")

    assert daemon.bgctl("logs", "-n", "0", job_id).stderr == ""


def test_logs_timestamps_begin_each_line_once(daemon):
    job_id = run_job(daemon, "sh", "-c", "printf 'one\\ntw'; printf 'o\\n'")

    lines = daemon.bgctl("logs", "--timestamps", job_id).stdout.splitlines()

    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(f"{stamp} one", lines[0])
    assert re.fullmatch(f"{stamp} two", lines[1])


def test_logs_json_tells_when_the_output_came(daemon):
    job_id = run_job(daemon, "echo", "hallo")

    [piece] = [json.loads(line) for line in daemon.bgctl("logs", "--json", job_id).stdout.splitlines()]

    assert (piece["job"], piece["attempt"], piece["data"]) == (int(job_id), 1, "hallo\n")
    assert piece["at"].endswith("Z")


def test_logs_path_is_the_file_itself(daemon):
    job_id = run_job(daemon, "echo", "in the file")

    path = daemon.bgctl("logs", "--path", job_id).stdout.strip()

    assert Path(path).read_text() == "in the file\n"


def test_logs_path_names_no_file_that_is_not_there(daemon):
    silent, removed = run_job(daemon, "true"), run_job(daemon, "echo", "word")
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


def test_cancel_ends_what_runs_and_retry_runs_it_again(daemon):
    mark = daemon.folder / "mark"
    job_id = daemon.submit("sh", "-c", f"touch {mark}; exec sleep 60")
    wait_until(mark.exists)

    assert daemon.bgctl("cancel", job_id).stdout == f"{job_id} stopping\n"
    assert daemon.bgctl("wait", job_id).returncode == 143
    assert daemon.bgctl("cancel", job_id).returncode == 1
    assert daemon.bgctl("retry", job_id).stdout in {f"{job_id} queued\n", f"{job_id} running\n"}
    daemon.bgctl("cancel", job_id)


def test_what_is_refused_for_one_job_is_done_to_the_others(daemon):
    job_id = daemon.submit("--delay", "1h", "true")

    done = daemon.bgctl("cancel", "--json", "999999", job_id)

    assert done.returncode == 66
    assert "no job 999999" in done.stderr
    assert [(each["id"], each["state"]) for each in json.loads(done.stdout)] == [
        (999999, None),
        (int(job_id), "cancelled"),
    ]


def test_a_range_means_all_its_jobs(daemon):
    first, last = (int(daemon.submit("--delay", "1h", "true")) for _ in range(2))

    assert daemon.bgctl("cancel", f"{first}-{last}").stdout == f"{first} cancelled\n{last} cancelled\n"


def test_a_reader_that_goes_away_is_no_error_worth_a_word(daemon):
    job_id = run_job(daemon, "sh", "-c", "seq 200000")

    reader = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m bgctl logs {job_id} | head -n 1"],
        env=daemon.env,
        capture_output=True,
        text=True,
        check=True,
    )

    assert (reader.stdout, reader.stderr) == ("1\n", "")


def test_a_full_disk_under_the_output_is_said_in_one_line(daemon):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m bgctl list > /dev/full"],
        env=daemon.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_info_tells_where_the_daemon_is(daemon):
    info = json.loads(daemon.bgctl("info", "--json").stdout)

    assert (info["pid"], info["socket"]) == (daemon.process.pid, str(daemon.socket))
    assert daemon.bgctl("info", "--pid").stdout == f"{daemon.process.pid}\n"
    assert f"pid        {daemon.process.pid}\n" in daemon.bgctl("info").stdout


def test_global_options_stand_before_the_verb_or_after_it(daemon):
    before = daemon.bgctl("--json", "--socket", str(daemon.socket), "info").stdout
    after = daemon.bgctl("info", "--socket", str(daemon.socket), "--json").stdout

    assert json.loads(before)["pid"] == json.loads(after)["pid"] == daemon.process.pid


@pytest.fixture(scope="module")
def short_logs():
    """A daemon that keeps a thousand bytes of a log, and a job that wrote more."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(Path(folder))
        daemon.configure("[logs]\nmax_bytes = 1000\n")
        daemon.start()
        assert daemon.bgctl("run", "seq", "10000", "11000").returncode == 0
        yield daemon
        daemon.stop()


def test_a_gap_in_a_log_ends_its_line_and_no_half_lines_are_joined(short_logs):
    done = short_logs.bgctl("logs")

    lines = done.stdout.splitlines()
    assert lines[0] == "10000"
    assert lines[-1] == "11000"
    assert all(len(line) <= 5 for line in lines)
    assert "bytes left out" in done.stderr


def test_after_a_gap_the_next_bytes_have_their_time(short_logs):
    lines = short_logs.bgctl("logs", "--timestamps").stdout.splitlines()

    assert all(len(line.split(" ")) == 2 and len(line.split(" ")[1]) <= 5 for line in lines)


def test_raw_logs_are_the_very_bytes_around_a_gap(short_logs):
    raw = short_logs.bgctl("logs", "--raw").stdout

    assert len(raw) <= 1000
    assert raw.replace("\n", "") == short_logs.bgctl("logs").stdout.replace("\n", "")
