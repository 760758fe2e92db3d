"""A pilot: a launcher without logs, which sends output until it is stored, and ends if nobody says a word."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.launcher import journal
from bgd.launcher.outbox import Outbox
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    KeepAlive,
    OutputPart,
    OutputStored,
)
from tests.launcher.host import PATIENCE, is_alive
from tests.support import wait_until

LONG = "600"  # seconds


@pytest.fixture
def pilot(host):
    host.start("--pilot", LONG)
    return host.supervise()


def heard(supervisor, key, enough=lambda _: False):
    """Return the output that arrives until there is enough, or its attempt has ended, and that end."""
    output = bytearray()
    while not enough(output):
        message = supervisor.hear()
        if isinstance(message, AttemptEnded) and message.key == key:
            return bytes(output), message
        if isinstance(message, OutputPart) and message.key == key:
            assert message.offset == len(output)
            output += message.data
    return bytes(output), None


def test_output_is_sent_before_the_end_and_there_is_no_log(host, pilot):
    key = pilot.launch("sh", "-c", "echo out; echo err >&2")

    output, ended = heard(pilot, key)

    assert output == b"out\nerr\n"
    assert (ended.outcome, ended.log_bytes) == (Outcome.SUCCEEDED, 8)
    assert not host.log(key).exists()


def test_a_pilot_names_its_node(host, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")
    host.start("--pilot", LONG)

    node = host.supervise().welcome.node

    assert (node.name, node.cpus, node.memory) == ("n7", 4, 2000 << 20)


def test_a_pilot_answers_who_wants_to_know_whether_it_is_there(pilot):
    pilot.say(KeepAlive())

    assert pilot.hear() == pilot.welcome


def test_what_is_not_stored_is_sent_again_before_the_end(host, pilot):
    key = pilot.launch("printf", "abcdef")
    heard(pilot, key)
    pilot.say(OutputStored(key, 2))
    pilot.close()

    after = host.connect()
    after.say_greeting()
    again = [after.hear() for _ in range(3)]

    assert again[1] == OutputPart(key, 2, b"cdef")
    assert isinstance(again[2], AttemptEnded)


def test_a_job_waits_until_its_output_is_stored(pilot):
    size = 3_000_000
    key = pilot.launch("sh", "-c", f"head -c {size} /dev/zero; echo end")
    output, _ = heard(pilot, key, lambda output: len(output) >= 1 << 18)
    pilot.ended(pilot.launch("true"))  # it goes on with others
    assert len(output) < 1 << 19

    total, ended = len(output), None
    while ended is None:
        pilot.say(OutputStored(key, total))
        message = pilot.hear()
        if isinstance(message, OutputPart):
            assert message.offset == total
            total += len(message.data)
        ended = message if isinstance(message, AttemptEnded) and message.key == key else None

    assert total == ended.log_bytes == size + len("end\n")


def test_without_a_word_it_ends_its_jobs_and_itself(host):
    launcher = host.start("--pilot", "0.3")
    supervisor = host.supervise()
    key = supervisor.launch("sleep", "1000")
    pid = supervisor.started(key).pid

    assert launcher.wait(PATIENCE) == 0

    assert not is_alive(pid)
    [records] = journal.read(host.journal).attempts.values()
    assert records.finished is not None
    assert records.finished.ended.outcome is Outcome.INTERRUPTED


def test_a_pilot_that_was_stopped_for_longer_than_its_lease_goes_on_with_its_jobs(host):
    """As Slurm stops it when it suspends the allocation."""
    launcher, began = host.start("--pilot", "2"), time.monotonic()
    pilot = host.supervise()
    gate = host.state / "gate"
    os.mkfifo(gate)
    key = pilot.launch("sh", "-c", f"read code <{gate}; exit $code")
    wait_until(lambda: pilot.started(key).pid)
    wait_until(lambda: time.monotonic() - began > 1.7)
    pilot.say(KeepAlive())
    wait_until(lambda: time.monotonic() - began > 2.4)

    launcher.send_signal(signal.SIGSTOP)
    wait_until(lambda: time.monotonic() - began > 4.8)
    launcher.send_signal(signal.SIGCONT)

    wait_until(lambda: time.monotonic() - began > 5.2)
    gate.write_text("3\n")
    assert pilot.ended(key).exit_code == 3


@pytest.mark.parametrize(
    "script", ["exec sleep 1000", "trap 'exit 143' TERM; echo; while :; do sleep 0.01; done"]
)
def test_a_job_that_is_ended_before_its_pilot_is_interrupted_with_it(host, pilot, script):
    """Slurm takes an allocation away with a signal for each process, beginning with the last children."""
    key = pilot.launch("sh", "-c", script)
    pid = pilot.started(key).pid
    if "trap" in script:
        heard(pilot, key, bool)

    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())  # so the pilot knows
    host.launchers[-1].terminate()

    _, ended = heard(pilot, key)
    assert ended.outcome is Outcome.INTERRUPTED


def test_a_job_of_a_pilot_that_somebody_ends_has_ended_by_that_signal(pilot):
    key = pilot.launch("sleep", "1000")

    os.kill(pilot.started(key).pid, signal.SIGTERM)

    ended = pilot.ended(key)
    assert (ended.outcome, ended.signal) == (Outcome.SIGNAL, signal.SIGTERM)


def test_what_another_pilot_of_the_folder_left_is_ended_and_told(host, pilot):
    key = pilot.launch("sleep", "1000")
    pid = pilot.started(key).pid
    host.kill()
    host.start("--pilot", LONG)

    after = host.supervise()

    assert after.snapshot[key].outcome is Outcome.UNKNOWN
    assert not is_alive(pid)


def test_an_acknowledged_attempt_is_forgotten(tmp_path):
    (tmp_path / "output").write_bytes(b"text")
    outbox, key = Outbox(lambda _: None), AttemptKey("store", 1, 1)
    with (tmp_path / "output").open("rb") as source:
        outbox.open(key).take(source.fileno(), 100)
    assert list(outbox.parts()) == [OutputPart(key, 0, b"text")]

    outbox.forget(key)

    assert list(outbox.parts()) == []
    outbox.stored(key, 4)  # of no attempt that it knows
