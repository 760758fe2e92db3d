"""Process scans while some processes do not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.launcher.process import UNKNOWN_TICKS, read_process, read_silent, send_signal
from bgd.launcher.scan import _ThreadedReader
from bgd.wire.launching import SignalProcesses, StopProcesses
from tests.launcher.host import is_alive
from tests.launcher.silent_mount import silent_mount
from tests.support import wait_until

# An exec flushes the files that it closes. Meanwhile it holds the lock that readers of
# /proc/PID/environ and, with newer kernels, /proc/PID/stat wait for. Not even SIGKILL ends it.
HANG = "import os, sys; os.open(sys.argv[1], os.O_RDONLY); os.execv('/bin/sleep', ['sleep', '1000'])"


@pytest.fixture
def silent(tmp_path):
    with silent_mount(tmp_path) as mount:
        yield mount


def hanging(silent) -> list[str]:
    """Return the command of a program that hangs in the middle of an exec."""
    return [sys.executable, "-S", "-c", HANG, f"{silent.point}/file"]


def wait_until_it_hangs(silent, pid: int) -> None:
    silent.let_open()
    wait_until(silent.is_asked)
    with subprocess.Popen(["cat", f"/proc/{pid}/environ"], stdout=subprocess.DEVNULL) as reader:
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(0.2)
        reader.kill()


def is_killed(pid: int) -> bool:
    """Return whether SIGKILL waits for this process to leave the kernel."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(each & 1 << (signal.SIGKILL - 1) for each in pending)


def test_a_job_that_hangs_in_an_exec_delays_no_other(supervisor, silent):
    other = supervisor.launch("sleep", "1000")
    supervisor.started(other)
    key = supervisor.launch(*hanging(silent))
    wait_until_it_hangs(silent, pid := supervisor.started(key).pid)

    supervisor.say(StopProcesses(other, 1.0))

    assert supervisor.ended(other).outcome is Outcome.CANCELLED
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    supervisor.say(
        SignalProcesses(key, signal.SIGURG, whole_tree=True),
        SignalProcesses(key, signal.SIGURG),
        StopProcesses(key, 0.0),
    )
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    wait_until(lambda: is_killed(pid))
    silent.end()
    assert supervisor.ended(key).outcome is Outcome.CANCELLED


def test_other_processes_that_hang_in_an_exec_are_named_once_and_delay_no_job(host, tmp_path):
    with ExitStack() as stack:
        mounts = []
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            mounts.append(stack.enter_context(silent_mount(tmp_path / str(number))))
        host.start()
        supervisor = host.supervise()
        keys = [supervisor.launch("sleep", "1000") for _ in range(2)]
        for key in keys:
            supervisor.started(key)
        others = [subprocess.Popen(hanging(mount)) for mount in mounts]
        for mount, process in zip(mounts, others, strict=True):
            wait_until_it_hangs(mount, process.pid)

        for key in keys:
            supervisor.say(StopProcesses(key, 1.0))
            assert supervisor.ended(key).outcome is Outcome.CANCELLED
        assert supervisor.run("true").outcome is Outcome.SUCCEEDED

        for mount, process in zip(mounts, others, strict=True):
            process.kill()
            mount.end()
            process.wait()
    for process in others:
        assert host.said.count(f"process {process.pid} hangs in the middle of an exec") == 1


def test_a_process_that_hangs_in_an_exec_is_found_by_its_tag_and_killed(host, supervisor, silent):
    """This includes a process that has left its job's session and outlived its parent."""
    words = " ".join(f"'{word}'" if "'" not in word else f'"{word}"' for word in hanging(silent))
    script = f"(setsid {words} </dev/null >/dev/null 2>&1 & echo $!); exec sleep 1000"
    key = supervisor.launch("sh", "-c", script)
    supervisor.started(key)
    wait_until(lambda: b"\n" in host.output(key))
    pid = int(host.output(key))
    wait_until_it_hangs(silent, pid)

    supervisor.say(StopProcesses(key, 0.0))

    wait_until(lambda: is_killed(pid))
    silent.end()
    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert not is_alive(pid)


def test_the_next_launcher_starts_while_a_process_hangs_in_an_exec(host, supervisor, silent):
    key = supervisor.launch("sleep", "1000")
    left = supervisor.started(key).pid
    with subprocess.Popen(hanging(silent)) as process:
        wait_until_it_hangs(silent, process.pid)
        host.kill()
        host.start()
        heir = host.supervise(2)

        assert heir.snapshot[key].outcome is Outcome.UNKNOWN
        assert not is_alive(left)
        process.kill()
        silent.end()


def test_a_scan_shows_what_is_known_of_a_process_that_hangs_and_all_of_the_others(silent):
    with (
        subprocess.Popen(hanging(silent), start_new_session=True) as process,
        subprocess.Popen(["sleep", "1000"], env={"BGD_RUN": "store.1.1"}) as other,
    ):
        wait_until_it_hangs(silent, process.pid)

        scan = _ThreadedReader(0, deque([process.pid, other.pid]), frozenset()).run()

        found = scan.processes[process.pid]
        assert scan.silent == {process.pid}
        assert (found.parent, found.group, found.session) == (os.getpid(), process.pid, process.pid)
        assert scan.processes[other.pid].ticks != UNKNOWN_TICKS
        assert scan.marks == {other.pid: "store.1.1"}
        again = _ThreadedReader(0, deque([other.pid, process.pid]), frozenset({process.pid})).run()
        assert again.processes == scan.processes
        assert send_signal(found, signal.SIGKILL)
        silent.end()
        process.wait()
        assert not send_signal(found, signal.SIGKILL)
        other.kill()


def test_what_is_known_of_a_silent_process_agrees_with_what_is_read_later():
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        told, known = read_process(process.pid), read_silent(process.pid)
        process.kill()
    assert told is not None
    assert known is not None
    assert (told.parent, told.group, told.session) == (known.parent, known.group, known.session)
    assert read_silent(process.pid) is None
