"""Signals to the launcher itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from tests.launcher.host import PATIENCE, needs_strace
from tests.support import DEADLINE, ROOT, wait_until

STRAYS = "USR1 USR2 ALRM QUIT IO PROF VTALRM TRAP XCPU PWR STKFLT RTMIN"

# asyncio alone loses the last of these signals, and warns of each that does not fit into its pipe
CROWDED = """
import asyncio, os, signal
from bgd.launcher.children import Child, Children, start_program
from bgd.launcher.__main__ import _listen_for_signals

children = Children()

async def main():
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    children.install(loop)
    _listen_for_signals(loop, told.set)
    ending = Child(start_program("/bin/true", ["true"], {}, (0, 1, 2)), children)
    for _ in range(100_000):
        os.kill(os.getpid(), signal.SIGCHLD)
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    await ending.wait()

asyncio.run(main())
"""


def test_sigterm_among_hundreds_of_ended_children_is_noticed_without_warnings():
    result = subprocess.run(
        [sys.executable, "-c", CROWDED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_strace
@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_send_signal", "waitid", "prctl"])
@pytest.mark.parametrize("program", ["bgd", "bgd.launcher"])
def test_without_a_required_system_call_nothing_is_started_and_a_line_names_it(tmp_path, program, call):
    (tmp_path / "bgd.toml").write_text(f'[daemon]\nstate_dir = "{tmp_path}/state"\n')
    folders = ["--state", str(tmp_path / "state"), "--logs", str(tmp_path / "logs")]
    options = ["--config", str(tmp_path / "bgd.toml")] if program == "bgd" else folders
    inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=ENOSYS"]

    done = subprocess.run(
        [*inject, sys.executable, "-m", program, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    [line] = done.stderr.splitlines()
    assert (done.returncode, f"the system call {call} fails (Function not implemented)" in line) == (1, True)


@needs_strace
def test_doctor_and_a_submit_name_the_system_call_that_keeps_bgd_from_starting(tmp_path):
    config = tmp_path / "bgd.toml"
    config.write_text(f'[daemon]\nstate_dir = "{tmp_path}/state"\n')
    inject = ["strace", "-f", "-o", "/dev/null", "-e", "trace=pidfd_open"]
    bgctl = [sys.executable, "-m", "bgctl", "--config", str(config)]

    said = [
        subprocess.run(
            [*inject, "-e", "inject=pidfd_open:error=ENOSYS", *bgctl, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        for words in (["doctor"], ["submit", "true"])
    ]

    why = "the system call pidfd_open fails (Function not implemented)"
    assert [why in each.stdout + each.stderr for each in said] == [True, True]
    assert [each.returncode for each in said] == [1, 69]


@pytest.mark.parametrize("name", STRAYS.split())
def test_a_stray_signal_ends_neither_the_launcher_nor_a_job(host, supervisor, name):
    key = supervisor.launch("sleep", "100")
    pid = supervisor.started(key).pid

    for _ in range(2):
        host.launchers[-1].send_signal(signal.Signals[f"SIG{name}"])
    wait_until(lambda: f"ignored SIG{name}" in host.said)

    number = signal.Signals[f"SIG{name}"].value
    assert supervisor.run("sh", "-c", f"kill -{number} $$").signal == number
    assert host.said.count("ignored") == 1
    os.kill(pid, signal.SIGKILL)
    assert supervisor.ended(key).outcome is Outcome.SIGNAL


def test_a_job_that_gets_the_same_signal_as_the_launcher_is_interrupted(host, supervisor, tmp_path):
    launcher = host.launchers[-1]
    plain = supervisor.launch("sleep", "100")
    script = f"trap 'exit 1' TERM; echo > {tmp_path}/here; while :; do sleep 0.02; done"
    trapping = supervisor.launch("sh", "-c", script)
    wait_until((tmp_path / "here").exists)
    pids = [started.pid for started in supervisor.all_started((plain, trapping))]

    launcher.send_signal(signal.SIGSTOP)  # so that all have it before the launcher reacts
    for pid in (launcher.pid, *pids):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: all(has_ended(pid) for pid in pids))
    launcher.send_signal(signal.SIGCONT)

    launcher.wait(PATIENCE)
    host.start()
    ends = host.supervise(generation=2).snapshot
    assert (ends[plain].outcome, ends[plain].signal) == (Outcome.INTERRUPTED, signal.SIGTERM)
    assert (ends[trapping].outcome, ends[trapping].exit_code) == (Outcome.INTERRUPTED, 1)


def has_ended(pid: int) -> bool:
    """Return whether a process that is not yet reaped has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
