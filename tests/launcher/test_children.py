"""Nothing is left behind: no zombies, no descriptors, no memory, however many jobs have run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.launcher.children import start_program
from tests.launcher.host import is_alive, written
from tests.support import wait_until

MEGABYTE = 1_000_000
ENV = {"PATH": os.environ["PATH"]}


def proc(host, name):
    return Path(f"/proc/{host.launchers[-1].pid}/{name}")


def children(host):
    pid = host.launchers[-1].pid
    return proc(host, f"task/{pid}/children").read_text().split()


def descriptors(host):
    """Return the number of open descriptors: their numbers change when the journal is rewritten."""
    return len(list(proc(host, "fd").iterdir()))


def resident(host):
    status = proc(host, "status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def run_many(supervisor, count, *argv, at_once=8, **options):
    """Run this many jobs, some at a time; return their ends."""
    ends = []
    for start in range(0, count, at_once):
        keys = [supervisor.launch(*argv, **options) for _ in range(start, min(start + at_once, count))]
        ends += supervisor.all_ended(keys)
    return ends


def test_five_hundred_jobs_with_orphans_leave_no_zombie_and_no_descriptor(host, supervisor):
    run_many(supervisor, 1, "true")
    before = descriptors(host)

    # each leaves an orphan that ends by itself a little later, between the ends of others
    ends = run_many(supervisor, 500, "sh", "-c", "(sleep 0.01 &) ; echo x; exit 3")

    assert {(end.outcome, end.exit_code) for end in ends} == {(Outcome.EXIT, 3)}
    wait_until(lambda: children(host) == [])
    wait_until(lambda: descriptors(host) == before)


def test_orphans_of_a_job_that_goes_on_are_reaped(host, supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"for i in $(seq 50); do (true &); done; echo > {tmp_path}/done; sleep 100"
    )
    pid = supervisor.started(key).pid

    wait_until(lambda: (tmp_path / "done").exists() and children(host) == [str(pid)])


def test_an_orphan_that_ends_together_with_a_job_is_reaped(host, supervisor, tmp_path):
    """The kernel shows ended children one at a time: the job hides the orphan until the job is reaped."""
    orphan = f"echo $$ > {tmp_path}/pid; exec sleep 0.1"
    key = supervisor.launch("sh", "-c", f"(setsid sh -c '{orphan}' >/dev/null 2>&1 &); exec sleep 0.1")
    ended = [supervisor.started(key).pid, int(written(tmp_path / "pid"))]
    host.launchers[-1].send_signal(signal.SIGSTOP)
    wait_until(lambda: not any(map(is_alive, ended)))

    host.launchers[-1].send_signal(signal.SIGCONT)

    supervisor.ended(key)
    wait_until(lambda: children(host) == [])


def test_a_job_that_makes_the_launcher_its_tracer_runs_on(host, supervisor):
    """The kernel then reports each signal to the launcher, among the ends, and waits for its answer."""
    trace = "import ctypes, os; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0"
    catch = "import signal; signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))"
    kill = "os.kill(os.getpid(), signal.SIGUSR1)"
    key = supervisor.launch(sys.executable, "-c", f"{trace}; {catch}; {kill}")
    assert supervisor.ended(key).exit_code == 7

    key = supervisor.launch(sys.executable, "-c", f"{trace}; os.execv('/bin/sh', ['sh', '-c', 'exit 8'])")
    assert supervisor.ended(key).exit_code == 8

    assert "Traceback" not in host.said


def test_every_exit_code_is_the_job_s_own_among_hundreds_of_orphans(supervisor):
    keys = {code: supervisor.launch("sh", "-c", f"(true &); (true &); exit {code}") for code in range(100)}

    ends = supervisor.all_ended(list(keys.values()))

    assert [end.exit_code for end in ends] == list(range(100))


def test_the_launcher_stays_small(host, supervisor):
    run_many(supervisor, 500, "sh", "-c", "echo x", timeout=1000.0)
    after_500 = resident(host)
    run_many(supervisor, 1000, "sh", "-c", "echo x", timeout=1000.0)

    assert after_500 < 18 * MEGABYTE
    assert resident(host) - after_500 < MEGABYTE


def test_the_journal_stays_small(host, supervisor):
    sizes = []
    for _ in range(10):
        run_many(supervisor, 50, "true", env={"PATH": "/usr/bin:/bin", "FILL": "x" * 1000})
        sizes.append(host.journal.stat().st_size)

    assert max(sizes) < 200_000


def test_a_start_is_not_delayed_by_a_flood_of_output_and_a_process_scan(supervisor):
    supervisor.launch("yes", log_cap=1_000_000)
    for number in range(50):  # each causes a process scan
        supervisor.launch("sleep", "100", timeout=0.02 * number)

    ends = run_many(supervisor, 200, "true", at_once=1)

    assert all(end.outcome is Outcome.SUCCEEDED for end in ends)
    took = sorted(end.finished_at - end.started_at for end in ends)
    assert took[len(took) // 2] < 0.05


def test_a_child_that_has_just_ended_is_killed_without_being_reaped_unseen():
    code = """
import asyncio, os
from bgd.launcher.children import Child, Children, start_program

children = Children()

async def main():
    children.install(asyncio.get_running_loop())
    process = Child(start_program("/bin/sh", ["sh", "-c", "exit 7"], {}, (0, 1, 2)), children)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    children.kill(process.pid)
    print(await process.wait())
    children.kill(process.pid)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize("has_setsid", [True, False], ids=["as_usual", "in_a_python_without_setsid"])
def test_a_program_gets_its_descriptors_and_fresh_signals_and_a_session(has_setsid, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise NotImplementedError("posix_spawn: setsid unavailable on this platform")

    if not has_setsid:
        monkeypatch.setattr(os, "posix_spawn", refuse)
    script = "echo $(ls /proc/$$/fd); ps -o pid=,sid= $$; grep SigIgn /proc/self/status"
    null, result = os.open(os.devnull, os.O_RDWR), os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    output = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    try:
        pid = start_program("/bin/sh", ["sh", "-c", script], ENV, (null, output, output), [result])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not os.get_inheritable(result)
        with pytest.raises(FileNotFoundError):
            start_program("/nowhere/program", ["program"], ENV, (null, output, output))
    finally:
        for fd in (null, result, output):
            os.close(fd)

    descriptors, leader, ignored = (tmp_path / "output").read_text().splitlines()
    kept = set(map(int, descriptors.split()))
    assert kept >= {0, 1, 2, result}
    assert not kept & {null, output}
    assert leader.split() == [str(pid), str(pid)]
    assert int(ignored.split()[1], 16) == 0
