"""Options of jobs: each reaches the job and takes effect."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from bgctl import acting, schedules
from bgctl.options import unset_options
from tests.support import seen, wait_until


def test_every_option_of_a_command_reaches_the_job(daemon):
    source = daemon.folder / "input"
    source.write_text("from a file\n")
    options = "--retry-on 1,70-72 --expires 1h --key only-one --slots 2 --hold --pty --stdin input"

    job = daemon.shown(daemon.submit(*options.split(), "cat"))

    expected = {"retry_on": [1, 70, 71, 72], "expires": 3600.0, "key": "only-one", "slots": 2}
    expected |= {"state": "held", "pty": True, "stdin": str(source)}
    assert {key: job[key] for key in expected} == expected
    assert job["expires_at"].endswith("Z")


def test_pauses_are_named_one_by_one(daemon):
    job_id = daemon.submit("--hold", "--retry-delay", "10s,20s,1m", "--retry-until", "2h", "true")

    shown = daemon.shown(job_id)
    assert (shown["retry_delay"], shown["retry_until"]) == ([10.0, 20.0, 60.0], 7200.0)
    assert "any within 2h, 10s, 20s, 1m apart" in daemon.bgctl("show", job_id).stdout
    listed = next(line for line in daemon.bgctl("list").stdout.splitlines() if line.startswith(f"{job_id} "))
    assert listed.split()[:5] == [job_id, "held", "0", "default", "0"]  # attempts, of any number
    daemon.bgctl("edit", job_id, "--retry-delay", "3s")
    assert daemon.shown(job_id)["retry_delay"] == 3.0
    refused = daemon.bgctl("submit", "--retry-delay", ",".join(["1s"] * 101), "true")
    assert "or a list of 1 to 100 of them" in refused.stderr


def test_a_command_follows_a_failure(daemon):
    words = "sh -c 'echo $BGD_CAUSE_NAME: $BGD_CAUSE_ERROR, $BGD_CAUSE_OUTPUT'"
    job_id = daemon.submit("--name", "backup", "--on-failure", words, "sh", "-c", "echo full; exit 3")
    daemon.bgctl("wait", job_id)

    shown = daemon.bgctl("show", job_id).stdout
    [follower] = daemon.shown(job_id)["follow_ups"]
    assert f"on failure {words}" in shown
    assert f"follow-up  job {follower}" in shown
    assert daemon.bgctl("wait", str(follower)).returncode == 0
    assert f"follows    job {job_id} (on_failure)" in daemon.bgctl("show", str(follower)).stdout
    assert daemon.bgctl("logs", str(follower)).stdout == "backup: exit code 3, full\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [("", "it is empty: name a command or a target"), ("sh -c 'x", "a quote is not closed")],
)
def test_what_cannot_follow_is_refused(daemon, words, problem):
    run = daemon.bgctl("submit", "--on-failure", words, "true")

    assert run.returncode == 2
    assert f"--on-failure: {problem}" in run.stderr


@pytest.mark.parametrize("words", ["ops 'a failure'", "/no/such/ops", "./ops"])
def test_a_follow_up_whose_program_is_missing_is_refused_unless_told_otherwise(daemon, words):
    for verb in (("submit",), ("run",), ("batch", "--")):
        run = daemon.bgctl(verb[0], "--on-failure", words, *verb[1:], "true")
        assert run.returncode != 0
        assert "on_failure: " in run.stderr
        assert "; --no-check queues " in run.stderr
    run = daemon.bgctl("batch", "--finally", words, "--", "true", ":::", "a")
    assert "finally: " in run.stderr

    job_id = daemon.submit("--no-check", "--hold", "--on-failure", words, "true")
    assert f"on failure {words}" in daemon.bgctl("show", job_id).stdout


def test_limits_reach_the_job_and_are_shown(daemon):
    options = "--hold --keep-leftovers --nice 5 --open-files 100 --core-max 1.5MB"

    job_id = daemon.submit(*options.split(), "true")

    job = daemon.shown(job_id)
    expected: dict[str, object] = {
        "keep_leftovers": True,
        "nice": 5,
        "open_files": 100,
        "core_max": 1_500_000,
    }
    expected = {**expected, "memory_max": None, "cpu_max": None, "pids_max": None}
    assert {key: job[key] for key in expected} == expected
    sheet = daemon.bgctl("show", job_id).stdout
    assert "  limits     nice 5, open files 100, core file 1.5MB\n" in sheet
    assert "  leftovers  left running\n" in sheet

    daemon.bgctl("edit", job_id, "--nice", "7", "--unset", "open-files", "--unset", "keep-leftovers")

    job = daemon.shown(job_id)
    assert (job["nice"], job["open_files"], job["keep_leftovers"]) == (7, None, False)


def test_a_job_is_asked_to_end_by_the_signal_of_its_choice(daemon):
    ready = daemon.folder / "ready"
    script = f"trap 'echo interrupted; exit' INT; touch {ready}; while :; do sleep 0.05; done"
    job_id = daemon.submit("--stop-signal", "SIGINT", "sh", "-c", script)
    wait_until(ready.exists)

    assert "  stop with  INT\n" in daemon.bgctl("show", job_id).stdout
    daemon.bgctl("cancel", job_id)
    daemon.bgctl("wait", job_id)

    assert daemon.bgctl("logs", job_id).stdout == "interrupted\n"
    assert daemon.shown(job_id)["outcome"] == "cancelled"


def test_the_stop_signal_of_a_waiting_job_can_change(daemon):
    job_id = daemon.submit("--hold", "--stop-signal", "int", "true")

    daemon.bgctl("edit", job_id, "--stop-signal", "QUIT")
    assert daemon.shown(job_id)["stop_signal"] == "QUIT"
    daemon.bgctl("edit", job_id, "--unset", "stop-signal")

    assert daemon.shown(job_id)["stop_signal"] is None
    refused = daemon.bgctl("submit", "--stop-signal", "STOP", "true")
    assert "'STOP' must be one of TERM, INT" in refused.stderr


@pytest.mark.parametrize(
    ("command", "names"), [(acting.edit_command, unset_options()), (schedules.edit_command, schedules._UNSET)]
)
def test_unset_takes_the_names_that_options_have(command, names):
    flags = {flag for each in command.params for flag in each.opts}
    assert {f"--{name}" for name in names} <= flags


def test_an_option_cannot_be_set_and_unset_at_once(daemon):
    job_id = daemon.submit("--hold", "true")

    done = daemon.bgctl("edit", job_id, "--unset", "timeout", "--timeout", "5s")

    assert done.returncode == 2
    assert "--timeout and --unset timeout cannot be combined" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--memory-max", "10kB", "must be a size from 1MB"),
        ("--memory-max", "much", "'much' is not a size"),
        ("--cpu-max", "0%", "must be a percentage of one processor"),
        ("--pids-max", "0", "'0' must be a whole number from 1 to"),
        ("--nice", "\udcff", r"'\udcff' must be a whole number from -20 to 19"),
        ("--nice", "20", "'20' must be a whole number from -20 to 19"),
        ("--open-files", "3", "'3' must be a whole number from 16 to 1073741824"),
        ("--core-max", "-1", "'-1' is not a size"),
    ],
)
def test_an_invalid_limit_is_refused_in_one_line(daemon, option, value, said):
    done = daemon.bgctl("submit", option, value, "true")

    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_limits_apply_to_the_job(daemon):
    done = daemon.bgctl("run", "--nice", "7", "--open-files", "99", "sh", "-c", "nice; ulimit -n")

    assert done.stdout.split() == ["7", "99"]


def test_a_class_job_takes_all_options_but_those_of_commands(own_daemon):
    own_daemon.configure('[security]\nallowed_classes = ["app.*"]\n')
    own_daemon.stop()
    own_daemon.start()

    job_id = own_daemon.bgctl("call", "--hold", "--no-retry-on", "3", "--slots", "2", "app:f").stdout.strip()

    job = own_daemon.shown(job_id)
    assert (job["state"], job["no_retry_on"], job["slots"]) == ("held", [3], 2)


def test_at_means_the_next_occurrence_of_a_time_of_day(daemon):
    job = daemon.shown(daemon.submit("--at", "04:05", "true"))

    at = datetime.fromisoformat(job["at"]).astimezone()
    assert (at.hour, at.minute, job["state"]) == (4, 5, "scheduled")
    assert 0 < at.timestamp() - time.time() <= 86_400 + 3_600  # a day may have 25 hours


def test_after_waits_for_the_named_jobs(daemon):
    first, second = (int(daemon.submit("--hold", "true")) for _ in range(2))

    waiting = daemon.submit("--after", f"{first}-{second}", "--after-any", "last", "true")

    job = daemon.shown(waiting)
    assert (job["state"], job["after"], job["after_any"]) == ("blocked", [first, second], [second])
    assert f"  waits      for jobs {first}, {second}\n" in daemon.bgctl("show", waiting).stdout
    row = daemon.bgctl("list", "--state", "blocked").stdout.splitlines()[1]
    assert f" after:{first},{second} " in row


def test_a_job_whose_dependency_failed_never_runs(daemon):
    failing = daemon.submit("--delay", "1h", "false")
    waiting = daemon.submit("--after", failing, "true")

    daemon.bgctl("cancel", failing)

    waited = daemon.bgctl("wait", waiting)
    assert waited.returncode == 125
    assert f"{waiting} cancelled (job {failing}, which had to succeed first, was cancelled)" in waited.stdout


def test_an_expired_job_never_runs(daemon):
    daemon.bgctl("queue", "set", "closed", "--slots", "1")
    daemon.bgctl("pause", "closed")
    job_id = daemon.submit("--queue", "closed", "--expires", "50ms", "true")

    waited = daemon.bgctl("wait", job_id)

    assert waited.returncode == 125
    assert waited.stdout.startswith(f"{job_id} cancelled (expired")


@pytest.mark.parametrize("start", [("--delay", "2h"), ("--at", "2199-01-01")])
def test_a_job_that_must_expire_before_its_start_is_refused(daemon, start):
    refused = daemon.bgctl("submit", *start, "--expires", "1h", "true")
    waiting = daemon.submit("--delay", "2h", "true")
    edited = daemon.bgctl("edit", waiting, "--expires", "1h")

    message = "it would expire before it may start: expires counts from now, too"
    assert (refused.returncode, refused.stderr) == (1, f"bgctl: {message}\n")
    assert (edited.returncode, message in edited.stderr) == (1, True)
    assert daemon.bgctl("edit", waiting, "--delay", "30m", "--expires", "1h").returncode == 0


def test_a_second_submit_with_a_key_prints_the_job_that_has_it(daemon, terminal):
    job_id = daemon.submit("--hold", "--key", "nightly", "true")

    again = daemon.bgctl("submit", "--key", "nightly", "--json", "true")
    to_a_person = seen(terminal("submit", "--key", "nightly", "true"))

    assert json.loads(again.stdout) == {"id": int(job_id), "created": False}
    assert to_a_person.split("\r\n") == [
        job_id,
        f"bgctl: job {job_id} already has this key: nothing was queued",
        "",
    ]


def test_stdin_dash_passes_the_input_of_bgctl_to_the_job(daemon):
    done = daemon.bgctl("run", "--stdin", "-", "tr", "a-z", "A-Z", read="for the job\n")

    assert (done.returncode, done.stdout) == (0, "FOR THE JOB\n")


def test_input_over_the_limit_is_refused(daemon):
    done = daemon.bgctl("submit", "--stdin", "-", "cat", read="x" * 500_001)

    assert (done.returncode, done.stdout) == (2, "")
    assert "more than 500000 bytes arrived" in done.stderr
    assert "--stdin FILE" in done.stderr


@pytest.mark.parametrize(
    ("source", "message"), [("no-such-file", "does not exist"), ("/", "is a folder, not a file")]
)
def test_an_unreadable_input_file_is_refused_before_the_job_is_queued(daemon, source, message):
    done = daemon.bgctl("submit", "--stdin", source, "cat")

    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "--no-check queues it anyway" in done.stderr


def test_shell_runs_one_text_with_sh(daemon):
    done = daemon.bgctl("run", "--shell", "echo a | tr a b; exit 3")

    assert (done.returncode, done.stdout) == (3, "b\n")


def test_pty_gives_the_job_a_terminal(daemon):
    assert daemon.bgctl("run", "--pty", "tty").stdout.startswith("/dev/")
    assert daemon.bgctl("run", "tty").stdout == "not a tty\n"


def test_a_name_stands_for_the_latest_job_that_has_it(daemon):
    older, newer = (daemon.submit("--hold", "-n", "nightly*[1]", "true") for _ in range(2))
    daemon.submit("--hold", "-n", "nightly-other1", "true")

    assert daemon.shown("nightly*[1]")["id"] == int(newer)
    assert daemon.shown(daemon.submit("--after", "nightly*[1]", "true"))["waits_for"] == [int(newer)]
    assert daemon.bgctl("cancel", "nightly*[1]").stdout == f"{newer} cancelled\n"
    assert daemon.shown(older)["state"] == "held"
    unknown = daemon.bgctl("show", "nightly")
    assert (unknown.returncode, unknown.stdout) == (66, "")
    assert "no job is named 'nightly': give a name, an id such as 12 or 3-9, or last" in unknown.stderr
