"""What the daemon and the launcher set up when they start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest
import uvloop

from bgd.settings.paths import AUTOSTART_LOG
from bgd.settings.startup import KEPT_LOG, MAX_LOG, call_in_loop, open_descriptors, shorten_log


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    made = request.param()
    before = signal.getsignal(signal.SIGCHLD)
    yield made
    signal.signal(signal.SIGCHLD, before)
    made.close()


def test_a_signal_handler_calls_back_in_the_loop(loop):
    called = loop.create_future()
    signal.signal(signal.SIGCHLD, lambda *_: call_in_loop(loop, called.set_result, "ended"))
    loop.call_soon(os.kill, os.getpid(), signal.SIGCHLD)

    assert loop.run_until_complete(called) == "ended"


def test_a_signal_after_the_end_of_the_loop_does_nothing(loop):
    signal.signal(signal.SIGCHLD, lambda *_: call_in_loop(loop, pytest.fail))
    loop.close()

    os.kill(os.getpid(), signal.SIGCHLD)


LINE = b"2026-11-30T00:00:00.000Z info: a line\n"


@pytest.fixture
def long_log(tmp_path):
    """A log over its limit, as two processes append to it."""
    path = tmp_path / AUTOSTART_LOG
    path.write_bytes(LINE * (MAX_LOG // len(LINE) + 1))
    fds = [os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    yield path, fds
    for fd in fds:
        os.close(fd)


def test_the_log_of_a_daemon_that_a_client_started_keeps_its_newest_lines(long_log):
    path, (daemon, launcher) = long_log
    os.write(daemon, b"the last\n")

    shorten_log(daemon)
    shorten_log(launcher)
    os.write(launcher, b"one more\n")

    lines = path.read_bytes().splitlines(keepends=True)
    assert KEPT_LOG - len(LINE) < path.stat().st_size <= KEPT_LOG + len(b"one more\n")
    assert set(lines[:-2]) == {LINE}
    assert lines[-2:] == [b"the last\n", b"one more\n"]


def test_a_message_shortens_the_log_that_is_stderr(long_log):
    path, (daemon, _) = long_log
    program = "import logging, bgd.__main__ as b; b.set_up_log('info', 'text'); logging.warning('full')"

    subprocess.run([sys.executable, "-c", program], stderr=daemon, check=True)

    assert path.stat().st_size <= KEPT_LOG
    assert path.read_bytes().endswith(b" warning: full\n")


def test_a_log_that_somebody_else_has_named_is_left_alone(long_log):
    path, (daemon, _) = long_log
    size = path.stat().st_size
    path.rename(path.with_name("mine.log"))

    shorten_log(daemon)

    assert path.with_name("mine.log").stat().st_size == size


FULL = """
import gc, os, resource
from bgd.settings.startup import described

gc.disable()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = [os.memfd_create("kept") for _ in range(20)]
try:
    while True:
        cycle = [open(os.devnull)]
        cycle.append(cycle)
except OSError as error:
    print(described(error))
open(os.devnull)
try:
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    print(described(error))
print(described(FileNotFoundError(2, "No such file", "x")))
"""


def test_open_descriptors_are_counted_by_kind():
    before, limit, _ = open_descriptors(os.getpid())
    opened = [os.memfd_create("many") for _ in range(200)]

    count, _, kinds = open_descriptors(os.getpid())

    for fd in opened:
        os.close(fd)
    assert before + 200 == count <= limit
    assert kinds.startswith("200 files in memory (many), ")


def test_a_process_without_free_descriptors_closes_garbage_and_says_what_holds_them():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL], capture_output=True, text=True, check=True
    )

    after_collection, full, other = done.stdout.splitlines()
    assert after_collection.startswith("too many files are open: ")
    assert "of at most 64, mostly 20 files in memory (kept), " in after_collection
    assert full.startswith("too many files are open: 64 of at most 64, mostly ")
    assert "20 files in memory (kept)" in full
    assert other == "[Errno 2] No such file: 'x'"
    assert done.stderr == f"{after_collection}\n"  # once: the second time is too soon
