"""What is the same on each executor: this machine, a pilot of many jobs, and one of their own."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bgd import Outcome, State
from tests.slurm.test_slurm import started, written
from tests.support import DEADLINE, wait_until

ALONE = {"executor": "cluster", "nodes": 1}
WHERE: dict[str, dict[str, Any]] = {
    "local": {"executor": "local"},
    "shared": {"executor": "cluster"},
    "alone": ALONE,
}


@pytest.fixture(params=WHERE)
def where(request):
    return WHERE[request.param]


@pytest.fixture
def nodes(where) -> set[str | None]:
    return {None} if where["executor"] == "local" else {"n1", "n2"}


@pytest.fixture
def run(client, where):
    return lambda script, **options: client.submit(["sh", "-c", script], **where, **options)


def test_output_is_in_order_and_the_code_is_true(run, nodes):
    script = "i=0; while [ $i -lt 50 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf end; exit 7"

    job = run(script).wait(DEADLINE)

    assert (job.state, job.outcome, job.exit_code) == (State.FAILED, Outcome.EXIT, 7)
    lines = [f"{stream} {number}\n" for number in range(50) for stream in ("out", "err")]
    assert job.output() == "".join(lines) + "end"
    [attempt] = job.attempts()
    assert attempt.node in nodes
    assert attempt.max_rss_bytes is None or attempt.max_rss_bytes > 100_000


def test_a_job_gets_its_folder_umask_input_and_environment(daemon, run):
    script = "pwd; umask; cat; echo $COLOUR $BGD_ATTEMPT"
    options = {"cwd": "/usr", "umask": 0o027, "input": "given\n", "env": {"COLOUR": "red"}}

    assert run(script, **options).wait(DEADLINE).output() == "/usr\n0027\ngiven\nred 1\n"
    source = daemon.folder / "input"
    source.write_text("from a file")
    assert run("cat", stdin=str(source)).wait(DEADLINE).output() == "from a file"
    assert run("cat; echo nothing").wait(DEADLINE).output() == "nothing\n"


def test_output_is_live_and_a_running_job_names_its_node(daemon, run, nodes):
    job = started(run("echo ready; while [ ! -e go ]; do sleep 0.05; done", cwd=daemon.folder))

    wait_until(lambda: job.attempts()[0].pid)
    assert job.attempts()[0].node in nodes
    (daemon.folder / "go").touch()
    assert job.wait(DEADLINE).state is State.SUCCEEDED
    (daemon.folder / "go").unlink()


def test_much_output_arrives_whole(run):
    job = run("seq 300000; echo end").wait(DEADLINE)

    assert job.output() == "".join(f"{number}\n" for number in range(1, 300_001)) + "end\n"


def test_cancel_sends_the_stop_signal_and_kill_after_the_grace_time(run):
    polite = started(run("trap 'echo bye; exit 3' INT; echo ready; sleep 1000 & wait", stop_signal="INT"))
    deaf = started(run("trap '' TERM; echo ready; while :; do sleep 0.1; done"))

    polite.cancel()
    deaf.cancel()

    assert polite.wait(DEADLINE).outcome is Outcome.CANCELLED
    assert polite.output() == "ready\nbye\n"
    assert polite.exit_code == 3
    assert deaf.wait(DEADLINE).outcome is Outcome.CANCELLED
    assert deaf.signal == signal.SIGKILL


def test_a_time_limit_ends_a_job(run):
    job = run("echo ready; sleep 1000", timeout=0.5, rerun=False).wait(DEADLINE)

    assert (job.state, job.outcome) == (State.FAILED, Outcome.TIMEOUT)
    assert job.output().startswith("ready\n")  # the shell may say that its program was terminated


def test_signals_and_suspension_reach_the_job(client, run):
    job = started(run("trap 'echo got' USR1; echo ready; while :; do sleep 0.05; done"))

    client.signal([job], signal.SIGUSR1)
    wait_until(lambda: written(job).count("got\n") == 1)
    client.suspend([job])
    client.signal([job], signal.SIGUSR1)
    client.continue_([job])
    wait_until(lambda: written(job).count("got\n") == 2)
    client.signal([job], signal.SIGKILL)
    ended = job.wait(DEADLINE)

    assert ended.state is State.FAILED
    assert ended.outcome is Outcome.SIGNAL


def test_what_a_job_leaves_behind_is_ended(run):
    is_sleep = '[ "$(cat /proc/$!/comm)" = sleep ]'
    job = run(f"sleep 1000 >/dev/null 2>&1 & until {is_sleep}; do :; done").wait(DEADLINE)

    assert job.state is State.SUCCEEDED
    assert "sleep (pid " in job.attempts()[0].leftovers


def has_grown(path: Path, size: int) -> bool:
    return path.stat().st_size > size


def test_nothing_of_a_job_runs_any_more_when_its_suspension_is_confirmed(client, run, daemon):
    marks = daemon.folder / "marks"
    marks.unlink(missing_ok=True)
    job = run(f"while :; do echo >> {marks}; done")
    wait_until(marks.exists)

    for _ in range(5):
        assert [each.code for each in client.suspend([job])] == [None]
        stopped_at = marks.stat().st_size
        client.submit(["sleep", "0.1"], executor="local").wait(DEADLINE)
        assert marks.stat().st_size == stopped_at
        client.continue_([job])
        wait_until(partial(has_grown, marks, stopped_at))
    client.cancel([job])


@pytest.mark.parametrize(
    ("argv", "options", "problem"),
    [
        (["no-such-program"], {"env": {"PATH": "/usr/bin"}}, "program not found: no-such-program"),
        (["/etc/passwd"], {}, "not executable: /etc/passwd"),
        (["true"], {"cwd": "/nowhere"}, "no such directory: /nowhere"),
    ],
    ids=["program", "permission", "folder"],
)
def test_what_prevents_a_start_is_said(client, where, argv, options, problem):
    job = client.submit(argv, check=False, **where, **options).wait(DEADLINE)

    assert (job.state, job.outcome) == (State.FAILED, Outcome.NOT_STARTED)
    assert job.problem.startswith(problem)


def test_a_class_job_returns_its_result(client, where):
    job = client.call("work:where", args=[41], **where).wait(DEADLINE)
    failing = client.call("work:fail", retries=0, **where).wait(DEADLINE)

    node, number = job.result()
    assert node == (job.attempts()[0].node or "here")
    assert number == 42
    assert job.output() == f"on {node}\n"
    assert (failing.outcome, failing.problem) == (Outcome.ERROR, "ValueError: as asked")


# --- what dies: only jobs on other machines outlive the launcher


@pytest.fixture(params=["shared", "alone"])
def run_far(client, request):
    where = WHERE[request.param]
    return lambda script, **options: client.submit(["sh", "-c", script], **where, **options)


def kill_launcher(client) -> None:
    """Kill it, and return when the next one works."""
    os.kill(client.info().launcher_pid, signal.SIGKILL)
    wait_until(lambda: client.submit(["true"]).wait(DEADLINE).state is State.SUCCEEDED)


def test_the_daemon_is_killed_and_the_next_one_takes_the_job_over(daemon, run, gate):
    job = started(run(gate.script("echo after; exit 5")))

    daemon.process.kill()
    daemon.process.wait()
    gate.open()
    daemon.start()

    ended = job.wait(DEADLINE)
    assert (ended.exit_code, gate.starts) == (5, 1)
    assert ended.output() == "ready\nafter\n"


def test_the_launcher_is_killed_and_the_job_runs_on_to_its_true_end(client, run_far, gate):
    job = started(run_far(gate.script("exit 6"), rerun=True))
    local = started(client.submit(["sh", "-c", "echo ready; sleep 1000"]))

    kill_launcher(client)

    assert local.wait(DEADLINE).outcome is Outcome.UNKNOWN
    assert job.refresh().state is State.RUNNING
    gate.open()
    job.wait(DEADLINE)
    [attempt] = job.attempts()
    assert (attempt.exit_code, gate.starts) == (6, 1)
    assert attempt.node in {"n1", "n2"}


def test_a_cancel_reaches_a_job_whose_launcher_was_killed(client, run_far, gate):
    job = started(run_far(gate.script("exit 6")))
    kill_launcher(client)

    job.cancel()

    assert job.wait(DEADLINE).state is State.CANCELLED
    assert gate.starts == 1


def test_a_suspended_job_stays_so_when_the_launcher_is_killed_and_can_be_continued(client, run_far, gate):
    job = started(run_far(gate.script("exit 7"), rerun=False))
    client.suspend([job])
    wait_until(lambda: job.refresh().suspended)

    kill_launcher(client)

    gate.open()
    assert job.refresh().suspended
    assert job.state is State.RUNNING
    client.continue_([job])
    assert job.wait(DEADLINE).exit_code == 7
