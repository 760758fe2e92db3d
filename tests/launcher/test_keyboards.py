"""Keyboards of jobs with a terminal: who types, how large the window is, and what a job does not read."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

import pytest

from bgd.wire.keyboard import KEYS, LOOK, MAX_KEYBOARDS, MAX_PACKET, TEXT, WRITTEN, YOURS, size_packet
from bgd.wire.launching import MAX_KEYBOARD_ANSWER, AttemptKey, OpenKeyboard, StopProcesses
from tests.launcher.host import PATIENCE, STORE, open_files, written
from tests.support import wait_until

# prints each size of its window and each line that it reads
ECHO = """
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
def say(*words):
    os.write(1, " ".join(map(str, (*words, "\\n"))).encode())
def report():
    while signal.sigwait({signal.SIGWINCH}):
        say("size", *os.get_terminal_size())
threading.Thread(target=report, daemon=True).start()
say("ready")
for line in sys.stdin:
    say("read", line.strip())
"""
# reads nothing until somebody writes to a FIFO; then as many digits as it was told, and says whether all came
LATE_READER = """
import os, sys, time, tty
tty.setraw(0)
print("ready")
os.open(sys.argv[1], os.O_RDONLY)
data = b""
while len(data) < int(sys.argv[2]):
    data += os.read(0, 65536)
print("whole" if data == (b"0123456789" * len(data))[:len(data)] else "wrong")
"""
# reads nothing until somebody writes to a FIFO; then all up to a y, and says how many came before that
COUNTER = """
import os, sys, tty
tty.setraw(0)
print("ready")
os.open(sys.argv[1], os.O_RDONLY)
data = b""
while not data.endswith(b"y"):
    data += os.read(0, 65536)
print(len(data) - 1)
"""


OPENED: list[socket.socket] = []


@pytest.fixture(autouse=True)
def close_keyboards():
    yield
    while OPENED:
        OPENED.pop().close()


def ask(host, key):
    """Return the launcher's answer to OpenKeyboard, and the keyboard; None: there was none."""
    daemon = host.connect()
    daemon.say(OpenKeyboard(key))
    answer, fds, *_ = socket.recv_fds(daemon.socket, MAX_KEYBOARD_ANSWER, 1)
    daemon.close()
    if not fds:
        return answer, None
    keyboard = socket.socket(fileno=fds[0])
    keyboard.settimeout(PATIENCE)
    OPENED.append(keyboard)
    return answer, keyboard


def open_keyboard(host, key):
    answer, keyboard = ask(host, key)
    assert keyboard is not None, answer
    return keyboard


def attach(host, key, columns=100, lines=30):
    """Return a keyboard in line to type, and what it was told."""
    keyboard = open_keyboard(host, key)
    keyboard.send(size_packet(columns, lines))
    return keyboard, keyboard.recv(MAX_PACKET)


def start(host, supervisor, program, *arguments):
    """Start a Python program on a terminal; return its key once it runs."""
    key = supervisor.launch(sys.executable, "-I", "-u", "-c", program, *arguments, pty=True)
    shows(host, key, "ready")
    return key


def shows(host, key, *lines):
    """Wait until these lines are in the output, in this order."""

    def are_there():
        words = map(str.rstrip, host.output(key).decode().splitlines())
        return all(line in words for line in lines)

    wait_until(are_there)


def stop(supervisor, key):
    supervisor.say(StopProcesses(key, 0.0))
    supervisor.ended(key)


def test_what_is_typed_reaches_the_job_and_its_window_gets_the_size(host, supervisor):
    key = start(host, supervisor, ECHO)
    keyboard, told = attach(host, key)

    assert told == YOURS
    shows(host, key, "size 100 30")
    keyboard.send(KEYS + b"hello\r")
    shows(host, key, "hello", "read hello")
    keyboard.send(size_packet(90, 20))
    shows(host, key, "size 90 20")
    keyboard.send(KEYS + b"\x04")  # the end of its input
    supervisor.ended(key)
    assert keyboard.recv(MAX_PACKET) == b""


def test_a_program_draws_again_for_each_that_attaches_even_if_the_size_stays(host, supervisor):
    key = start(host, supervisor, ECHO)
    first, _ = attach(host, key)
    shows(host, key, "size 100 30")
    first.close()

    second, _ = attach(host, key)
    shows(host, key, "size 100 30", "size 100 29", "size 100 30")
    _third, told = attach(host, key, 50, 10)  # it sees the same screen
    assert told == LOOK
    shows(host, key, "size 100 30", "size 100 29", "size 100 30", "size 100 29", "size 100 30")
    assert "size 50 10" not in host.output(key).decode()
    second.close()
    stop(supervisor, key)


def test_one_types_and_the_next_in_line_takes_over_when_it_leaves(host, supervisor):
    key = start(host, supervisor, ECHO)
    first, _ = attach(host, key)
    second, told = attach(host, key, 60, 20)
    third, _ = attach(host, key)

    assert told == LOOK
    second.send(KEYS + b"ignored\r")
    second.send(size_packet(61, 20))
    first.send(KEYS + b"first\r")
    shows(host, key, "read first")
    first.close()
    assert second.recv(MAX_PACKET) == YOURS
    shows(host, key, "size 61 20")
    second.send(KEYS + b"second\r")
    shows(host, key, "read second")
    third.close()
    third, told = attach(host, key)
    assert told == LOOK
    second.close()
    assert third.recv(MAX_PACKET) == YOURS
    assert b"ignored" not in host.output(key)
    stop(supervisor, key)


def test_text_is_written_whoever_types_and_acknowledged(host, supervisor):
    key = start(host, supervisor, ECHO)
    typing, _ = attach(host, key)
    sender = open_keyboard(host, key)

    sender.send(TEXT + b"sent\n")

    assert sender.recv(MAX_PACKET) == WRITTEN
    shows(host, key, "read sent")
    sender.close()
    typing.send(KEYS + b"typed\r")
    shows(host, key, "read typed")
    stop(supervisor, key)


def test_what_a_job_does_not_read_waits_in_the_socket_and_nothing_is_lost(host, supervisor, tmp_path):
    os.mkfifo(tmp_path / "go")
    expected = 3_000_000
    key = start(host, supervisor, LATE_READER, str(tmp_path / "go"), str(expected))
    keyboard, _ = attach(host, key)
    data = (b"0123456789" * expected)[:expected]
    keyboard.settimeout(1.0)
    sent = 0
    with suppress(TimeoutError):
        while sent < expected:
            sent += keyboard.send(KEYS + data[sent : sent + MAX_PACKET - 1]) - 1

    assert sent < 1_000_000  # in the terminal, one packet, and the socket
    assert supervisor.shell("exit 3").exit_code == 3  # the launcher serves others meanwhile
    (tmp_path / "go").write_bytes(b"")
    keyboard.settimeout(PATIENCE)
    while sent < expected:
        sent += keyboard.send(KEYS + data[sent : sent + MAX_PACKET - 1]) - 1
    supervisor.ended(key)
    assert b"whole" in host.output(key)


def test_text_is_acknowledged_only_when_the_terminal_has_taken_it(host, supervisor, tmp_path):
    os.mkfifo(tmp_path / "go")
    key = start(host, supervisor, LATE_READER, str(tmp_path / "go"), "400000")
    keyboard = open_keyboard(host, key)
    keyboard.settimeout(1.0)
    written_packets = 0
    with suppress(TimeoutError):
        while written_packets < 100:
            keyboard.send(TEXT + b"0123456789" * 400)
            assert keyboard.recv(MAX_PACKET) == WRITTEN
            written_packets += 1

    assert 1 <= written_packets < 20
    (tmp_path / "go").write_bytes(b"")
    keyboard.settimeout(PATIENCE)
    while written_packets < 100:
        assert keyboard.recv(MAX_PACKET) == WRITTEN
        written_packets += 1
        if written_packets < 100:
            keyboard.send(TEXT + b"0123456789" * 400)
    supervisor.ended(key)
    assert b"whole" in host.output(key)


def test_text_that_its_sender_gave_up_is_dropped_and_that_of_others_follows(host, supervisor, tmp_path):
    os.mkfifo(tmp_path / "go")
    key = start(host, supervisor, COUNTER, str(tmp_path / "go"))
    impatient, other = open_keyboard(host, key), open_keyboard(host, key)
    impatient.settimeout(1.0)
    taken = 0
    with suppress(TimeoutError):
        while True:
            impatient.send(TEXT + b"x" * (MAX_PACKET - 1))
            assert impatient.recv(MAX_PACKET) == WRITTEN
            taken += MAX_PACKET - 1
    impatient.close()
    other.send(TEXT + b"y")

    (tmp_path / "go").write_bytes(b"")

    assert other.recv(MAX_PACKET) == WRITTEN
    supervisor.ended(key)
    count = int(host.output(key).split()[-1])
    assert taken <= count < taken + MAX_PACKET - 1


def test_a_keyboard_that_left_while_the_job_read_nothing_is_no_longer_in_line(host, supervisor, tmp_path):
    os.mkfifo(tmp_path / "go")
    key = start(host, supervisor, LATE_READER, str(tmp_path / "go"), "1")
    before = open_files(host)
    for _ in range(MAX_KEYBOARDS + 1):
        keyboard, told = attach(host, key)
        assert told == YOURS
        keyboard.settimeout(0.2)
        with suppress(TimeoutError):
            while told == YOURS:
                keyboard.send(KEYS + b"x" * (MAX_PACKET - 1))
        keyboard.close()

    wait_until(lambda: open_files(host) <= before + 1)
    stop(supervisor, key)


def test_a_terminal_has_a_limited_number_of_keyboards(host, supervisor):
    key = start(host, supervisor, ECHO)
    some = [open_keyboard(host, key) for _ in range(MAX_KEYBOARDS)]

    assert ask(host, key) == (b"its 16 keyboards are all in use: detach one", None)
    some.pop().close()
    some.append(open_keyboard(host, key))
    some[0].send(KEYS + b"not in line\r")
    some[0].send(TEXT + b"text\n")
    shows(host, key, "read text")
    assert b"not in line" not in host.output(key)
    stop(supervisor, key)
    assert [each.recv(MAX_PACKET) for each in some[1:]] == [b""] * (MAX_KEYBOARDS - 1)


def test_a_job_without_a_terminal_has_no_keyboard(host, supervisor):
    key = supervisor.launch("sleep", "100")
    supervisor.started(key)

    assert ask(host, key) == (b"", None)
    assert ask(host, AttemptKey(STORE, 4711, 1)) == (b"", None)
    stop(supervisor, key)


@pytest.mark.parametrize("packet", [b"x", b"s", b"s\0\0\0\0", b"s\0\1\0\1\0", size_packet(0, 24)])
def test_a_packet_that_means_nothing_closes_its_keyboard_alone(host, supervisor, packet):
    key = start(host, supervisor, ECHO)
    good, _ = attach(host, key)
    bad = open_keyboard(host, key)

    bad.send(packet)

    assert bad.recv(MAX_PACKET) == b""
    good.send(KEYS + b"still here\r")
    shows(host, key, "read still here")
    stop(supervisor, key)


def test_the_answer_names_the_size_of_the_log(host, supervisor, tmp_path):
    script = f"echo hello; echo > {tmp_path}/here; read line"
    key = supervisor.launch("sh", "-c", script, pty=True)
    written(tmp_path / "here")
    wait_until(lambda: host.output(key) == b"hello\r\n")

    answer, keyboard = ask(host, key)

    assert answer == b"7"
    keyboard.send(TEXT + b"\n")
    supervisor.ended(key)
