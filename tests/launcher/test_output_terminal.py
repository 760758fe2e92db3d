"""Jobs with a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import NotStarted, StopProcesses
from tests.launcher.host import PATIENCE, is_alive, needs_strace, written
from tests.support import wait_until

LOOKS_AROUND = """
import os, sys
own = os.ttyname(1)
print([os.isatty(fd) and os.ttyname(fd) == own for fd in (0, 1, 2)], os.get_terminal_size())
print(os.tcgetpgrp(os.open("/dev/tty", os.O_RDWR)) == os.getpgrp() == os.getpid(), os.environ["TERM"])
print(sorted(os.listdir("/proc/self/fd")))
"""


def test_it_is_its_controlling_terminal_and_its_three_descriptors(host, supervisor):
    key = supervisor.launch(sys.executable, "-I", "-c", LOOKS_AROUND, pty=True)

    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert host.output(key).decode().split("\r\n") == [
        "[True, True, True] os.terminal_size(columns=80, lines=24)",
        "True xterm",
        "['0', '1', '2', '3', '4']",  # its own /dev/tty, and the folder it lists
        "",
    ]


def test_its_kind_of_terminal_and_its_input_may_be_given(host, supervisor, tmp_path):
    env = {"PATH": os.environ["PATH"], "TERM": "dumb"}
    (tmp_path / "file").write_text("from the file\n")
    script = "test ! -t 0 && test -t 1 || exit 9; cat; echo $TERM"

    said = supervisor.launch("sh", "-c", script, pty=True, env=env, stdin=b"said\n")
    read = supervisor.launch("sh", "-c", script, pty=True, env=env, stdin_path=str(tmp_path / "file"))

    supervisor.all_ended([said, read])
    assert host.output(said) == b"said\r\ndumb\r\n"
    assert host.output(read) == b"from the file\r\ndumb\r\n"


def test_a_flood_is_kept_to_the_last_byte_and_to_the_cap(host, supervisor):
    whole = supervisor.launch("seq", "100000", pty=True)
    capped = supervisor.launch("seq", "100000", pty=True, log_cap=40_000)
    killed = supervisor.launch("yes", pty=True, log_cap=40_000, log_kill=True)

    ends = supervisor.all_ended([whole, capped, killed])

    numbers = b"".join(b"%d\r\n" % number for number in range(1, 100_001))
    assert host.output(whole) == numbers
    assert [end.log_bytes for end in ends[:2]] == [len(numbers)] * 2
    assert sum(piece.stat().st_size for piece in pieces_of(host.log(capped))) <= 40_000
    assert ends[2].outcome is Outcome.LOG_LIMIT
    assert len(host.output(killed)) == 40_000


def test_output_that_does_not_fit_into_one_piece_is_in_the_next_at_once(host, supervisor):
    key = supervisor.launch("sh", "-c", "head -c 3000 /dev/zero; read line", pty=True, log_cap=4000)

    wait_until(lambda: sum(piece.stat().st_size for piece in pieces_of(host.log(key))) == 3000)

    supervisor.say(StopProcesses(key, 0.0))
    supervisor.ended(key)


def test_its_input_is_silent_and_a_stop_works_as_for_any_job(host, supervisor, tmp_path):
    script = f"trap 'echo ended; exit 3' TERM; echo here > {tmp_path}/here; read line; echo $line"
    key = supervisor.launch("sh", "-c", script, pty=True)
    written(tmp_path / "here")

    supervisor.say(StopProcesses(key, PATIENCE))

    end = supervisor.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.CANCELLED, 3)
    assert host.output(key) == b"ended\r\n"


def test_it_may_close_its_terminal_and_open_it_again_later(host, supervisor, tmp_path):
    os.mkfifo(tmp_path / "go")
    waits = f"echo > {tmp_path}/here; read line < {tmp_path}/go"
    script = f"exec < /dev/null > /dev/null 2>&1; {waits}; echo back > /dev/tty"
    key = supervisor.launch("sh", "-c", script, pty=True)
    written(tmp_path / "here")
    supervisor.run("true")  # by then the launcher has noticed everything

    with (tmp_path / "go").open(
        "r+b", buffering=0
    ) as go:  # a reader too, so that opening does not wait for one
        go.write(b"\n")
        assert supervisor.ended(key).outcome is Outcome.SUCCEEDED

    assert host.output(key) == b"back\r\n"


def test_processes_with_its_terminal_are_ended_and_no_others(supervisor, tmp_path):
    ours, theirs = os.openpty()
    # neither its session, its mark nor its parent show that it belongs
    hides = f"setsid env -i sh -c 'echo $$ > {tmp_path}/pid; exec sleep 100'"
    script = f"{hides} & while ! test -s {tmp_path}/pid; do :; done"
    with subprocess.Popen(["sleep", "100"], stdin=theirs, stdout=theirs, stderr=theirs) as bystander:
        end = supervisor.run("sh", "-c", script, pty=True)

        assert end.outcome is Outcome.SUCCEEDED
        assert not is_alive(int(written(tmp_path / "pid")))
        assert bystander.poll() is None
        bystander.kill()
    os.close(ours)
    os.close(theirs)


def test_a_stranger_in_a_new_terminal_with_the_number_of_its_closed_one_lives(host, supervisor, tmp_path):
    script = f"""trap '' TERM HUP; (exec < /dev/null > /dev/null 2>&1; sleep 100) &
        trap - TERM HUP; tty > {tmp_path}/tty; sleep 100"""
    with ExitStack() as opened:
        while True:  # until no other process of this machine was faster
            key = supervisor.launch("sh", "-c", script, pty=True)
            name = written(tmp_path / "tty").strip()
            supervisor.say(StopProcesses(key, PATIENCE))
            wait_until(lambda: not has_terminal(host))
            terminal = next((each for each in new_terminals(opened) if os.ttyname(each) == name), None)
            if terminal is not None:
                break
            supervisor.say(StopProcesses(key, 0.0))
            supervisor.ended(key)
            (tmp_path / "tty").unlink()
        with subprocess.Popen(["cat"], stdin=terminal, start_new_session=True) as bystander:
            supervisor.say(StopProcesses(key, 0.0))
            supervisor.ended(key)
            lives = bystander.poll() is None
            bystander.kill()
    assert lives


def test_a_program_that_does_not_exist_is_named_as_usual(supervisor):
    end = supervisor.run("/nowhere/program", pty=True)

    assert end.outcome is Outcome.NOT_STARTED
    assert end.problem == f"{NotStarted.NO_PROGRAM}: /nowhere/program"


@needs_strace
@pytest.mark.parametrize("error", ["ENOENT", "ENOSPC"])
def test_without_a_terminal_a_job_fails_if_there_are_none_and_waits_if_all_are_taken(
    host, supervisor, tamper, error
):
    tamper("openat", f"error={error}:when=1", "-P", "/dev/ptmx")

    end = supervisor.run("true", pty=True)

    if error == "ENOENT":
        assert (end.outcome, end.problem) == (
            Outcome.NOT_STARTED,
            "cannot start: no terminal: No such file or directory",
        )
    else:
        assert end.outcome is Outcome.SUCCEEDED
        assert "cannot start yet: the disk is full" in host.said


def test_terminals_leave_no_descriptor_behind(host, supervisor, tmp_path):
    before = of_attempts(host)
    os.mkfifo(gate := tmp_path / "gate")

    waiting = supervisor.launch("sh", "-c", f"echo; cat {gate}", pty=True)
    own = {"ptmx", host.log(waiting).name}
    wait_until(lambda: own <= {Path(each).name for each in of_attempts(host)})
    gate.write_text("go on")
    supervisor.all_ended([waiting, *(supervisor.launch("true", pty=True) for _ in range(20))])
    supervisor.run("/nowhere/program", pty=True)

    wait_until(lambda: of_attempts(host) == before)


def pieces_of(log):
    return [piece for piece in log.parent.glob(f"{log.name}*") if piece.suffix != ".times"]


def has_terminal(host):
    """Return whether the launcher has the screen of a terminal open."""
    return any("ptmx" in str(path.resolve()) for path in descriptors(host))


def of_attempts(host):
    """Return what the launcher has open of the kinds that attempts open; it has a pipe of its own.

    It opens others at any time, for example to look at processes, so a list of all is never at rest.
    """
    targets = [str(path.resolve()) for path in descriptors(host)]
    return sorted(target for target in targets if re.search(r"ptmx|/pts/|pipe:|pidfd|\.log", target))


def new_terminals(opened):
    """Yield the job's ends of a few new terminals, which have the lowest free numbers."""
    for _ in range(20):
        for fd in (ends := os.openpty()):
            opened.callback(os.close, fd)
        yield ends[1]


def descriptors(host):
    return sorted(Path(f"/proc/{host.launchers[-1].pid}/fd").iterdir())
