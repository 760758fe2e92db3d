"""Runners: jobs in other languages, here in shell, under a real daemon."""

from __future__ import annotations

import signal

import pytest

from bgd import JobFailed, NotAllowed, Outcome, State, run_background_job
from tests.support import DEADLINE, wait_until

# The target chooses what it does: the last part of its name is a function of this program
PROGRAM = """
told=$(cat)
result() { printf '%s' "$1" > "/dev/fd/$BGD_RESULT_FD"; }
tell() { echo "in $PWD as $BGD_JOB_ID.$BGD_ATTEMPT"; result "{\\"ok\\": $told}"; }
silent() { :; }
leave() { exit 7; }
leave_with_half() { result '{"ok": '; exit 7; }
half() { result '{"ok": '; }
other() { result '[]'; }
long() { head -c 1100000 /dev/zero | tr '\\0' ' ' > "/dev/fd/$BGD_RESULT_FD"; }
raise() { result '{"error": {"type": "Shop::Busy", "message": "too busy", "traceback": "line 1"}}'; exit 1; }
pause() { result '{"wish": {"aim": "snooze", "after": 3600, "message": "later"}}'; }
give_up() { result '{"wish": {"aim": "fail", "message": "no use"}}'; exit 1; }
refuse() { result '{"refused": "no such job"}'; }
hang() { echo hanging; exec sleep 60; }
wait_for() { echo waiting; until test -e go; do sleep 0.02; done; }
twice() { test "$BGD_ATTEMPT" = 2 || exit 3; result '{"ok": "second"}'; }
name=$(expr "$told" : '.*"target":"Jobs\\.\\([a-z_]*\\)')
"$name"
"""
CONFIGURATION = """
[security]
allowed_classes = ["sh::Jobs.*", "missing::Jobs.*"]
[runners.sh]
argv = ["sh", "jobs.sh"]
cwd = "{folder}/shop"
[runners.missing]
argv = ["no-such-program"]
[retry]
retries = 0
delay = "1ms"
[classes."sh::Jobs.raise"]
retries = 2
on_exceptions = { "Shop::Busy" = "retry 1ms" }
"""


pytestmark = pytest.mark.daemon(CONFIGURATION, {"shop/jobs.sh": PROGRAM})


def test_runner_reads_the_job_in_its_folder_and_returns_a_result(daemon):
    with daemon.client() as client:
        job = client.call("sh::Jobs.tell@run", ["ada", 12345678901234567890], {"größe": None})

        assert job.result(DEADLINE) == {
            "id": job.id,
            "attempt": 1,
            "target": "Jobs.tell@run",
            "args": ["ada", 12345678901234567890],
            "kwargs": {"größe": None},
        }
        assert b"".join(part.data for part in job.logs()) == (
            f"in {daemon.folder}/shop as {job.id}.1\n".encode()
        )


def test_class_and_method_are_passed_as_one_target(daemon, monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", str(daemon.socket))

    job = run_background_job("sh::Jobs.tell", "run", {"to": "ada"})

    told = {"id": job.id, "attempt": 1, "target": "Jobs.tell@run", "args": [], "kwargs": {"to": "ada"}}
    assert job.result(DEADLINE) == told


def test_bgctl_calls_a_runner_and_shows_the_job(daemon):
    done = daemon.bgctl("call", "--wait", "sh::Jobs.tell", "ada", "--kw", "count=3", "--json")
    shown = daemon.shown("last")

    assert done.returncode == 0
    assert (shown["kind"], shown["target"]) == ("class", "sh::Jobs.tell")
    assert (shown["result"]["args"], shown["result"]["kwargs"]) == (["ada"], {"count": "3"})


def test_runner_without_a_result_document_succeeds(daemon):
    with daemon.client() as client:
        assert client.call("sh::Jobs.silent").result(DEADLINE) is None


@pytest.mark.parametrize("name", ["leave", "leave_with_half"])
def test_exit_code_is_the_outcome_without_a_result_document(daemon, name):
    with daemon.client() as client:
        job = client.call(f"sh::Jobs.{name}").wait(DEADLINE)

    assert (job.outcome, job.exit_code) == (Outcome.EXIT, 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half", "the result file holds no result: Input data was truncated"),
        ("other", "the result file holds no result: Expected `object`"),
        ("long", "the result file is over the limit of 1000100 bytes"),
    ],
)
def test_malformed_result_document_is_an_error(daemon, name, words):
    with daemon.client() as client, pytest.raises(JobFailed, match=words):
        client.call(f"sh::Jobs.{name}").result(DEADLINE)


def test_exception_of_a_runner_is_reported_and_handled_by_its_policy(daemon):
    with daemon.client() as client:
        job = client.call("sh::Jobs.raise")
        with pytest.raises(JobFailed, match="too busy") as failure:
            job.result(DEADLINE)

    assert (failure.value.error_type, failure.value.traceback) == ("Shop::Busy", "line 1")
    assert job.refresh().attempt == 3


def test_runner_may_decide_what_happens_next(daemon):
    with daemon.client() as client:
        hopeless = client.call("sh::Jobs.give_up", retries=5).wait(DEADLINE)
        refused = client.call("sh::Jobs.refuse").wait(DEADLINE)
        again = client.call("sh::Jobs.twice", retries=1)
        later = client.call("sh::Jobs.pause")
        wait_until(lambda: later.refresh().state is State.SCHEDULED)

        assert (hopeless.state, hopeless.attempt) == (State.FAILED, 1)
        assert refused.outcome is Outcome.REFUSED
        assert again.result(DEADLINE) == "second"
        assert (later.snoozes, later.attempts()[0].error.message) == (1, "later")
        later.cancel()


def test_time_limit_and_cancel_end_a_runner(daemon):
    with daemon.client() as client:
        late = client.call("sh::Jobs.hang", timeout=0.1).wait(DEADLINE)
        job = client.call("sh::Jobs.hang")
        wait_until(lambda: any(job.logs()))
        job.cancel()

        assert late.outcome is Outcome.TIMEOUT
        assert job.wait(DEADLINE).outcome is Outcome.CANCELLED


def test_missing_program_of_a_runner_is_named(daemon):
    with daemon.client() as client:
        job = client.call("missing::Jobs.any").wait(DEADLINE)

        assert job.outcome is Outcome.NOT_STARTED
        assert "no-such-program" in job.attempts()[0].error.message


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("sh::Others.tell", r'sh::Others.tell is not in .*: add "sh::Others.tell" there, then'),
        ("sh::Jobs.deep.tell", "is not in"),
        ("bash::Jobs.tell", r"no \[runners.bash\] in .*; did you mean sh\?"),
    ],
)
def test_what_is_not_allowed_is_refused(daemon, target, words):
    with daemon.client() as client, pytest.raises(NotAllowed, match=words):
        client.call(target)
    assert daemon.bgctl("call", target).returncode == 77


def test_runner_takes_no_folder_from_outside(daemon):
    with daemon.client() as client:
        with pytest.raises(NotAllowed, match="takes no cwd from outside"):
            client.call("sh::Jobs.tell", cwd="/tmp")
        held = client.call("sh::Jobs.tell", hold=True)
        for changed in ({"cwd": "/tmp"}, {"env": {"ENV": "/tmp/evil"}}):
            with pytest.raises(NotAllowed, match="from outside"):
                held.edit(**changed)
        held.cancel()


def test_end_of_a_silent_runner_is_right_although_the_daemon_was_killed(daemon):
    with daemon.client() as client:
        job = client.call("sh::Jobs.wait_for", [], {})
        wait_until(lambda: job.refresh().state is State.RUNNING and any(job.logs()))
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        daemon.start()
        (daemon.folder / "shop/go").touch()

        assert job.result(DEADLINE) is None


def test_waiting_job_is_refused_once_its_runner_is_gone(daemon):
    text = CONFIGURATION.replace("{folder}", str(daemon.folder))
    with daemon.client() as client:
        held = client.call("missing::Jobs.any", hold=True)
        daemon.configure(text.replace('[runners.missing]\nargv = ["no-such-program"]\n', ""))
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: daemon.bgctl("call", "missing::Jobs.any").returncode == 77)
        held.release()
        ended = held.wait(DEADLINE)

        assert ended.outcome is Outcome.REFUSED
        assert "no [runners.missing]" in ended.attempts()[0].error.message
