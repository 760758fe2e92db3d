"""bgctl inbox: prints each end of a session's jobs once, and again if its reader was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from bgctl.agents.inbox import lines_about
from bgd import Outcome, State
from bgd.client.inherited import SESSION
from bgd.core.retry import NOT_RERUN
from bgd.wire.views import JobEnd
from tests.support import DEADLINE, Home, seen, serving, wait_until

ENDED = r"(\d+) build failed \(exit code 3\) after \S+"


@pytest.fixture(scope="module")
def daemon():
    with serving("[daemon]\nslots = 4\n") as running:
        yield running


@pytest.fixture
def session(request):
    """Return a session that no other test has."""
    return request.node.name[:200]


@pytest.fixture
def inbox(daemon, session):
    """Run `bgctl inbox` for the session with more words; return what it printed."""

    def run(*words, code=0):
        done = daemon.bgctl("inbox", *words, env={SESSION: session})
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


def end_of(daemon, session, script="echo one; echo two; exit 3"):
    """Run a job of the session to its end; return its id."""
    return int(daemon.finished_job("--session", session, "-n", "build", "--shell", script))


def test_an_end_is_printed_once(daemon, session, inbox):
    job = end_of(daemon, session)

    first, second = inbox(), inbox()

    line, *tail = first.splitlines()
    assert line.startswith(f'{job} "build" failed (exit code 3) after ')
    assert tail == ["  output (untrusted):", "  | one", "  | two"]
    assert second == ""


def test_programs_get_an_object_a_line(daemon, session, inbox):
    jobs = [end_of(daemon, session), end_of(daemon, session, "true")]

    ends = [json.loads(line) for line in inbox("--json").splitlines()]

    assert [(end["job"], end["state"], end["exit_code"], end["tail"]) for end in ends] == [
        (jobs[0], "failed", 3, "one\ntwo"),
        (jobs[1], "succeeded", 0, ""),
    ]
    assert [end["redelivered"] for end in ends] == [False, False]
    assert ends[0]["at"].endswith("Z")


def test_to_peek_leaves_ends_there(daemon, session, inbox):
    end_of(daemon, session)

    assert inbox("--peek") == inbox("--peek") == inbox()


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_many_ends_come_in_answers_of_at_most_4_kb(daemon, session, words):
    script = "yes 'a line of output that says something' | head -n 30; printf 'é%.0s' $(seq 200)"
    daemon.bgctl(
        "batch", "--session", session, "--wait", "--", "sh", "-c", script, "sh", ":::", *"abcdefghij"
    )

    peek = daemon.bgctl("inbox", "--session", session, "--peek", *words)
    first, second, third = (daemon.bgctl("inbox", "--session", session, *words) for _ in range(3))

    assert peek.stderr == "bgctl: there may be more: run `bgctl inbox` without --peek\n"
    assert 3500 < len((first.stdout + first.stderr).encode()) <= 4096
    assert len((second.stdout + second.stderr).encode()) <= 4096
    assert first.stderr == "bgctl: there may be more: run `bgctl inbox` again\n"
    assert (second.stderr, third.stdout) == ("", "")
    lines = [line for each in (first, second) for line in each.stdout.splitlines()]
    assert len([line for line in lines if line[0] != " "]) == 10


def test_it_waits_for_an_end(daemon, session):
    command = [sys.executable, "-m", "bgctl", "inbox", "--session", session, "--wait"]
    with subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, text=True) as waiting:
        job = end_of(daemon, session)
        printed, _ = waiting.communicate(timeout=DEADLINE)

    assert printed.startswith(f'{job} "build" failed')
    assert waiting.returncode == 0


def test_it_waits_only_as_long_as_it_is_told(inbox):
    assert inbox("--wait", "--timeout", "100ms", code=75) == ""


@pytest.mark.parametrize(
    ("words", "problem"),
    [((), "no session: give its name with --session NAME"), (("--session=a", "--timeout=1"), "needs --wait")],
)
def test_what_it_needs_to_be_told(daemon, words, problem):
    done = daemon.bgctl("inbox", *words)

    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_person_is_told_that_there_is_nothing_new(daemon, session):
    child = pexpect.spawn(
        sys.executable, ["-m", "bgctl", "inbox", "--session", session], env=daemon.env, encoding="utf-8"
    )

    assert seen(child) == f"bgctl: no job of session {session} has ended that you have not seen\r\n"
    assert child.exitstatus == 0


def test_an_end_that_could_not_be_written_is_printed_again(daemon, session, inbox):
    job = end_of(daemon, session)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bgctl", "inbox", "--session", session]
    done = subprocess.run(command, env=daemon.env, stdout=writing, timeout=DEADLINE, check=False)
    os.close(writing)

    assert done.returncode == 141
    assert inbox().startswith(f'{job} "build" failed (exit code 3)')


def test_an_end_whose_reader_is_killed_is_printed_again_and_says_so(daemon, session, inbox):
    """The reader has its bytes and stands before the acknowledgement: a full pipe keeps it from writing."""
    job = end_of(daemon, session)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    command = [sys.executable, "-m", "bgctl", "inbox", "--session", session]
    with subprocess.Popen(command, env=daemon.env, stdout=writing) as reader:
        with daemon.client() as client:
            wait_until(lambda: client.inbox(session, peek=True)[0].redelivered)
            assert client.inbox(session) == []
        reader.send_signal(signal.SIGKILL)
    os.close(reading)
    os.close(writing)

    printed = inbox("--wait")

    assert printed.startswith(f'{job} "build" failed (exit code 3) after ')
    assert ", redelivered\n" in printed


def test_without_a_daemon_there_is_nothing_new_only_if_there_never_was_one(tmp_path):
    empty = Home(tmp_path)
    never = empty.bgctl("inbox", "--session", "a")
    waits = empty.bgctl("inbox", "--session", "a", "--wait")
    (tmp_path / ".local/state/bgd").mkdir(parents=True)
    stopped = empty.bgctl("inbox", "--session", "a")

    assert (never.returncode, never.stdout, never.stderr) == (0, "", "")
    assert (waits.returncode, stopped.returncode) == (69, 69)


def test_a_reason_that_names_the_outcome_is_not_told_twice():
    fields: dict[str, Any] = dict.fromkeys(JobEnd.__struct_fields__)
    fields |= {"job": 7, "state": State.FAILED, "redelivered": False, "tail": ""}
    end = JobEnd(**fields | {"outcome": Outcome.UNKNOWN, "reason": NOT_RERUN})

    assert list(lines_about(end)) == [f"7 failed ({NOT_RERUN})"]


# --- ends that are told otherwise --------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [("wait",), ("--json", "wait"), ("wait", "--any")], ids=" ".join)
def test_who_waits_for_a_job_is_not_told_its_end_again(daemon, session, inbox, wait):
    job = daemon.bgctl("submit", "false", env={SESSION: session}).stdout.strip()

    assert daemon.bgctl(*wait, job, env={SESSION: session}).returncode == 1

    assert inbox() == ""


def test_who_waits_without_seeing_which_job_failed_is_told(daemon, session, inbox):
    job = end_of(daemon, session)

    assert daemon.bgctl("wait", "--quiet", str(job), env={SESSION: session}).returncode == 3

    assert inbox().startswith(f"{job} ")


def test_to_wait_for_a_job_of_another_session_takes_nothing_from_its_inbox(daemon, session, inbox):
    job = end_of(daemon, session)

    assert daemon.bgctl("wait", str(job), env={SESSION: "another"}).returncode == 3

    assert inbox().startswith(f"{job} ")


@pytest.mark.parametrize("options", [(), ("--max-output", "4KB")], ids=["plain", "with options"])
def test_who_runs_a_job_to_its_end_is_not_told_it_again(daemon, session, inbox, options):
    assert daemon.bgctl("run", *options, "false", env={SESSION: session}).returncode == 1

    assert inbox() == ""


@pytest.mark.parametrize("options", [(), ("--max-output", "4KB")], ids=["plain", "with options"])
def test_a_session_is_told_of_success_before_its_end_counts_as_read(daemon, session, inbox, options):
    done = daemon.bgctl("run", *options, "true", env={SESSION: session})

    job = daemon.bgctl("list", "--ids", "--limit", "1").stdout.strip()
    assert (done.returncode, done.stderr) == (0, f"bgctl: job {job} succeeded\n")
    assert inbox() == ""
    assert daemon.bgctl("run", *options, "true").stderr == ""


def test_an_end_that_run_did_not_print_is_still_unread(daemon, session, inbox):
    done = daemon.bgctl("run", "--quiet", "true", env={SESSION: session})

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert " succeeded" in inbox()
