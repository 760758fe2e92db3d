"""Jobs on a file system that does not answer delay only themselves."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import AttemptEnded, StopProcesses
from bgd.wire.limits import Limits
from tests.launcher.host import PATIENCE, STORE, is_alive, needs_groups
from tests.launcher.silent_mount import silent_mount
from tests.support import wait_until

ELSEWHERE = "/proc/self"  # counts as a file system that may hang, and does not hang
ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def silent(tmp_path):
    with silent_mount(tmp_path) as mount:
        yield mount


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def hanging(silent, tmp_path):
    """Return options of a launch, by the part of it that hangs."""
    (tmp_path / "link").symlink_to(silent.point / "program")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "to").symlink_to("../link")
    return {
        "folder": (["true"], {"cwd": str(silent.point)}),
        "folder below": (["true"], {"cwd": f"{silent.point}/a/b"}),
        "program": ([f"{silent.point}/program"], {}),
        "linked program": ([f"{tmp_path}/links/to"], {}),
        "interpreter": ([script(tmp_path / "script", f"#!{silent.point}/sh -e\n")], {}),
        "interpreter's": (
            [script(tmp_path / "second", f"#!{script(tmp_path / 'first', f'#! {silent.point}/sh')}\n")],
            {},
        ),
        "PATH": (["nowhere"], {"env": {"PATH": f"{silent.point}/bin:/usr/bin"}}),
        "late PATH": (["nowhere"], {"env": {"PATH": f"/usr/bin:{silent.point}/bin"}}),
        "input": (["cat"], {"stdin_path": f"{silent.point}/input"}),
        "relative input": (["cat"], {"stdin_path": "silent/input", "cwd": str(tmp_path)}),
    }


def test_jobs_that_wait_for_a_file_system_delay_no_other_and_keep_their_time_limits(
    host, supervisor, silent, tmp_path
):
    stuck = [
        supervisor.launch(*argv, **options, timeout=2.0)
        for argv, options in hanging(silent, tmp_path).values()
    ]
    said = supervisor.launch("echo", "others go on")
    limited = supervisor.launch("sleep", "60", timeout=0.1)
    other, over, *ends = supervisor.all_ended([said, limited, *stuck])

    assert other.outcome is Outcome.SUCCEEDED
    assert host.output(said) == b"others go on\n"
    assert over.outcome is Outcome.TIMEOUT
    assert over.finished_at < min(each.finished_at for each in ends)
    problem = f"the file system at {silent.point} (fuse.silent) did not answer within the time limit"
    found = [(each.outcome, each.started_at, each.problem) for each in ends]
    assert found == [(Outcome.TIMEOUT, None, problem)] * len(stuck)


def test_a_launcher_whose_job_waits_for_a_file_system_tells_systemd_that_it_lives(host, silent, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(host.state / "notify"))
        listener.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(host.state / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        host.start()
        supervisor = host.supervise()
        key = supervisor.launch("true", cwd=str(silent.point))
        wait_until(silent.is_asked)
        listener.setblocking(False)
        with suppress(BlockingIOError):
            while listener.recv(1000):
                pass
        listener.settimeout(PATIENCE)

        assert listener.recv(1000) == listener.recv(1000) == b"WATCHDOG=1"
        supervisor.say(StopProcesses(key, 0.0))
        supervisor.ended(key)


def test_a_job_that_waits_for_a_file_system_can_be_cancelled(supervisor, silent):
    key = supervisor.launch("true", cwd=str(silent.point))
    wait_until(silent.is_asked)

    supervisor.say(StopProcesses(key, 10.0))

    assert supervisor.ended(key).outcome is Outcome.CANCELLED


def test_a_job_that_cannot_be_killed_ends_and_delays_no_other(supervisor, silent):
    key = supervisor.launch("true", cwd=str(silent.point), timeout=0.5)
    silent.read_request()

    before = supervisor.run("true")
    end = supervisor.ended(key)
    pid = int(end.problem.partition("; process ")[2].split()[0])
    after = supervisor.run("true")

    assert before.outcome is after.outcome is Outcome.SUCCEEDED
    assert end.outcome is Outcome.TIMEOUT
    assert end.problem == (
        f"the file system at {silent.point} (fuse.silent) did not answer; "
        f"process {pid} was killed and waits in the kernel; it no longer runs a program"
    )
    assert is_alive(pid)
    silent.end()
    wait_until(lambda: not is_alive(pid))


def test_a_file_system_that_answers_late_delays_the_job_and_its_error_is_named(supervisor, silent):
    key = supervisor.launch("true", cwd=str(silent.point))
    wait_until(silent.is_asked)

    silent.end()
    end = supervisor.ended(key)

    assert end.outcome is Outcome.NOT_STARTED
    assert str(silent.point) in end.problem


def test_an_input_file_that_cannot_be_closed_does_not_hang_the_start(host, supervisor, silent):
    key = supervisor.launch("sh", "-c", "echo runs; exec sleep 1000", stdin_path=f"{silent.point}/input")
    silent.let_open()
    supervisor.started(key)
    wait_until(lambda: host.output(key) == b"runs\n")
    assert not silent.is_asked()

    supervisor.say(StopProcesses(key, 0.0))
    wait_until(silent.is_asked)
    silent.end()
    assert supervisor.ended(key).outcome is Outcome.CANCELLED


def test_a_launcher_that_gets_sigterm_does_not_wait_for_a_file_system(host, supervisor, silent):
    key = supervisor.launch("true", cwd=str(silent.point))
    wait_until(silent.is_asked)

    host.launchers[-1].terminate()

    host.launchers[-1].wait(PATIENCE)
    ends = [each for each in iter(supervisor.hear, None) if isinstance(each, AttemptEnded)]
    assert [(each.key, each.outcome) for each in ends] == [(key, Outcome.INTERRUPTED)]


def test_the_next_launcher_ends_what_waits_for_a_file_system(host, supervisor, silent):
    key = supervisor.launch("true", cwd=str(silent.point))
    wait_until(silent.is_asked)
    children = Path(f"/proc/{host.launchers[-1].pid}/task/{host.launchers[-1].pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 1)  # another fork may just be over
    (pid,) = map(int, children.read_text().split())

    host.kill()
    host.start()
    heir = host.supervise(2)

    assert heir.snapshot[key].outcome is Outcome.UNKNOWN
    assert not is_alive(pid)


def test_a_lease_on_a_script_delays_only_its_job(host, supervisor, tmp_path):
    path = script(tmp_path / "leased", "#!/bin/sh\necho at last\n")
    with Path(path).open() as file:
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel asks the holder to give it back
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        stuck = supervisor.launch(path)
        began = time.monotonic()
        assert supervisor.run("true").outcome is Outcome.SUCCEEDED
        assert supervisor.run("true").finished_at  # by now the lease was asked for
        assert time.monotonic() - began < 40.0  # the kernel breaks it after 45 s
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    assert supervisor.ended(stuck).outcome is Outcome.SUCCEEDED
    assert host.output(stuck) == b"at last\n"


# --- a job started in a fork finds what any other does -----------------------------------------------------


def test_it_is_started_like_any_other(host, supervisor):
    lines = """echo $BGD_RUN,$WORD; umask; pwd -P; read line; echo $line; ls /proc/self/fd
        grep "realtime timeout" /proc/self/limits | tr -s " " | cut -d" " -f4"""
    options = {"env": {**ENV, "WORD": "a b"}, "umask": 0o027, "stdin": b"input\n"}
    here = supervisor.launch("sh", "-c", lines, cwd="/", **options)
    there = supervisor.launch("sh", "-c", lines, cwd=ELSEWHERE, **options)
    ends = supervisor.all_ended([here, there])

    assert [each.outcome for each in ends] == [Outcome.SUCCEEDED] * 2
    one, other = (host.output(each).decode().splitlines() for each in (here, there))
    assert one[0] == f"{STORE}.{here.job}.1,a b"
    assert other[0] == f"{STORE}.{there.job}.1,a b"
    assert other[2].startswith("/proc/")
    assert [one[1], *one[3:-1]] == [other[1], *other[3:-1]]
    assert int(other[-1]) > 1 << 62  # the tag
    assert other[-1] != one[-1]


def test_it_has_a_result_a_terminal_a_time_limit_and_signals_like_any_other(host, supervisor):
    result = supervisor.run("sh", "-c", 'echo 5 >"/proc/self/fd/$BGD_RESULT_FD"', cwd=ELSEWHERE, result=True)
    terminal = supervisor.launch("sh", "-c", "tty </dev/tty; test -t 1", cwd=ELSEWHERE, pty=True)
    signals = supervisor.launch("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", cwd=ELSEWHERE)

    assert result.result == b"5\n"
    ends = supervisor.all_ended([terminal, signals])
    assert [each.outcome for each in ends] == [Outcome.SUCCEEDED] * 2
    assert host.output(signals) == b"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    assert supervisor.run("sleep", "60", cwd=ELSEWHERE, timeout=0.2).outcome is Outcome.TIMEOUT


def test_its_standard_input_may_be_a_file_or_a_fifo_with_a_late_writer(host, supervisor, tmp_path):
    (tmp_path / "file").write_text("from a file")
    os.mkfifo(tmp_path / "fifo")
    here = f"/proc/{os.getpid()}/root{tmp_path}"
    file = supervisor.launch("cat", cwd=here, stdin_path="file")
    fifo = supervisor.launch("cat", cwd=here, stdin_path=f"{here}/fifo")
    assert supervisor.ended(file).outcome is Outcome.SUCCEEDED
    (tmp_path / "fifo").write_text("from a fifo")

    assert supervisor.ended(fifo).outcome is Outcome.SUCCEEDED
    assert host.output(file) + host.output(fifo) == b"from a filefrom a fifo"


@pytest.mark.parametrize(
    ("argv", "options", "problem"),
    [
        (["nowhere-to-be-found"], {}, "program not found: nowhere-to-be-found is not on its PATH"),
        (["/nowhere"], {}, "program not found: /nowhere"),
        (["true"], {"cwd": "/proc/self/nowhere"}, "no such directory: /proc/self/nowhere"),
        (["true"], {"cwd": "/proc/self/stat"}, "not a directory: /proc/self/stat"),
        (["cat"], {"stdin_path": "nowhere"}, "no input: nowhere: No such file or directory"),
        (["cat"], {"stdin_path": "fd"}, "no input: fd: it is a directory"),
        (["true", "x" * 200_000], {}, "argument list too long: one word of 200000 bytes"),
        (["true"], {"limits": Limits(open_files=1 << 40)}, "cannot be limited: open_files"),
        ([], {}, "program not found: its name is empty"),
    ],
)
def test_the_reason_is_reported_if_it_cannot_start(supervisor, argv, options, problem):
    end = supervisor.run(*argv, **{"cwd": ELSEWHERE, **options})

    assert end.outcome is Outcome.NOT_STARTED
    assert end.problem.startswith(problem)


@needs_groups
def test_it_has_its_control_group(host, supervisor):
    plain = supervisor.launch("cat", "/proc/self/cgroup", cwd=ELSEWHERE)
    grouped = supervisor.launch("cat", "/proc/self/cgroup", cwd=ELSEWHERE, own_group=True)
    supervisor.all_ended([plain, grouped])

    assert host.output(plain) != host.output(grouped)
