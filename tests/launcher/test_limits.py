"""Limits of single processes, what is refused for lack of rights, and what a job may leave running."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import StopProcesses
from bgd.wire.limits import Limits
from tests.launcher.host import Host, is_alive, needs_root, written
from tests.launcher.unprivileged import NOBODY, UnprivilegedHost
from tests.support import wait_until


def test_limits_of_single_processes_apply_to_a_job(host, supervisor):
    script = "nice; ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"
    limits = Limits(nice=7, open_files=100, core_max=1024)

    key = supervisor.launch("bash", "-c", script, limits=limits)

    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert host.output(key).split() == [b"7", b"100", b"100", b"1", b"1"]  # KiB of a core dump


def test_limits_do_not_apply_to_the_next_job(host, supervisor):
    supervisor.run("true", limits=Limits(nice=7, open_files=100))

    key = supervisor.launch("sh", "-c", "nice; ulimit -n")

    supervisor.ended(key)
    own = os.nice(0), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert host.output(key).split() == [str(each).encode() for each in own]


def test_a_class_job_writes_its_result_under_limits_too(supervisor):
    script = "echo 7 >&$BGD_RESULT_FD"

    end = supervisor.run("bash", "-c", script, limits=Limits(open_files=16, nice=1), result=True)

    assert end.result == b"7\n"


def test_a_limited_job_on_a_terminal_has_both(host, supervisor):
    key = supervisor.launch("sh", "-c", "nice; tty", limits=Limits(nice=3), pty=True)

    supervisor.ended(key)
    assert host.output(key).split()[0] == b"3"
    assert host.output(key).split()[1].startswith(b"/dev/pts/")


def test_a_program_that_is_missing_is_named_under_limits_too(supervisor):
    end = supervisor.run("/nowhere/program", limits=Limits(nice=1))

    assert (end.outcome, end.problem) == (Outcome.NOT_STARTED, "program not found: /nowhere/program")


def test_a_limit_that_the_kernel_refuses_late_is_reported(host, supervisor):
    """The launcher's own limit was lowered after it had determined its abilities."""
    pid = host.launchers[-1].pid
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 1000))

    end = supervisor.run("true", limits=Limits(core_max=10**9))

    if end.outcome is Outcome.SUCCEEDED:
        pytest.skip("NOT RUN: with CAP_SYS_RESOURCE no limit is refused")
    assert end.outcome is Outcome.NOT_STARTED
    assert end.problem == "cannot be limited: core_max 1000000000: not allowed to raise maximum limit"


@pytest.fixture
def nobody() -> Iterator[Host]:
    """Yield a host whose launcher, which has just started, has no rights."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        os.chown(folder, NOBODY, NOBODY)
        host = UnprivilegedHost(Path(folder))
        host.start()
        yield host
        host.clear_up()
        assert "Traceback" not in host.said, host.said


@needs_root
def test_limits_that_need_rights_are_refused_without_them(nobody):
    supervisor = nobody.supervise()

    assert supervisor.run("true", limits=Limits(nice=-5)).problem == (
        f"cannot be limited: nice -5 is not permitted: the lowest for bgd is {os.nice(0)}"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert supervisor.run("true", limits=Limits(open_files=hard + 1)).problem == (
        f"cannot be limited: open_files {hard + 1} is not permitted: the launcher's own hard limit is {hard}"
    )
    assert supervisor.run("true", limits=Limits(nice=min(19, os.nice(0) + 5))).outcome is Outcome.SUCCEEDED


@needs_root
def test_a_launcher_without_delegation_reports_it_and_the_remedy(nobody):
    supervisor = nobody.supervise()

    assert supervisor.welcome.abilities.controllers == []
    end = supervisor.run("touch", str(nobody.state / "ran"), limits=Limits(memory_max=2**30))

    assert end.outcome is Outcome.NOT_STARTED
    assert end.problem.startswith("cannot be limited: memory_max needs the memory controller of cgroup v2: ")
    assert end.problem.count("\n") == 0
    assert not (nobody.state / "ran").exists()
    assert supervisor.run("true", own_group=True).outcome is Outcome.SUCCEEDED  # it runs without one


# --- leftovers --------------------------------------------------------------------------------------------

SERVER = "sleep 100 >/dev/null 2>&1 & echo $! > PID"


def test_leftovers_are_kept_if_that_was_asked_for(supervisor, tmp_path):
    script = f"{SERVER}; exit 5".replace("PID", f"{tmp_path}/pid")

    end = supervisor.shell(script, keep_leftovers=True)

    pid = int(written(tmp_path / "pid"))
    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 5)
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_the_log_ends_with_the_first_process_though_a_leftover_has_it_open(host, supervisor, tmp_path):
    script = f"(trap '' PIPE; read go < {tmp_path}/go; echo late; echo $? > {tmp_path}/told) & echo started"
    os.mkfifo(tmp_path / "go")

    key = supervisor.launch("sh", "-c", script, keep_leftovers=True)
    supervisor.ended(key)
    (tmp_path / "go").write_text("go\n")

    assert written(tmp_path / "told") == "0\n"
    assert host.output(key) == b"started\n"


def test_kept_leftovers_may_write_more_than_a_pipe_holds_even_without_the_launcher(
    host, supervisor, tmp_path
):
    go, told = tmp_path / "go", tmp_path / "told"
    os.mkfifo(go)
    script = f"(read go < {go}; head -c 1000000 /dev/zero; echo $? > {told}; exec sleep 100) & echo $!"
    key = supervisor.launch("sh", "-c", script, keep_leftovers=True)
    supervisor.ended(key)
    pid = int(host.output(key))

    host.kill()
    go.write_text("go\n")

    assert written(told) == "0\n"
    os.kill(pid, signal.SIGKILL)


def test_a_cancelled_job_keeps_nothing(supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"{SERVER}; sleep 100".replace("PID", f"{tmp_path}/pid"), keep_leftovers=True
    )
    pid = int(written(tmp_path / "pid"))

    supervisor.say(StopProcesses(key, 5.0))

    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert not is_alive(pid)


def test_kept_leftovers_outlive_their_launcher_and_the_next_one(host, supervisor, tmp_path):
    supervisor.shell(SERVER.replace("PID", f"{tmp_path}/pid"), keep_leftovers=True)
    pid = int(written(tmp_path / "pid"))
    host.kill()
    host.start()

    host.supervise(2).run("true")

    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
