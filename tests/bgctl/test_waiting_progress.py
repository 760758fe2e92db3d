"""The verb progress, and the verbs that show progress."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.support import DEADLINE, Daemon, seen, wait_until

BGCTL = f"{sys.executable} -m bgctl"


@pytest.fixture
def job_that_says():
    """Yield a function that submits a job which reports progress and then runs some code."""
    begun: list[tuple[Daemon, str]] = []

    def begin(daemon: Daemon, *said: str, code: str = "sleep 60") -> str:
        lines = [f"{BGCTL} progress {words} || exit" for words in said]
        job_id = daemon.submit("--shell", "\n".join([*lines, "echo said", code]))
        begun.append((daemon, job_id))
        with daemon.client() as client:
            wait_until(lambda: b"".join(part.data for part in client.logs(int(job_id))) == b"said\n")
        return job_id

    yield begin
    for daemon, job_id in begun:
        daemon.bgctl("cancel", job_id)


@pytest.mark.parametrize(
    ("words", "fraction", "message"),
    [
        ("0.4", 0.4, None),
        (".5", 0.5, None),
        ("1", 1.0, None),
        ("40%", 0.4, None),
        ("12.5%", 0.125, None),
        ("3/10", 0.3, None),
        ("0/5 first", 0.0, "first"),
        ("- '3 of who knows'", None, "3 of who knows"),
        ("'still counting'", None, "still counting"),
        ("50% größer", 0.5, "größer"),
        (f"1/4 {'x' * 300}", 0.25, "x" * 200),
        ("""1/4 "$(printf 'a\\nb\\377')" """, 0.25, "a\nb\\udcff"),
    ],
)
def test_a_fraction_may_be_written_in_several_ways(daemon, words, fraction, message):
    job_id = daemon.submit("--wait", "--shell", f"{BGCTL} progress {words}")

    assert daemon.shown(job_id)["progress"] == {"fraction": fraction, "message": message}
    assert daemon.bgctl("logs", job_id).stdout == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("40", "'40' is more than 1: write 0.4, 40% or 4/10"),
        ("140%", "'140%' is more than 1"),
        ("11/10", "'11/10' is more than 1"),
        ("3/0", "'3/0' is not a fraction: it divides by 0"),
        ("0.4.1", "'0.4.1' is not a fraction: write 0.4, 40% or 4/10, or - before a message"),
        ("'3 files'", "'3 files' is not a fraction"),
        ("1e999", "'1e999' is not a fraction"),
        ("", "missing argument FRACTION: see"),
    ],
)
def test_an_invalid_fraction_is_one_line_of_error(daemon, words, complaint):
    env = {"BGD_JOB_ID": "1", "BGD_ATTEMPT": "1"}

    done = daemon.bgctl("progress", *shlex.split(words), env=env)

    assert done.returncode == 2
    assert done.stderr.startswith(f"bgctl: {complaint}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("env", [{}, {"BGD_JOB_ID": "one", "BGD_ATTEMPT": "1"}])
def test_progress_outside_a_job_is_refused(daemon, env):
    done = daemon.bgctl("progress", "40%", env=env)

    assert done.returncode == 2
    assert done.stderr == (
        "bgctl: not inside a job: `bgctl progress` needs BGD_JOB_ID and BGD_ATTEMPT of a job\n"
    )


def test_progress_of_an_ended_job_is_refused(daemon):
    job_id = daemon.submit("--wait", "true")

    done = daemon.bgctl("progress", "40%", env={"BGD_JOB_ID": job_id, "BGD_ATTEMPT": "1"})

    assert done.returncode == 1
    assert done.stderr.startswith(f"bgctl: attempt 1 of job {job_id} does not run")


def test_json_prints_the_accepted_progress(daemon):
    job_id = daemon.submit("--wait", "--shell", f"{BGCTL} progress --json 1/4 reading")

    assert json.loads(daemon.bgctl("logs", job_id).stdout) == {
        "job": int(job_id),
        "attempt": 1,
        "progress": {"fraction": 0.25, "message": "reading"},
    }


def test_progress_of_a_succeeded_job_is_not_shown(own_daemon):
    job_id = own_daemon.submit("--wait", "--shell", f"{BGCTL} progress 3/4 almost")

    assert "75%" not in own_daemon.bgctl("list").stdout
    assert "75%" not in own_daemon.bgctl("show", job_id).stdout
    assert own_daemon.shown(job_id)["progress"]["fraction"] == 0.75


def test_list_has_a_progress_column_if_a_job_reports_progress(own_daemon, job_that_says):
    own_daemon.submit("--wait", "-n", "silent", "true")
    assert "PROGRESS" not in own_daemon.bgctl("list").stdout

    job_id = job_that_says(own_daemon, "40% 'a b'")
    heading, told, silent = own_daemon.bgctl("list").stdout.splitlines()

    assert heading.split()[-2:] == ["PROGRESS", "COMMAND"]
    assert told.split()[:2] == [job_id, "running"]
    assert told.split()[8] == "40%␣a␣b"
    assert silent.split()[7:] == ["silent", "-", "true"]
    assert json.loads(own_daemon.bgctl("list", "--json").stdout)[1]["progress"] is None


def test_list_and_show_on_a_terminal_show_progress(daemon, terminal, job_that_says):
    job_id = job_that_says(daemon, r"""40% "$(printf 'evil\033[2J')" """)
    wait_until(lambda: daemon.shown(job_id)["progress"])  # saved within a second of the report before

    for text in (seen(terminal("list", width=120)), seen(terminal("show", job_id))):
        assert "40% evil␛[2J" in text


def test_followed_events_include_progress(daemon, terminal, job_that_says):
    followed = terminal("events", "-f")
    piped = terminal("events", "-f", "--json")
    for each in (followed, piped):  # progress is not kept for those who begin to follow later
        while each.expect(["submit", pexpect.TIMEOUT], timeout=0.5):
            daemon.submit("true")
    job_id = job_that_says(daemon, "1/2 half")

    followed.expect(rf"\d\d:\d\d:\d\d job {job_id} progress: 50% half \(attempt 1\)")
    piped.expect(
        rf'"job": {job_id}, "what": "progress", [^\n]*"progress": {{"fraction": 0.5, "message": "half"}}'
    )
    assert '"what": "progress"' not in daemon.bgctl("events").stdout


def test_wait_in_a_pipe_prints_a_line_per_report(daemon, job_that_says):
    gate = daemon.folder / "gate"
    job_id = job_that_says(
        daemon, "1/4 'first part'", code=f"until test -e {gate}; do sleep 0.05; done; {BGCTL} progress 1"
    )
    waiting = [
        begun(daemon, "wait", "--progress", job_id),
        begun(daemon, "wait", "--progress", "--json", job_id),
    ]
    first = [process.stdout.readline() for process in waiting]
    gate.touch()
    rest = [process.communicate(timeout=DEADLINE)[0] for process in waiting]

    assert first[0] == f"{job_id} 25% first part\n"
    # the job may end before its last report is printed
    assert rest[0] in (f"{job_id} 100%\n{job_id} succeeded\n", f"{job_id} succeeded\n")
    told, finished = map(json.loads, [first[1], rest[1].splitlines()[-1]])
    assert told == {"job": int(job_id), "attempt": 1, "progress": {"fraction": 0.25, "message": "first part"}}
    assert (finished["id"], finished["state"]) == (int(job_id), "succeeded")


def begun(daemon, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "bgctl", *arguments],
        env=daemon.env,
        cwd=daemon.folder,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_wait_on_a_terminal_shows_bars(daemon, terminal, job_that_says):
    ids = [job_that_says(daemon, "1/4 '[bold]first part'"), job_that_says(daemon, "counting")]

    waiting = terminal("wait", "--progress", *ids)
    waiting.expect("0 of 2 jobs")
    waiting.expect(rf"job {ids[0]}[^\n]*━+[^\n]* 25% \[bold\]first part")
    waiting.expect(rf"job {ids[1]}[^\n]*━+[^\n]* counting")
    daemon.bgctl("cancel", ids[0])
    waiting.expect(rf"\x1b\[2K{ids[0]} cancelled")  # where bars were, not behind one
    waiting.expect("1 of 2 jobs")
    daemon.bgctl("cancel", ids[1])
    text = seen(waiting)

    assert f"\x1b[2K{ids[1]} cancelled" in text
    assert re.search(r"\x1b\[2K\Z", text), "the bars are still there"
