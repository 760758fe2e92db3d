"""Signals that a person sends, and jobs that a person suspends."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import cast

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.launcher.process import read_process
from bgd.launcher.scan import Scan, Scanner
from bgd.launcher.tree import Tree
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    CheckAttempt,
    Checked,
    ContinueProcesses,
    FromLauncher,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
)
from tests.launcher.host import PATIENCE, is_alive, is_stopped, launch_of, pids_in, written
from tests.support import wait_until

TREE = """
sleep 101 & echo $! > {folder}/pids
setsid sh -c 'echo $$ >> {folder}/pids; exec sleep 102' &
while test $(wc -l < {folder}/pids) != 2; do :; done
echo $$ >> {folder}/pids; mv {folder}/pids {folder}/all
while ! test -e {folder}/enough; do :; done
kill -KILL $(head -n 2 {folder}/all)
"""


def start_tree(supervisor, folder, **options):
    """Start a job of three processes, one of them in another session; return its key and their pids."""
    key = supervisor.launch("sh", "-c", TREE.format(folder=folder), **options)
    return key, [int(pid) for pid in written(folder / "all").split()]


def all_stopped(pids):
    return all(map(is_stopped, pids))


def none_stopped(pids):
    return not any(map(is_stopped, pids))


# --- signals --------------------------------------------------------------------------------------------


def test_a_signal_reaches_the_first_process_or_the_whole_tree(host, supervisor, tmp_path):
    waits = f"while ! test -e {tmp_path}/enough; do :; done"
    child = f"trap 'echo child' USR1; echo > {tmp_path}/here; {waits}"
    parent = f"trap 'echo parent' USR1; setsid sh -c \"{child}\" & {waits}; wait"
    key = supervisor.launch("sh", "-c", parent)
    written(tmp_path / "here")

    supervisor.say(SignalProcesses(key, signal.SIGUSR1))
    wait_until(lambda: host.output(key) == b"parent\n")
    supervisor.say(SignalProcesses(key, signal.SIGUSR1, whole_tree=True))
    wait_until(lambda: sorted(host.output(key).split()) == [b"child", b"parent", b"parent"])

    supervisor.say(SignalProcesses(key, 99))
    (tmp_path / "enough").touch()
    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert "cannot send signal 99" in host.said


def test_a_signal_for_a_job_that_is_starting_reaches_it(supervisor):
    keys = [supervisor.launch("sleep", "100") for _ in range(6)]
    for number, key in enumerate(keys):  # hardly any of them has a process yet
        supervisor.say(SignalProcesses(key, signal.SIGTERM, whole_tree=number % 2 == 0))

    assert {end.signal for end in supervisor.all_ended(keys)} == {signal.SIGTERM}


def test_a_job_that_a_person_s_signal_ended_has_that_signal_as_outcome(supervisor):
    key = supervisor.launch("sleep", "100")
    supervisor.started(key)

    supervisor.say(SignalProcesses(key, signal.SIGTERM))

    end = supervisor.ended(key)
    assert (end.outcome, end.signal) == (Outcome.SIGNAL, signal.SIGTERM)
    supervisor.say(
        SignalProcesses(key, signal.SIGTERM), SuspendProcesses(key), ContinueProcesses(key)
    )  # no process gets it
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED


def test_a_job_that_exited_while_the_launcher_was_stopped_is_not_alive_for_a_signal(host, supervisor):
    running, exited = supervisor.launch("sleep", "100"), supervisor.launch("sleep", "100")
    pids = {each.key: each.pid for each in supervisor.all_started([running, exited])}
    launcher = host.launchers[-1]
    launcher.send_signal(signal.SIGSTOP)
    os.kill(pids[exited], signal.SIGKILL)
    wait_until(lambda: not is_alive(pids[exited]))

    unknown = AttemptKey("store", 1, 1)
    for number, key in enumerate([running, exited, unknown]):
        supervisor.say(CheckAttempt(key, number), SignalProcesses(key, signal.SIGTERM))
    launcher.send_signal(signal.SIGCONT)

    answers: dict[int, bool | None] = {}
    while len(answers) < 3:
        if isinstance(heard := supervisor.hear(), Checked):
            answers[heard.number] = heard.is_alive
    assert answers == {0: True, 1: False, 2: False}


# --- suspending -----------------------------------------------------------------------------------------


def test_a_suspended_tree_is_stopped_until_it_is_continued(host, supervisor, tmp_path):
    key, pids = start_tree(supervisor, tmp_path)

    supervisor.say(SuspendProcesses(key))
    wait_until(lambda: all_stopped(pids))
    successor = host.supervise(generation=2)
    successor.say(SuspendProcesses(key))  # a new supervisor that adopts the job does this too
    assert successor.run("true").outcome is Outcome.SUCCEEDED
    assert all_stopped(pids)

    successor.say(ContinueProcesses(key))
    wait_until(lambda: none_stopped(pids))
    (tmp_path / "enough").touch()
    assert successor.ended(key).outcome is Outcome.SUCCEEDED


def settled(supervisor, key, number):
    """Ask whether an attempt is alive once it is settled; return the answer."""
    supervisor.say(CheckAttempt(key, number, settled=True))
    while True:
        if isinstance(heard := supervisor.hear(), Checked):
            assert heard.number == number
            return heard.is_alive


def test_a_suspension_is_confirmed_when_the_whole_tree_is_stopped(supervisor, tmp_path):
    key, pids = start_tree(supervisor, tmp_path)

    for number in range(10):
        supervisor.say(SuspendProcesses(key))
        assert settled(supervisor, key, number) is True
        assert all_stopped(pids)
        supervisor.say(ContinueProcesses(key))
        assert settled(supervisor, key, number) is True
        assert none_stopped(pids)
    (tmp_path / "enough").touch()
    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert settled(supervisor, key, 10) is False


def test_an_end_is_reported_before_a_suspension_is_said_to_come_too_late(supervisor):
    """Each attempt is suspended about when it ends: either it is stopped, or its end is known."""
    stopped = []
    for number in range(20):
        key = supervisor.launch("sh", "-c", f"sleep 0.0{number % 4}")
        supervisor.started(key)
        supervisor.say(SuspendProcesses(key), CheckAttempt(key, number, settled=True))
        heard: list[FromLauncher | None] = []
        while not (heard and isinstance(heard[-1], Checked)):
            heard.append(supervisor.hear())
        if heard[-1].is_alive:
            stopped.append(key)
        else:
            assert any(isinstance(each, AttemptEnded) and each.key == key for each in heard)
    for key in stopped:
        supervisor.say(ContinueProcesses(key))
        assert supervisor.ended(key).outcome is Outcome.SUCCEEDED


def test_a_job_that_keeps_forking_is_suspended_to_the_last_process(supervisor, tmp_path):
    word = f"{tmp_path}/nowhere"
    forks = f"for number in $(seq 3000); do tail --quiet --retry -f {word} & done"
    key = supervisor.launch("sh", "-c", f"exec 2> /dev/null; echo > {tmp_path}/here; {forks}; wait")
    written(tmp_path / "here")

    supervisor.say(SuspendProcesses(key))

    wait_until(lambda: all_stopped(pids_in(word)))
    assert len(pids_in(word)) < 3000
    supervisor.say(StopProcesses(key, 0.0))
    assert supervisor.ended(key).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("states", ["R RR", "R R T TR", "R T TR"])
async def test_the_child_of_a_fork_that_a_stop_came_into_is_stopped_too(states):
    parent, child = [await asyncio.create_subprocess_exec("sleep", "100") for _ in range(2)]
    scanner = ScriptedScanner(states.split(), [parent.pid, child.pid])
    tree = Tree(AttemptKey("store", 1, 1), None, 0.0, parent.pid)
    try:
        living, stopped = await tree.stop_all(cast("Scanner", scanner))

        wait_until(lambda: all_stopped([parent.pid, child.pid]))
        assert {each.pid for each in living} == {each.pid for each in stopped} == {parent.pid, child.pid}
    finally:
        for each in (parent, child):
            each.kill()
            await each.wait()


class ScriptedScanner:
    """Show in each scan the first of these processes, in the states that it names; at last, all stopped."""

    def __init__(self, scans: list[str], pids: list[int]) -> None:
        self._scans = scans
        self._pids = pids

    async def scan(self, _: int) -> Scan:
        scan, states = Scan(), self._scans.pop(0) if self._scans else "T" * len(self._pids)
        for pid, state in zip(self._pids, states, strict=False):
            process = read_process(pid)
            assert process is not None
            scan.processes[pid] = replace(process, group=self._pids[0], state=state)
        return scan.with_children()


def test_a_signal_to_a_suspended_tree_takes_effect_when_it_is_continued(supervisor, tmp_path):
    key, pids = start_tree(supervisor, tmp_path)
    supervisor.say(SuspendProcesses(key))
    wait_until(lambda: all_stopped(pids))

    supervisor.say(SignalProcesses(key, signal.SIGTERM, whole_tree=True))
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert all_stopped(pids)

    supervisor.say(ContinueProcesses(key))
    assert supervisor.ended(key).signal == signal.SIGTERM


def test_a_process_that_ends_on_term_gets_no_sighup_by_the_end_of_its_parent(supervisor, tmp_path):
    # `timeout` makes its own process group, which is orphaned when the shell that waits for it ends
    polite = (
        f"trap 'echo TERM > {tmp_path}/end; exit' TERM; echo > {tmp_path}/here; while :; do sleep 0.01; done"
    )
    crowd = "for number in $(seq 40); do sleep 1000 & done"
    key = supervisor.launch("sh", "-c", f'{crowd}; timeout 1000 sh -c "{polite}"; echo > {tmp_path}/next')
    written(tmp_path / "here")

    supervisor.say(StopProcesses(key, PATIENCE))

    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert (tmp_path / "end").exists()
    assert not (tmp_path / "next").exists()


def test_a_shell_with_job_control_does_not_see_that_its_child_was_suspended(supervisor, tmp_path):
    crowd = "for number in $(seq 40); do sleep 1000 & done"
    child = f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000'"
    key = supervisor.launch("bash", "-c", f"{crowd}; set -m; {child}; echo > {tmp_path}/next")
    pids = [supervisor.started(key).pid, int(written(tmp_path / "pid"))]
    for _ in range(5):
        supervisor.say(SuspendProcesses(key))
        wait_until(lambda: all_stopped(pids))
        supervisor.say(ContinueProcesses(key))
        wait_until(lambda: none_stopped(pids))
        assert supervisor.run("true").outcome is Outcome.SUCCEEDED

    supervisor.say(StopProcesses(key, PATIENCE))
    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert not (tmp_path / "next").exists()


def test_the_time_limit_is_paused_with_the_job(supervisor):
    key = supervisor.launch("sleep", "100", timeout=0.4)
    pid = supervisor.started(key).pid
    supervisor.say(SuspendProcesses(key))
    wait_until(lambda: all_stopped([pid]))

    assert supervisor.run("sleep", "0.6").outcome is Outcome.SUCCEEDED
    assert is_alive(pid)

    supervisor.say(ContinueProcesses(key))
    assert supervisor.ended(key).outcome is Outcome.TIMEOUT


def test_a_job_that_is_suspended_before_it_runs_does_not_begin(host, supervisor):
    launches = [launch_of("echo", "ran") for _ in range(6)]
    keys = [launch.key for launch in launches]
    supervisor.say(*launches, *map(SuspendProcesses, keys))  # in one write: none of them has a process yet
    assert supervisor.run("sleep", "0.2").outcome is Outcome.SUCCEEDED
    assert [host.output(key) for key in keys] == [b""] * 6

    supervisor.say(StopProcesses(keys[0], 0.0), *map(ContinueProcesses, keys[1:]))
    ends = supervisor.all_ended(keys)
    assert [end.outcome for end in ends] == [Outcome.CANCELLED, *[Outcome.SUCCEEDED] * 5]


def test_a_job_that_is_suspended_while_it_waits_for_its_fifo_reads_when_it_is_continued(
    host, supervisor, tmp_path
):
    os.mkfifo(fifo := tmp_path / "fifo")
    key = supervisor.launch("head", "-n", "1", stdin_path=str(fifo), timeout=0.4)
    supervisor.say(SuspendProcesses(key))

    with fifo.open("r+b", buffering=0) as writer:
        writer.write(b"hello\n")
        assert supervisor.run("sleep", "0.6").outcome is Outcome.SUCCEEDED
        assert host.output(key) == b""

        supervisor.say(ContinueProcesses(key))
        assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert host.output(key) == b"hello\n"


def test_a_suspended_job_that_is_cancelled_can_react(host, supervisor, tmp_path):
    script = f"trap 'echo ended; exit 3' TERM; echo > {tmp_path}/here; while :; do sleep 0.02; done"
    key = supervisor.launch("sh", "-c", script)
    written(tmp_path / "here")
    pid = supervisor.started(key).pid
    supervisor.say(SuspendProcesses(key))
    wait_until(lambda: all_stopped([pid]))

    supervisor.say(
        StopProcesses(key, PATIENCE), SuspendProcesses(key)
    )  # an attempt that is being stopped is not suspended

    end = supervisor.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.CANCELLED, 3)
    assert host.output(key).endswith(b"ended\n")


def test_a_process_that_another_program_stopped_is_not_continued(supervisor, tmp_path):
    key, pids = start_tree(supervisor, tmp_path)
    os.kill(pids[0], signal.SIGSTOP)
    wait_until(lambda: all_stopped(pids[:1]))

    supervisor.say(ContinueProcesses(key))

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert is_stopped(pids[0])
    supervisor.say(StopProcesses(key, 0.0))
    supervisor.ended(key)


def test_suspended_jobs_do_not_outlive_their_launcher_s_successor_s_sweep(host, supervisor, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "terminal").mkdir()
    trees = [
        start_tree(supervisor, tmp_path / "plain"),
        start_tree(supervisor, tmp_path / "terminal", pty=True),
    ]
    supervisor.say(*(SuspendProcesses(key) for key, _ in trees))
    wait_until(lambda: all(all_stopped(pids) for _, pids in trees))

    host.kill()
    host.start()
    successor = host.supervise(generation=2)

    for key, pids in trees:
        assert successor.snapshot[key].outcome is Outcome.UNKNOWN
        assert not [pid for pid in pids if is_alive(pid)]
