"""What a job finds when it starts, and what is reported when it cannot start."""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest

from bgd.core.explain import Cause
from bgd.core.job import Outcome
from bgd.system.clock import elapsed
from bgd.wire.class_jobs import MAX_DOCUMENT
from bgd.wire.launching import StopProcesses
from tests.launcher.host import STORE, needs_strace
from tests.support import wait_until

ENV = {"PATH": os.environ["PATH"]}


def output(host, supervisor, *argv, **options):
    """Run it; return what it wrote."""
    key = supervisor.launch(*argv, **options)
    end = supervisor.ended(key)
    assert end.outcome is Outcome.SUCCEEDED, end
    return host.output(key).decode()


# --- what it finds --------------------------------------------------------------------------------------


def test_the_environment_is_exactly_what_was_asked_for_and_the_mark(host, supervisor):
    env = {"PATH": "/usr/bin:/bin", "WORD": "a=b c\n€", "EMPTY": ""}
    key = supervisor.launch("env", "-0", env=env)
    supervisor.ended(key)

    lines = host.log(key).read_text().rstrip("\0").split("\0")

    found = dict(line.split("=", 1) for line in lines)
    assert found == {**env, "PYTHONUNBUFFERED": "1", "BGD_RUN": f"{STORE}.{key.job}.1"}


def test_a_job_may_want_its_python_buffered_but_cannot_change_its_mark(host, supervisor):
    env = {**ENV, "PYTHONUNBUFFERED": "", "BGD_RUN": "another"}

    said = output(host, supervisor, "sh", "-c", "echo $PYTHONUNBUFFERED,$BGD_RUN", env=env)

    assert said.startswith(f",{STORE}.")


def test_it_starts_in_its_directory_with_its_umask(host, supervisor, tmp_path):
    said = output(host, supervisor, "sh", "-c", "pwd; umask", cwd=str(tmp_path), umask=0o027)

    assert said == f"{tmp_path}\n0027\n"


def test_arguments_arrive_as_they_are(host, supervisor):
    argv = ["", " ", "a\nb", "*", "'\"$(x)", "é€😀"]

    said = output(host, supervisor, sys.executable, "-c", "import sys; print(sys.argv[1:])", *argv)

    assert said == f"{argv}\n"


LIST_DESCRIPTORS = "import os; print(sorted(os.listdir('/proc/self/fd')))"


def test_it_has_three_descriptors_and_no_more(host, supervisor):
    said = output(host, supervisor, sys.executable, "-c", LIST_DESCRIPTORS)

    assert said == "['0', '1', '2', '3']\n"  # 3 is the listing itself


def test_descriptors_given_to_the_launcher_reach_no_job(host):
    read, write = os.pipe()
    host.start(pass_fds=(read, write))
    os.close(write)
    supervisor = host.supervise()

    said = output(host, supervisor, sys.executable, "-c", LIST_DESCRIPTORS)

    assert said == "['0', '1', '2', '3']\n"
    assert os.read(read, 1) == b""  # no process has the other end
    os.close(read)


def test_it_leads_a_session_of_its_own(host, supervisor):
    said = output(host, supervisor, "sh", "-c", "read -r a b c d e f rest < /proc/$$/stat; echo $$ $e $f")

    assert len(set(said.split())) == 1


def test_signals_are_as_a_fresh_program_expects_them(host):
    """Ignored and blocked signals outlive exec, so the launcher could have inherited and passed them on."""
    blocked = {signal.SIGUSR1, signal.SIGTERM}

    def spoil():
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)

    host.start(preexec_fn=spoil)
    supervisor = host.supervise()

    said = output(host, supervisor, "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")

    assert said == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"


def test_without_input_it_reads_nothing(host, supervisor):
    assert output(host, supervisor, "cat") == ""


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_input_is_read_to_the_last_byte(host, supervisor, size):
    content = os.urandom(size)
    key = supervisor.launch("cat", stdin=content)

    supervisor.ended(key)

    assert host.output(key) == content


def test_input_leaves_no_file_behind(host, supervisor):
    before = set(host.state.iterdir())

    output(host, supervisor, "cat", stdin=b"secret", result=True)

    assert set(host.state.iterdir()) - before == {host.logs}


# --- results --------------------------------------------------------------------------------------------

WRITE_RESULT = "import os, sys; os.write(int(os.environ['BGD_RESULT_FD']), b'r' * int(sys.argv[1]))"


def test_an_input_file_is_found_relative_to_its_directory(host, supervisor, tmp_path):
    (tmp_path / "lines").write_bytes(b"one\ntwo\n")

    assert output(host, supervisor, "cat", stdin_path=str(tmp_path / "lines")) == "one\ntwo\n"
    assert output(host, supervisor, "cat", stdin_path="lines", cwd=str(tmp_path)) == "one\ntwo\n"


def test_a_fifo_is_waited_for_and_delays_no_other_job(host, supervisor, tmp_path):
    os.mkfifo(fifo := tmp_path / "fifo")
    waiting = supervisor.launch("head", "-n", "1", stdin_path=str(fifo))
    never = supervisor.launch("cat", stdin_path=str(fifo))
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    supervisor.say(StopProcesses(never, 0.0))
    assert supervisor.ended(never).outcome is Outcome.CANCELLED

    with fifo.open("r+b", buffering=0) as writer:  # a reader too, so that opening does not wait for one
        writer.write(b"hello\n")
        assert supervisor.ended(waiting).outcome is Outcome.SUCCEEDED

    assert host.output(waiting) == b"hello\n"


def test_a_time_limit_holds_while_a_fifo_is_waited_for(supervisor, tmp_path):
    os.mkfifo(fifo := tmp_path / "fifo")
    key = supervisor.launch("cat", stdin_path=str(fifo), timeout=0.1)

    end = supervisor.ended(key)

    assert (end.outcome, end.started_at, end.exit_code) == (Outcome.TIMEOUT, None, None)
    assert end.problem == f"no input: {fifo}: no process wrote to it within the time limit"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nowhere/to\nbe found", r"/nowhere/to\nbe found: No such file or directory"),
        ("/etc", "/etc: it is a directory"),
        ("launcher.sock", "launcher.sock: No such device or address"),
        ("a\0b", r"a\x00b: no file can have this name"),
    ],
)
def test_an_input_that_cannot_be_opened_is_named(host, supervisor, path, reason):
    end = supervisor.run("cat", stdin_path=path, cwd=str(host.state))

    assert end.outcome is Outcome.NOT_STARTED
    assert end.problem == f"no input: {reason}"


def test_a_result_comes_back_with_the_end(supervisor):
    assert supervisor.run(sys.executable, "-c", WRITE_RESULT, "5", result=True).result == b"rrrrr"


def test_the_longest_result_passes_and_a_longer_one_is_recognizable(supervisor):
    for size, told in [(MAX_DOCUMENT, MAX_DOCUMENT), (MAX_DOCUMENT + 5000, MAX_DOCUMENT + 1)]:
        end = supervisor.run(sys.executable, "-c", WRITE_RESULT, str(size), result=True)

        assert len(end.result) == told


def test_an_empty_result_differs_from_none(supervisor):
    assert supervisor.run("true", result=True).result == b""
    assert supervisor.run("true").result is None


def test_the_usual_result_replaces_only_an_empty_one(supervisor):
    assert supervisor.run("true", result=True, usual_result=b"{}").result == b"{}"
    assert supervisor.run("false", result=True, usual_result=b"{}").result == b"{}"
    written = supervisor.run(sys.executable, "-c", WRITE_RESULT, "5", result=True, usual_result=b"{}")
    assert written.result == b"rrrrr"


# --- use of resources -----------------------------------------------------------------------------------


def test_what_a_job_used_is_reported(supervisor):
    code = "b = bytearray(80_000_000); b[::4096] = b'x' * len(b[::4096])\nfor _ in range(3_000_000): pass"

    end = supervisor.run(sys.executable, "-c", code)

    assert 80_000_000 < end.max_rss_bytes < 200_000_000
    assert 0.01 < end.user_seconds < 20
    assert end.system_seconds > 0


def test_the_run_time_does_not_include_leftovers(supervisor):
    begun = elapsed()

    end = supervisor.run("sh", "-c", "sleep 0.2; (trap '' TERM; sleep 100 & sleep 100) &", grace=1.0)

    assert 0.2 <= end.run_seconds < elapsed() - begun - 1.0


def test_the_peak_of_a_small_job_is_not_mistaken_for_the_launcher_s(supervisor):
    assert supervisor.run("true").max_rss_bytes is None


# --- when it cannot start -------------------------------------------------------------------------------


def script(path, content, mode=0o755):
    path.write_text(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["no-such-program"], "program not found: no-such-program is not on its PATH"),
        (["/no/such/program"], "program not found: /no/such/program"),
        (["./no-such-program"], "program not found: ./no-such-program"),
        (["/etc/passwd/x"], "program not found: /etc/passwd/x"),
        ([""], "program not found: its name is empty"),
        ([], "program not found: its name is empty"),
        (["/etc"], "not executable: /etc is a directory"),
        (["/etc/passwd"], "not executable: /etc/passwd (chmod +x makes it so)"),
        (["line\nbreak"], "program not found: line\\nbreak is not on its PATH"),
        (["true", "a\0b"], "cannot start: embedded null byte"),
        (["tr\0ue"], "cannot start: embedded null byte"),
    ],
)
def test_a_program_that_cannot_be_started_is_named(supervisor, argv, problem):
    end = supervisor.run(*argv, env={"PATH": "/usr/bin:/bin"})

    assert (end.outcome, end.problem) == (Outcome.NOT_STARTED, problem)
    assert (end.exit_code, end.signal, end.started_at) == (None, None, None)


def test_a_missing_interpreter_differs_from_a_missing_program(supervisor, tmp_path):
    path = script(tmp_path / "script", "#!/no/such/python -u\nprint()\n")

    problem = supervisor.run(path).problem

    assert problem == f"interpreter not found: {path} asks for /no/such/python, which does not exist"


def test_a_script_without_a_first_line_is_not_a_program(supervisor, tmp_path):
    path = script(tmp_path / "script", "echo hello\n")

    assert supervisor.run(path).problem.startswith(f"not executable: {path} is not a program")


def test_a_program_relative_to_its_directory_is_found(supervisor, tmp_path):
    script(tmp_path / "script", "#!/bin/sh\nexit 4\n")

    assert supervisor.run("./script", cwd=str(tmp_path)).exit_code == 4


@pytest.mark.parametrize(
    ("cwd", "problem"),
    [
        ("/no/such/folder", "no such directory: /no/such/folder"),
        ("/etc/passwd", "not a directory: /etc/passwd"),
        ("/etc/passwd/x", "no such directory: /etc/passwd/x: Not a directory"),
        ("/" + "x" * 300, f"no such directory: /{'x' * 300}: File name too long"),
        ("", "no such directory: its name is empty"),
        ("/a\0b", "cannot start: embedded null byte"),
    ],
)
def test_a_directory_that_cannot_be_entered_is_named(supervisor, cwd, problem):
    end = supervisor.run("true", cwd=cwd)

    assert (end.outcome, end.problem) == (Outcome.NOT_STARTED, problem)


@pytest.mark.parametrize(
    ("env", "word"),
    [({"A\0B": "x"}, "null byte"), ({"A": "x\0y"}, "null byte"), ({"A=B": "x"}, "illegal environment")],
)
def test_an_environment_the_kernel_cannot_hold_is_refused(supervisor, env, word):
    end = supervisor.run("true", env={**ENV, **env})

    assert end.outcome is Outcome.NOT_STARTED
    assert word in end.problem


def test_one_word_too_long_names_the_kernel_s_limit(supervisor):
    end = supervisor.run("true", "x" * 131_072)

    assert end.problem == "argument list too long: one word of 131072 bytes; the kernel's limit is 131071"


def test_too_many_words_name_the_kernel_s_limit(supervisor):
    end = supervisor.run("true", *["x" * 100_000] * 100)

    assert end.problem.startswith("argument list too long: arguments and environment are 1000")


def test_not_starting_leaves_the_launcher_as_it_was(host, supervisor):
    supervisor.run("true")
    before = descriptors(host)

    for _ in range(50):
        supervisor.run("no-such-program", stdin=b"x", result=True)

    assert descriptors(host) == before


def descriptors(host):
    return len(list(Path(f"/proc/{host.launchers[-1].pid}/fd").iterdir()))


# --- when the machine has no room -----------------------------------------------------------------------


def test_without_free_descriptors_a_job_waits_and_starts_when_there_are_some(host, supervisor):
    pid = host.launchers[-1].pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (20, hard))
    key = supervisor.launch("true")
    waits = supervisor.started(key).waits
    assert waits is not None
    assert waits.cause is Cause.START
    assert re.fullmatch(
        r"too many files are open: \d+ of at most 20, mostly \d+ \w+, \d+ \w+, \d+ \w+", waits.problem or ""
    )
    wait_until(lambda: "warning: launcher: too many files are open: " in host.said)

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED


@needs_strace
def test_without_free_processes_a_job_waits_and_is_started_once(host, supervisor, tmp_path, forks):
    forks("error=EAGAIN:when=1")

    end = supervisor.run("sh", "-c", f"echo ran >> {tmp_path}/runs")

    assert end.outcome is Outcome.SUCCEEDED
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert "cannot start yet: no more processes are allowed" in host.said


@needs_strace
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EOPNOTSUPP"])
def test_a_job_gets_its_input_although_the_disk_has_no_inode_for_it(host, supervisor, tamper, error):
    tamper("openat", f"error={error}:when=1+", "-P", str(host.state))

    assert output(host, supervisor, "cat", stdin=b"input") == "input"


@needs_strace
def test_a_job_that_waits_for_the_machine_can_be_cancelled(host, supervisor, forks):
    forks("error=EAGAIN:when=1+")
    key = supervisor.launch("true")
    wait_until(lambda: "cannot start yet" in host.said)
    snapshot = host.supervise(2)
    assert snapshot.snapshot[key].pid is None
    assert snapshot.snapshot[key].waits.cause is Cause.START

    snapshot.say(StopProcesses(key, 10.0))

    assert snapshot.ended(key).outcome is Outcome.CANCELLED


@needs_strace
def test_a_stop_in_the_middle_of_a_start_is_not_forgotten(host, supervisor, forks):
    pid = host.launchers[-1].pid
    forks("delay_exit=200000")  # microseconds
    key = supervisor.launch("sleep", "100")
    wait_until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text())

    supervisor.say(StopProcesses(key, 10.0))

    end = supervisor.ended(key)
    assert (end.outcome, end.signal) == (Outcome.CANCELLED, signal.SIGTERM)


@needs_strace
def test_a_shortage_is_logged_once_however_many_jobs_it_delays(host, supervisor, forks):
    forks("error=EAGAIN:when=1..50")
    keys = [supervisor.launch("true") for _ in range(50)]

    supervisor.all_ended(keys)

    assert host.said.count("cannot start yet") == 1


@needs_strace
def test_a_job_whose_output_cannot_be_waited_for_yet_is_started_once(supervisor, tamper, tmp_path):
    """As if other processes of the user had all descriptors that the kernel allows in flight."""
    tamper("epoll_ctl", "error=ENOSPC:when=1")
    ended = supervisor.shell(f"echo started >> {tmp_path}/starts")

    assert ended.outcome is Outcome.SUCCEEDED
    assert (tmp_path / "starts").read_text() == "started\n"


@pytest.fixture
def forks(tamper):
    """Make the launcher's calls of vfork fail or take time."""
    return functools.partial(tamper, "vfork,clone,clone3")
