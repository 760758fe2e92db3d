"""Processes as /proc shows them, and signals that reach only the intended process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bgd.launcher.process import Process, mark_of, open_pidfd, open_streams, read_process, send_signal
from tests.launcher.host import is_alive
from tests.support import wait_until


@pytest.fixture
def child():
    """Yield a process that sleeps, with a mark and a pipe for its output."""
    environment = {"PATH": os.environ["PATH"], "BGD_RUN": "store.1.1"}
    with subprocess.Popen(
        ["sleep", "100"], stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as child:
        wait_until(lambda: mark_of(child.pid) is not None)  # after its exec
        yield child
        child.kill()


def seen(child: subprocess.Popen[bytes]) -> Process:
    process = read_process(child.pid)
    assert process is not None
    return process


def test_a_process_is_described_by_who_it_belongs_to(child):
    found = seen(child)

    assert (found.pid, found.parent) == (child.pid, os.getpid())
    assert found.group == found.session == child.pid
    assert not found.is_dead
    assert mark_of(child.pid) == "store.1.1"
    assert os.fstat(child.stdout.fileno()).st_ino in open_streams(child.pid)


def test_a_name_with_blanks_and_parentheses_is_parsed(tmp_path):
    program = tmp_path / ") R 1 (("
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as child:
        wait_until(lambda: b") R 1 ((" in Path(f"/proc/{child.pid}/stat").read_bytes())

        assert seen(child).parent == os.getpid()


def test_a_process_that_has_ended_is_dead_and_then_gone(child):
    child.kill()

    wait_until(lambda: seen(child).is_dead)
    child.wait()
    assert read_process(child.pid) is None
    assert open_streams(child.pid) == set()
    assert mark_of(child.pid) is None


def test_a_process_whose_first_thread_has_ended_is_not_dead():
    code = """if True:
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=(100,)).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        wait_until(lambda: b") Z " in Path(f"/proc/{child.pid}/stat").read_bytes())

        assert not seen(child).is_dead
        child.kill()


def test_a_signal_reaches_the_intended_process(child):
    assert send_signal(seen(child), signal.SIGKILL)

    assert child.wait() == -signal.SIGKILL


def test_a_signal_for_an_earlier_process_with_this_pid_is_not_sent(child):
    earlier = msgspec.structs.replace(seen(child), ticks=1)

    assert not send_signal(earlier, signal.SIGKILL)
    assert open_pidfd(earlier) is None
    assert is_alive(child.pid)


def test_a_signal_for_a_pid_that_is_now_a_thread_is_not_sent():
    code = (
        "import threading; thread = threading.Thread(target=input); thread.start(); print(thread.native_id)"
    )
    with subprocess.Popen(
        [sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        thread = read_process(int(child.stdout.readline()))
        assert thread is not None

        assert open_pidfd(thread) is None
        assert not send_signal(thread, signal.SIGKILL)
        assert is_alive(child.pid)


def test_a_signal_for_a_process_that_is_gone_is_not_sent(child):
    gone = seen(child)
    child.kill()
    child.wait()

    assert not send_signal(gone, signal.SIGKILL)
