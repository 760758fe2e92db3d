"""A forked job gets its signals and limits, and its true end is reported, as if it were spawned."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.launcher import journal
from bgd.wire.launching import (
    CheckAttempt,
    Checked,
    ContinueProcesses,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
)
from tests.launcher.host import is_alive, is_stopped, needs_strace, written
from tests.launcher.warm.calls import Calls
from tests.support import wait_until

JOB = """
import os, signal, subprocess, sys, time

def tell(folder):
    pid = subprocess.Popen(["sleep", "1000"]).pid
    with open(folder + "/told", "w") as file:
        file.write(f"{os.getpid()} {pid}\\n")

def stay(folder):
    tell(folder)
    time.sleep(1000)

def hide(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nothing = subprocess.DEVNULL
    subprocess.Popen(["setsid", "sleep", "1000"], stdout=nothing, stderr=nothing, env={})
    stay(folder)

def leave(folder):
    tell(folder)
    return 5

def escape(folder):
    sleep = "sleep 1000 & echo $$ $! > " + folder + "/escaped; mv " + folder + "/escaped " + folder + "/told"
    nothing = subprocess.DEVNULL
    streams = {"stdin": nothing, "stdout": nothing, "stderr": nothing}
    subprocess.run(["setsid", "sh", "-c", sleep], env={"PATH": os.environ["PATH"]}, **streams)
    return 5

def wait(folder):
    signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
    tell(folder)
    while not os.path.exists(folder + "/enough"):
        time.sleep(0.01)
    return "done"

def flood():
    for _ in range(10_000):
        print("x" * 99)

def flood_for_ever():
    while True:
        print("x" * 99)

def ok():
    return os.getpid()
"""


@pytest.fixture
def told(tmp_path):
    """Return the pids of a job and of its child, once it has written them."""

    def pids() -> list[int]:
        return [int(pid) for pid in written(tmp_path / "told").split()]

    return pids


@pytest.fixture
def every(every: Calls) -> Calls:
    return with_job(every)


@pytest.fixture
def forked(forked: Calls) -> Calls:
    return with_job(forked)


def with_job(calls: Calls) -> Calls:
    calls.write("job", JOB)
    calls.preload = ["job"]
    return calls


def test_over_its_time_limit_it_is_ended_with_all_its_processes(every, tmp_path, told):
    end = every.run("job:stay", str(tmp_path), timeout=0.5)

    assert (end.outcome, end.exit_code) == (Outcome.TIMEOUT, 1)
    assert not any(map(is_alive, told()))
    assert every.run("job:ok").outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("name", ["stay", "hide"])
def test_cancelled_it_is_ended_with_all_its_processes(every, tmp_path, told, name):
    other = every.launch("job:wait", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    key = every.launch(f"job:{name}", str(tmp_path))
    pids = told()

    every.supervisor.say(StopProcesses(key, 0.2))

    end = every.supervisor.ended(key)
    assert (end.outcome, end.signal) == (Outcome.CANCELLED, {"stay": 15, "hide": 9}[name])
    assert not any(map(is_alive, pids))
    (tmp_path / "other/enough").touch()
    assert every.supervisor.ended(other).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("name", ["leave", "escape"])
def test_what_it_leaves_behind_is_ended(every, tmp_path, told, name):
    end = every.run(f"job:{name}", str(tmp_path))

    assert (end.outcome, end.result) == (Outcome.SUCCEEDED, b'{"ok":5}')
    assert not is_alive(told()[1])


def test_it_gets_signals_and_stops_when_it_is_suspended(every, tmp_path, told):
    key = every.launch("job:wait", str(tmp_path), timeout=1.0)
    first, _ = told()
    every.supervisor.say(SuspendProcesses(key))
    wait_until(lambda: is_stopped(first))

    (tmp_path / "enough").touch()
    every.supervisor.say(SignalProcesses(key, signal.SIGUSR1))
    every.supervisor.say(ContinueProcesses(key))

    end = every.supervisor.ended(key)
    assert (end.outcome, end.result) == (Outcome.SUCCEEDED, b'{"ok":"done"}')
    assert every.output(end) == "heard\n"


def test_its_log_has_a_cap_which_may_end_the_job(every):
    end = every.run("job:flood", log_cap=100_000)
    assert (end.outcome, end.log_bytes) == (Outcome.SUCCEEDED, 1_000_000)
    assert len(every.output(end)) == 50_000

    assert every.run("job:flood_for_ever", log_cap=100_000, log_kill=True).outcome is Outcome.LOG_LIMIT


def test_it_never_runs_if_it_is_stopped_right_after_the_launch(every, tmp_path):
    every.run("job:ok")  # so that a worker waits for it
    launch = every.launch_of("job:leave", str(tmp_path))
    every.supervisor.say(launch, StopProcesses(launch.key, 1.0))

    end = every.supervisor.ended(launch.key)

    assert (end.outcome, end.started_at) == (Outcome.CANCELLED, None)
    assert not (tmp_path / "told").exists()


def test_it_begins_when_continued_if_it_is_suspended_right_after_the_launch(every, tmp_path):
    every.run("job:ok")
    launch = every.launch_of("job:leave", str(tmp_path))
    every.supervisor.say(launch, SuspendProcesses(launch.key))
    every.run("job:ok")
    assert not (tmp_path / "told").exists()

    every.supervisor.say(ContinueProcesses(launch.key))

    assert every.supervisor.ended(launch.key).result == b'{"ok":5}'


def test_its_suspension_is_confirmed_when_it_is_stopped(every, tmp_path, told):
    every.run("job:ok")
    key = every.launch("job:stay", str(tmp_path))
    pids = told()

    every.supervisor.say(SuspendProcesses(key), CheckAttempt(key, 7, settled=True))
    while not isinstance(heard := every.supervisor.hear(), Checked):
        pass
    assert heard.is_alive
    assert all(map(is_stopped, pids))
    every.supervisor.say(StopProcesses(key, 0.0))
    every.supervisor.ended(key)


def test_it_stays_suspended_if_it_was_continued_and_then_suspended_while_it_started(forked, tmp_path):
    forked.run("job:ok")
    (worker,) = forked.workers()
    os.kill(worker, signal.SIGSTOP)
    key = forked.launch("job:wait", str(tmp_path))
    # with this record, or a moment before, the worker was asked to start it
    wait_until(lambda: key in journal.read(forked.host.state / "launcher.journal").attempts)

    forked.supervisor.say(SignalProcesses(key, signal.SIGCONT, whole_tree=True), SuspendProcesses(key))
    assert forked.supervisor.run("true").outcome is Outcome.SUCCEEDED
    os.kill(worker, signal.SIGCONT)

    pid = forked.supervisor.started(key).pid
    wait_until(lambda: is_stopped(pid))
    for _ in range(3):
        assert forked.supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert is_stopped(pid)
    (tmp_path / "enough").touch()
    forked.supervisor.say(ContinueProcesses(key))
    assert forked.supervisor.ended(key).outcome is Outcome.SUCCEEDED


def test_many_at_a_time_each_have_their_own_end(every):
    count = 100 if every.isolation == "fork" else 10
    every.write("own", "import sys\ndef end(n):\n print(n)\n return n if n % 3 else sys.exit(n % 7)\n")
    keys = [every.launch("own:end", number) for number in range(count)]

    ends = every.supervisor.all_ended(keys)

    for number, end in enumerate(ends):
        expected = (0, b'{"ok":%d}' % number) if number % 3 else (number % 7, b"")
        assert (end.exit_code, end.result) == expected
        assert every.output(end) == f"{number}\n"


@needs_strace
def test_a_fork_that_the_machine_refuses_is_tried_again(forked):
    assert forked.run("job:ok").outcome is Outcome.SUCCEEDED
    (worker,) = forked.workers()
    calls = "clone,clone3,fork,vfork"
    argv = ["strace", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EAGAIN:when=1", "-p", str(worker)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        end = forked.run("job:ok")
        tracer.terminate()

    assert end.outcome is Outcome.SUCCEEDED
    assert "cannot start yet: no more processes are allowed" in forked.host.said


def test_a_forked_job_that_exited_while_the_launcher_was_stopped_is_not_alive(forked, tmp_path):
    key = forked.launch("job:stay", str(tmp_path))
    pid = int(written(tmp_path / "told").split()[0])
    launcher = forked.host.launchers[-1]
    forked.supervisor.say(CheckAttempt(key, 1))
    launcher.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))

    forked.supervisor.say(CheckAttempt(key, 2))
    launcher.send_signal(signal.SIGCONT)

    answers: dict[int, bool | None] = {}
    while len(answers) < 2:
        if isinstance(heard := forked.supervisor.hear(), Checked):
            answers[heard.number] = heard.is_alive
    assert answers[2] is False


def test_a_forked_job_uses_little_memory_of_its_own(forked, tmp_path):
    forked.write("held", "held = [str(number) for number in range(500_000)]\n")  # about 35 MB
    forked.preload = ["job", "held"]
    key = forked.launch("job:wait", str(tmp_path))
    pid = int(written(tmp_path / "told").split()[0])

    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    forked.supervisor.say(StopProcesses(key, 0.0))
    forked.supervisor.ended(key)

    assert kilobytes["Rss:"] > 30_000
    assert kilobytes["Private_Dirty:"] < 4_000


def test_the_daemons_death_or_a_new_one_changes_nothing(every, tmp_path, told):
    key = every.launch("job:wait", str(tmp_path))
    first, _ = told()
    every.supervisor.started(key)  # the job may say so before the launcher knows it
    every.supervisor.close()
    every.supervisor = every.host.supervise(generation=2)
    assert every.supervisor.snapshot[key].pid == first
    os.kill(first, signal.SIGUSR1)

    (tmp_path / "enough").touch()

    assert every.supervisor.ended(key).result == b'{"ok":"done"}'
