"""Warm workers: when they are started, what happens to jobs when they fail, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import ContinueProcesses, RenewWorkers, StopProcesses, SuspendProcesses
from tests.launcher.host import PATIENCE, is_alive, written
from tests.launcher.warm.calls import SPAWN, Calls, value_of
from tests.support import wait_until

JOB = """
import os, sys, time

def wait(folder):
    with open(folder + "/told", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not os.path.exists(folder + "/enough"):
        time.sleep(0.01)
    print("ends")
    sys.exit(7)

def parent():
    return os.getppid()
"""


MAD = """
import os, time

for fd in os.listdir("/proc/self/fd"):
    try:
        os.write(int(fd), b"nonsense")
    except OSError:
        pass
time.sleep(1000)
"""


@pytest.fixture
def forked(forked: Calls) -> Calls:
    forked.write("job", JOB)
    return forked


# --- what a preload does --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "problem", "words"),
    [
        ("1 / 0", "bad cannot be imported: ZeroDivisionError: division by zero", "ZeroDivisionError"),
        (
            "import nowhere",
            "bad cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
            "line 1",
        ),
        ("def (", "bad cannot be imported: SyntaxError: invalid syntax (bad.py, line 1)", "line 1"),
        ("print('first')\nimport sys; sys.exit(3)", "bad cannot be imported: SystemExit: 3", "first"),
        ("raise MemoryError", "bad cannot be imported: MemoryError:", "MemoryError"),
        ("print('x' * 100_000); raise ValueError('y\\ny')", "bad cannot be imported: ValueError: y y", "xxx"),
        ("import os; os._exit(5)", "its worker exited with code 5 while it imported bad", ""),
        ("import os; os.abort()", "its worker was ended by SIGABRT while it imported bad", ""),
        ("import os; os.kill(os.getpid(), 11)", "its worker was ended by SIGSEGV while it imported bad", ""),
    ],
)
def test_a_preload_that_fails_is_reported_as_such(forked, source, problem, words):
    forked.write("bad", source)
    forked.preload = ["job", "bad"]

    end = forked.run("job:parent")

    kind = "preload failed" if source in {"import nowhere", "def ("} else "cannot start"
    assert (end.outcome, end.problem) == (Outcome.NOT_STARTED, f"{kind}: {problem}")
    assert words in forked.output(end)
    assert end.log_bytes == len(forked.output(end))
    forked.preload = []
    assert forked.run("job:parent").outcome is Outcome.SUCCEEDED


def test_a_preload_that_failed_is_tried_again_for_the_next_job_only(forked, tmp_path):
    forked.write("bad", f"open('{tmp_path}/tries', 'a').write('x\\n')\nassert open('{tmp_path}/good')")
    forked.preload = ["bad"]
    forked.run("job:parent")
    forked.run("job:parent")
    assert written(tmp_path / "tries") == "x\nx\n"
    (tmp_path / "good").touch()

    assert forked.run("job:parent").outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("source", "hazard"),
    [
        (
            "import threading as t; t.Thread(target=t.Event().wait, name='busy', daemon=True).start()",
            "thread 'busy'",
        ),
        ("import asyncio; loop = asyncio.new_event_loop()", "event loop _UnixSelectorEventLoop"),
    ],
)
def test_a_preload_that_a_fork_would_break_is_named_and_jobs_are_spawned(forked, source, hazard):
    forked.write("risky", source)
    forked.preload = ["risky"]

    ends = [forked.run("job:parent") for _ in range(2)]

    launcher = forked.host.launchers[-1].pid
    assert [end.result for end in ends] == [b'{"ok":%d}' % launcher] * 2
    said = f"a fresh interpreter for this job, as {hazard} would break in a fork\n"
    assert [forked.output(end) for end in ends] == [f"bgd: {said}"] * 2
    assert forked.host.said.count(f"fresh interpreters until `bgctl reload`, as {hazard}") == 1
    wait_until(lambda: not forked.workers())


def test_what_a_preload_prints_is_in_the_first_log(forked):
    forked.write("loud", "print('loading')")
    forked.preload = ["loud"]

    first, second = forked.run("job:parent"), forked.run("job:parent")

    assert (forked.output(first), forked.output(second)) == ("loading\n", "")


def test_a_preload_that_prints_without_end_takes_little_memory_and_none_once_it_is_ready(forked):
    forked.write(
        "endless",
        "import os\ntry:\n    for _ in range(2_000):\n        os.write(1, b'spam\\n' * 20_000)\n"
        "except PermissionError:\n    pass\nwritten = os.lseek(1, 0, os.SEEK_CUR)\n"
        "def size():\n    return written\n",
    )
    forked.preload = ["endless"]

    end = forked.run("endless:size")

    assert value_of(end) <= 16 << 20
    assert forked.output(end).startswith("spam\nspam\n")
    [worker] = forked.workers()
    assert Path(f"/proc/{worker}/fd/1").stat().st_size == 0


def test_while_it_imports_jobs_keep_their_time_limit_and_can_be_stopped_and_suspended(forked, tmp_path):
    os.mkfifo(tmp_path / "gate")
    forked.write("slow", f"open('{tmp_path}/gate').read()")
    forked.preload = ["slow"]
    late, stopped, suspended = (forked.launch("job:parent", timeout=timeout) for timeout in (0.3, None, None))
    forked.supervisor.say(SuspendProcesses(suspended), StopProcesses(stopped, 0.0))
    assert forked.supervisor.ended(stopped).outcome is Outcome.CANCELLED
    end = forked.supervisor.ended(late)
    assert (end.outcome, end.problem) == (Outcome.TIMEOUT, "its warm worker used up its time limit")

    with (tmp_path / "gate").open("w"):  # so it is ready
        wait_until(forked.workers)
    other = forked.run("job:parent")
    forked.supervisor.say(ContinueProcesses(suspended))

    assert forked.supervisor.ended(suspended).result == other.result


def test_an_interpreter_behind_another_program_is_not_forked(forked, tmp_path):
    behind = tmp_path / "behind"
    behind.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    behind.chmod(0o755)
    forked.interpreter = str(behind)

    end = forked.run("job:parent")

    assert end.outcome is Outcome.SUCCEEDED
    assert "its interpreter is not the process that was started" in forked.output(end)


# --- when a worker dies ---------------------------------------------------------------------------------


def running(folder: Path, count: int = 1) -> list[int]:
    """Return the pids of this many jobs, once they run."""
    return [int(pid) for pid in written(folder / "told", count).split()]


def test_the_end_of_a_job_is_not_lost_with_its_worker(forked, tmp_path):
    key = forked.launch("job:wait", str(tmp_path))
    pids = running(tmp_path)
    (worker,) = forked.workers()

    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not is_alive(worker))
    assert is_alive(pids[0])
    (tmp_path / "enough").touch()

    end = forked.supervisor.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 7)
    assert end.user_seconds is not None
    assert forked.output(end) == "ends\n"
    assert forked.run("job:parent").result != b'{"ok":%d}' % worker


def test_the_end_of_a_job_while_its_worker_was_stopped_is_noticed(forked, tmp_path):
    key = forked.launch("job:wait", str(tmp_path))
    running(tmp_path)
    forked.supervisor.started(key)  # so the worker has sent the process
    (worker,) = forked.workers()

    os.kill(worker, signal.SIGSTOP)  # a debugger could do this
    (tmp_path / "enough").touch()

    end = forked.supervisor.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 7)
    assert not is_alive(worker)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_job_ends_in_time_when_its_worker_is_stopped(forked, limit):
    forked.run("job:parent")
    (worker,) = forked.workers()
    os.kill(worker, signal.SIGSTOP)

    key = forked.launch("job:parent", timeout=limit)
    if limit is None:
        forked.isolation = SPAWN
        forked.run("job:parent")  # everything before it has been sent by now
        forked.supervisor.say(StopProcesses(key, 0.0))

    outcome = Outcome.CANCELLED if limit is None else Outcome.TIMEOUT
    assert forked.supervisor.ended(key).outcome is outcome
    assert not is_alive(worker)


def test_a_job_can_be_cancelled_when_its_worker_is_dead(forked, tmp_path):
    key = forked.launch("job:wait", str(tmp_path))
    pids = running(tmp_path)
    os.kill(forked.workers()[0], signal.SIGKILL)

    forked.supervisor.say(StopProcesses(key, 1.0))

    assert forked.supervisor.ended(key).outcome is Outcome.CANCELLED
    assert not is_alive(pids[0])


def test_no_end_is_lost_when_workers_are_killed_again_and_again(forked, tmp_path):
    script = "import os\ndef note(folder, n):\n open(f'{folder}/{n}', 'a').write('x')\n return n\n"
    forked.write("note", script)
    keys = []
    for number in range(200):
        keys.append(forked.launch("note:note", str(tmp_path), number))
        if number % 10 == 0:
            for worker in forked.workers():
                os.kill(worker, signal.SIGKILL)

    ends = forked.supervisor.all_ended(keys)

    for number, end in enumerate(ends):
        runs = len((tmp_path / str(number)).read_text()) if (tmp_path / str(number)).exists() else 0
        if end.outcome is Outcome.SUCCEEDED:
            assert (runs, end.result) == (1, b'{"ok":%d}' % number)
        elif end.outcome is Outcome.UNKNOWN:  # killed between the fork and its message
            assert end.problem == "its warm worker died while it started the job"
            assert runs <= 1
        elif end.outcome is Outcome.SIGNAL:  # its own process was killed: a fork looks like its worker
            assert (end.signal, runs <= 1) == (signal.SIGKILL, True)
        else:
            assert end.problem == "cannot start: its worker was ended by SIGKILL while it started"
            assert runs == 0
    assert sum(end.outcome is Outcome.SUCCEEDED for end in ends) > 150
    assert "will report returncode 255" not in forked.host.said


def test_a_worker_that_dies_while_it_starts_fails_only_one_job(forked, tmp_path):
    forked.write(
        "once", f"import os\ntry: os.mkdir('{tmp_path}/was')\nexcept OSError: pass\nelse: os._exit(1)"
    )
    forked.preload = ["once"]

    ends = forked.supervisor.all_ended([forked.launch("job:parent") for _ in range(5)])

    assert [end.outcome for end in ends] == [Outcome.NOT_STARTED, *[Outcome.SUCCEEDED] * 4]


def test_nothing_of_warm_workers_outlives_their_launcher(host, forked, tmp_path):
    keys = [forked.launch("job:wait", str(tmp_path)) for _ in range(3)]
    pids = running(tmp_path, 3)
    workers = forked.workers()

    host.kill()
    wait_until(lambda: not any(map(is_alive, workers)))
    host.start()
    supervisor = host.supervise()

    assert not any(map(is_alive, pids))
    assert {supervisor.snapshot[key].outcome for key in keys} == {Outcome.UNKNOWN}


def test_a_worker_that_still_imports_dies_with_its_launcher(host, forked, tmp_path):
    os.mkfifo(tmp_path / "gate")
    forked.write("slow", f"open('{tmp_path}/told', 'w').write('x\\n')\nopen('{tmp_path}/gate').read()")
    forked.preload = ["slow"]
    forked.launch("job:parent")
    written(tmp_path / "told")
    workers = forked.workers()

    host.kill()

    assert workers
    wait_until(lambda: not any(map(is_alive, workers)))


def test_a_launcher_that_exits_ends_its_workers(host, forked):
    forked.run("job:parent")
    workers = forked.workers()

    host.launchers[-1].terminate()

    assert host.launchers[-1].wait(PATIENCE) == 0
    assert workers
    assert not any(map(is_alive, workers))


# --- when another one is needed -------------------------------------------------------------------------


def test_the_next_job_notices_a_changed_interpreter(forked, tmp_path):
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    forked.interpreter = str(python)
    before = forked.value("job:parent")

    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} "$@"\n')
    python.chmod(0o755)

    assert forked.value("job:parent") != before
    wait_until(lambda: before not in forked.workers())


def test_the_next_job_notices_a_changed_file_of_a_preloaded_module(forked):
    forked.write("version", "number = 1\ndef tell(): return number\n")
    forked.preload = ["version"]
    assert forked.value("version:tell") == 1
    before = forked.workers()

    forked.write("version", "number = 22\ndef tell(): return number\n")

    assert forked.value("version:tell") == 22
    wait_until(lambda: len(forked.workers()) == 1)
    assert forked.workers() != before


def test_renewed_workers_finish_what_they_have_and_the_next_job_gets_another(forked, tmp_path):
    key = forked.launch("job:wait", str(tmp_path))
    running(tmp_path)
    (old,) = forked.workers()

    forked.supervisor.say(RenewWorkers())

    assert forked.value("job:parent") != old
    (tmp_path / "enough").touch()
    assert forked.supervisor.ended(key).exit_code == 7
    wait_until(lambda: old not in forked.workers())


def test_an_unfit_preload_is_tried_again_after_a_renewal(forked, tmp_path):
    forked.write(
        "loop",
        f"import asyncio, os\nif not os.path.exists('{tmp_path}/mended'): loop = asyncio.new_event_loop()",
    )
    forked.preload = ["loop"]
    launcher = forked.host.launchers[-1].pid
    assert forked.value("job:parent") == launcher
    (tmp_path / "mended").touch()
    assert forked.value("job:parent") == launcher

    forked.supervisor.say(RenewWorkers())

    assert forked.value("job:parent") != launcher


def test_jobs_of_other_interpreters_paths_and_startups_have_workers_of_their_own(forked):
    (forked.folder / "usr").mkdir()
    (forked.folder / "usr/inner.py").write_text("def tell(): return 'usr'\n")
    environment = {"PYTHONPATH": "usr"}

    assert forked.value("inner:tell", env=environment, cwd=str(forked.folder)) == "usr"
    assert forked.run("inner:tell", env=environment, cwd="/").outcome is Outcome.EXIT
    assert forked.value("job:parent", env={"LANG": "C"}) != forked.value(
        "job:parent", env={"LANG": "C.UTF-8"}
    )
    assert forked.value("job:parent", env={"X": "1"}) == forked.value("job:parent", env={"X": "2"})


def test_of_many_idle_workers_the_latest_eight_are_kept(forked):
    parents = [forked.value("job:parent", env={"PYTHON_NUMBER": str(number)}) for number in range(11)]

    wait_until(lambda: sorted(forked.workers()) == sorted(parents[-8:]))
    assert forked.value("job:parent", env={"PYTHON_NUMBER": "5"}) == parents[5]


def test_a_worker_that_waits_for_jobs_makes_no_system_call(forked):
    forked.run("job:parent")
    (worker,) = forked.workers()

    def switches() -> str:
        status = Path(f"/proc/{worker}/status").read_text()
        return status.partition("voluntary_ctxt_switches:")[2].split()[0]

    wait_until(lambda: Path(f"/proc/{worker}/syscall").read_text() != "running\n")
    before = switches()
    with pytest.raises(subprocess.TimeoutExpired):
        forked.host.launchers[-1].wait(0.5)

    assert switches() == before


def test_a_worker_that_sends_nonsense_is_killed(forked):
    forked.write("mad", MAD)
    forked.preload = ["mad"]

    end = forked.run("job:parent")

    assert (end.outcome, end.problem) == (
        Outcome.NOT_STARTED,
        "cannot start: its worker was ended by SIGKILL while it imported mad",
    )
    forked.preload = []
    assert forked.run("job:parent").outcome is Outcome.SUCCEEDED
