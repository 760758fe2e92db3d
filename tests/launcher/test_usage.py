"""What running attempts use: of their whole trees, read only when a supervisor asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bgd.core.spec import Isolation
from bgd.launcher.cgroup import Group, PresentUsage
from bgd.launcher.process import TICKS, read_process
from bgd.wire.launching import AttemptKey, AttemptUsage, FromLauncher, Measured, MeasureUsage
from tests.launcher.host import Host, Supervisor, needs_strace, written
from tests.launcher.warm.calls import Calls
from tests.support import wait_until

MIB = 1 << 20
PROCESSORS = os.cpu_count() or 1
BUSY = "while True: pass"
# a process with so much memory that it has written to, which then waits
HOLDS = "import sys, time; kept = b'x' * int(sys.argv[1]); print('ready', flush=True); time.sleep(1000)"


def measured(supervisor: Supervisor) -> dict[AttemptKey, AttemptUsage]:
    """Return the answer to a question of its own: the launcher repeats an answer for a second."""
    supervisor.say(MeasureUsage())
    while not isinstance(message := supervisor.hear(), Measured):
        assert message is not None, "the launcher hung up"
    return {usage.key: usage for usage in message.attempts}


def usage_once(
    supervisor: Supervisor, key: AttemptKey, is_enough: Callable[[AttemptUsage], bool]
) -> AttemptUsage:
    """Return what an attempt uses, once it is enough: on a busy machine a process gets its share late."""
    found: list[AttemptUsage] = []

    def is_there() -> bool:
        usage = measured(supervisor).get(key)
        found[:] = [usage] if usage is not None else []
        return usage is not None and is_enough(usage)

    wait_until(is_there)
    return found[0]


def is_busy(percent: float) -> Callable[[AttemptUsage], bool]:
    """Return whether an attempt uses more than this share of a processor."""
    return lambda usage: usage.cpu_percent is not None and usage.cpu_percent > percent


def is_idle(usage: AttemptUsage) -> bool:
    return usage.cpu_percent is not None and usage.cpu_percent < 5


def python(supervisor: Supervisor, code: str, *arguments: str) -> AttemptKey:
    key = supervisor.launch(sys.executable, "-c", code, *arguments)
    supervisor.started(key)
    return key


def test_a_busy_process_uses_a_processor_and_one_that_waits_none(supervisor):
    busy, idle = python(supervisor, BUSY), supervisor.launch("sleep", "1000")
    supervisor.started(idle)

    usage = usage_once(supervisor, busy, is_busy(20))
    assert not is_busy(100 * PROCESSORS)(usage)
    assert usage.processes == 1
    usage = usage_once(supervisor, idle, is_idle)
    assert (usage.processes, 0 < usage.memory_bytes < 20 * MIB) == (1, True)


def test_a_tree_counts_whole_even_what_left_its_session_and_its_parent(supervisor, tmp_path):
    escapes = f"(setsid env -i {sys.executable} -c '{BUSY}' >/dev/null 2>&1 &)"
    script = f"sleep 1000 & {escapes}; echo ready > {tmp_path}/ready; exec sleep 1000"
    key = supervisor.launch("sh", "-c", script)
    written(tmp_path / "ready")

    usage = usage_once(supervisor, key, is_busy(5))

    assert usage.processes == 3


def test_memory_is_that_of_all_processes(host, supervisor):
    script = f'{sys.executable} -c "{HOLDS}" {100 * MIB} & exec {sys.executable} -c "{HOLDS}" {150 * MIB}'
    key = supervisor.launch("sh", "-c", script)
    wait_until(lambda: host.output(key).count(b"ready") == 2)

    memory = measured(supervisor)[key].memory_bytes

    assert 250 * MIB < memory < 350 * MIB


def test_time_of_a_child_counts_after_it_has_ended(supervisor):
    """Many short processes, as in a build: none lives from one reading to the next."""
    burst = f"{sys.executable} -S -c 'sum(range(300_000))'"
    key = supervisor.launch("sh", "-c", f"while :; do {burst}; done")

    usage = usage_once(supervisor, key, is_busy(5))

    assert usage.processes <= 2


def test_a_job_that_ends_meanwhile_is_left_out(supervisor):
    quick = supervisor.launch("sh", "-c", "read line; sleep 0.1", stdin=b"go\n")
    slow = supervisor.launch("sleep", "1000")
    supervisor.all_started([quick, slow])
    supervisor.say(MeasureUsage())
    heard: list[FromLauncher | None] = []
    while not heard or not isinstance(heard[-1], Measured):
        heard.append(supervisor.hear())
    wait_until(lambda: quick not in measured(supervisor))

    assert slow in measured(supervisor)
    assert slow in {usage.key for usage in heard[-1].attempts}


def test_a_launcher_without_jobs_has_nothing_to_say(supervisor):
    assert measured(supervisor) == {}


_BURNS_AND_NAPS = """
import os, time
def burn():
    sum(range(20_000_000))
    return os.getpid()
def nap():
    time.sleep(1000)
"""


def test_what_a_reused_worker_used_for_earlier_jobs_does_not_count(host, supervisor):
    calls = Calls(host, supervisor, Isolation.REUSE)
    calls.write("works", _BURNS_AND_NAPS)
    worker = calls.value("works:burn")
    measured(supervisor)
    key = calls.launch("works:nap")
    assert supervisor.started(key).pid == worker

    wait_until(lambda: key in measured(supervisor))
    assert measured(supervisor)[key].cpu_percent is None
    assert usage_once(supervisor, key, is_idle).processes == 1


@needs_strace
def test_processes_are_read_only_when_somebody_asks_and_then_once_a_second(
    host: Host, supervisor: Supervisor, tmp_path: Path
):
    supervisor.started(supervisor.launch("sleep", "1000"))
    trace = tmp_path / "trace"
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", "trace=openat", "-o", trace, "-p", str(host.launchers[-1].pid)]
    )
    try:
        wait_until(
            lambda: "TracerPid:\t0\n" not in Path(f"/proc/{host.launchers[-1].pid}/status").read_text()
        )
        supervisor.run("sleep", "1.5")
        assert scans_in(trace) == 0

        for _ in range(20):
            measured(supervisor)
        assert 2 <= scans_in(trace) <= 4  # the first answer needs two
        before = scans_in(trace)
        supervisor.run("sleep", "1.5")
        assert scans_in(trace) == before
    finally:
        tracer.terminate()
        tracer.wait()


def scans_in(trace: Path) -> int:
    return trace.read_text().count('"/proc"')


# --- by control group


def test_a_control_group_says_what_its_processes_use(tmp_path):
    write_group(tmp_path, **{"cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "memory.current": "4096\n"})
    below = tmp_path / "below"
    below.mkdir()
    (below / "cgroup.procs").write_text("19\n")

    assert Group(str(tmp_path)).present_usage() == PresentUsage(2.5, 4096, 3)


def test_a_control_group_that_does_not_count_memory_says_nothing(tmp_path):
    write_group(tmp_path, **{"cpu.stat": "usage_usec 2500000\n"})

    assert Group(str(tmp_path)).present_usage() is None


def write_group(folder: Path, **files: str) -> None:
    for name, text in {"cgroup.procs": "17\n18\n", **files}.items():
        (folder / name).write_text(text)


# --- on a pilot, which is a launcher


def test_a_pilot_says_what_its_jobs_use(host, slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.pilot_start}
    key = supervisor.launch("sleep", "1000")
    wait_until(lambda: supervisor.started(key).pid)

    assert measured(supervisor)[key].processes == 1


# --- one process


def test_the_time_of_a_process_has_that_of_the_children_that_it_waited_for():
    assert (before := read_process(os.getpid())) is not None
    subprocess.run([sys.executable, "-S", "-c", "sum(range(30_000_000))"], check=True)
    assert (after := read_process(os.getpid())) is not None

    assert after.cpu_ticks - before.cpu_ticks > 0.05 * TICKS
    assert after.memory > 10 * MIB
