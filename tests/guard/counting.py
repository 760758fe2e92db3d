"""Count what fixed workloads cost: system calls, SQL statements, bytes, memory, wake-ups, modules.

None of the figures depends on a clock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median_low

from bgd import Client, Job
from tests.daemon.web.browsing import Browser
from tests.guard import counted_daemon
from tests.support import DEADLINE, Daemon

# As large as that of a shell
ENVIRONMENT = {f"VARIABLE_{number:02}": "v" * 85 for number in range(50)}
CONFIGURATION = """\
[daemon]
slots = 2

[security]
allowed_classes = ["counted_modules.*"]

[python]
path = ["{folder}"]
isolation = "spawn"
"""
CLASS_JOB = "import sys\n\ndef names():\n    return sorted(sys.modules)\n\ndef nothing():\n    pass\n"
WINDOWS = 3  # of two seconds; what was still to be done after a workload is over in the last one

Counts = dict[str, int]


def count_all() -> Counts:
    """Return all counts, by the names in the table of bounds; without strace those of system calls lack."""
    with started_daemon() as daemon:  # of its own: its jobs would make the database of the others larger
        counts = count_modules(daemon)
    with started_daemon() as daemon:
        # in this order, so that the daemon has nothing left to do when it is to be idle
        return counts | count_memory() | count_workloads(daemon) | count_reused_jobs(daemon)


@contextmanager
def started_daemon() -> Iterator[CountedDaemon]:
    """Yield a private daemon, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = CountedDaemon(Path(folder))
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()


class CountedDaemon(Daemon):
    """A private daemon that counts its SQL statements."""

    program = ("-m", "tests.guard.counted_daemon")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.statements = folder / "statements"
        self.statements.write_bytes(bytes(counted_daemon.COUNTS.size))
        self.env[counted_daemon.VARIABLE] = str(self.statements)
        (folder / "counted_modules.py").write_text(CLASS_JOB)
        self.configure(CONFIGURATION.replace("{folder}", str(folder)))


# --- workloads of a real daemon


def count_workloads(daemon: CountedDaemon) -> Counts:
    """Return what the workloads cost in both processes."""
    with daemon.client() as client:
        launcher_pid = client.info().launcher_pid
        assert launcher_pid is not None
        pids = {"daemon": daemon.process.pid, "launcher": launcher_pid}
        counts = idle("idle for 2 s", pids)
        client.pause()
        submitted: list[Job] = []
        counts |= counted(
            "200 submits", daemon, pids, lambda: submitted.extend(submit(client) for _ in range(200))
        )
        client.cancel(submitted)
        client.resume()
        counts |= counted("100 jobs", daemon, pids, lambda: [submit(client).wait() for _ in range(100)])
        counts |= counted("batch of 2000", daemon, pids, lambda: run_batch(client), is_traced=False)
        with open_pages(daemon):
            counts |= idle("idle for 2 s with 100 open pages", pids)
    return counts


def submit(client: Client) -> Job:
    return client.submit(["/bin/true"], env_pass="none", env=ENVIRONMENT, cwd="/")


def run_batch(client: Client) -> None:
    one = {"argv": ["/bin/true"], "env_pass": "none", "env": ENVIRONMENT, "cwd": "/"}
    client.wait(client.submit_many([one] * 2_000), timeout=5 * DEADLINE)


def count_reused_jobs(daemon: CountedDaemon) -> Counts:
    """Return the system calls of 100 class jobs in a reused worker, one by one."""
    daemon.configure(CONFIGURATION.replace("{folder}", str(daemon.folder)).replace('"spawn"', '"reuse"'))
    with daemon.client() as client:
        client.reload()
        client.call("counted_modules:nothing").wait()
        launcher = client.info().launcher_pid
        (worker,) = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        assert launcher is not None
        with traced({"launcher": launcher, "worker": int(worker)}) as calls:
            for _ in range(100):
                client.call("counted_modules:nothing").wait()
    # time decides how often the worker checks files; getpid is called in each turn of the loop
    ignored = {"epoll_wait", "newfstatat", "getpid"}
    return {
        f"system calls of the {process}, 100 reused class jobs": len([n for n in names if n not in ignored])
        for process, names in calls.items()
    }


def counted(
    workload: str,
    daemon: CountedDaemon,
    pids: dict[str, int],
    run: Callable[[], object],
    *,
    is_traced: bool = True,
) -> Counts:
    """Return what a workload costs: its wake-ups, or its system calls, which need tracing.

    A traced thread wakes up for its tracer.
    """
    before = figures(daemon, pids)
    with traced(pids if is_traced else {}) as calls:
        run()
    after = figures(daemon, pids)
    found = {
        name: after[name] - before[name] for name in after if not (is_traced and name.startswith("wake-ups"))
    }
    for process, names in calls.items():
        found |= figures_of_calls(process, names)
    return {f"{name}, {workload}": figure for name, figure in found.items()}


def figures_of_calls(process: str, names: list[str]) -> Counts:
    """Return what is counted of a process's system calls, whose names are in the order of the calls."""
    counter = Counter(names)
    if counter["mkdir"]:  # the launcher makes control groups, and the bounds are those of one that cannot
        return {}
    waits = counter["epoll_wait"] + counter["epoll_pwait"]
    found = {f"waits for events of the {process}": waits}
    # how often threads wait, for each other or for an event, depends on the scheduling of the machine
    others = [name for name in names if name not in {"epoll_wait", "epoll_pwait", "futex"}]
    if process == "daemon":
        found["system calls of the daemon"] = len(others)
        found["futex calls of the daemon"] = counter["futex"]
        found["syncs to disk"] = counter["fdatasync"] + counter["fsync"]
    else:
        # the launcher looks again at a process that is still there after a moment, as on a busy machine: not
        # half of them are, so the median attempt has none of these calls
        starts = [index for index, name in enumerate(others) if name == "execve"]
        attempts = [after - before for before, after in pairwise(starts)]
        found["system calls of the launcher for an attempt"] = (
            median_low(attempts) if attempts else len(others)
        )
    return found


def figures(daemon: CountedDaemon, pids: dict[str, int]) -> Counts:
    """Return running totals that need no tracing."""
    statements, commits = counted_daemon.read_counts(daemon.statements)
    found = {"SQL statements": statements, "commits": commits}
    for process, pid in pids.items():
        written = re.search(r"^wchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
        assert written is not None
        found[f"bytes written by the {process}"] = int(written[1])
        found[f"wake-ups of the {process}"] = sum(map(wake_ups, threads(pid)))
    return found


def threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def wake_ups(thread: Path) -> int:
    """Return how often a thread has waited for something."""
    found = re.search(r"^voluntary_ctxt_switches:\s(\d+)$", (thread / "status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@contextmanager
def open_pages(daemon: Daemon) -> Iterator[None]:
    """Keep 100 pages open: they are told of changes, and every 15 s that they are still connected."""
    browser = Browser(daemon).log_in()
    paths = ["/job-logs/live", "/job-logs/overview/live", "/job-logs/queues/live", "/job-logs/1/live"]
    with ExitStack() as opened:
        for path in paths * 25:
            page = opened.enter_context(browser.connect())
            page.sendall(browser.request(path))
            assert page.recv(12) == b"HTTP/1.1 200"
        yield


def idle(what: str, pids: dict[str, int]) -> Counts:
    """Return the system calls of two seconds without work, of the quietest of some windows."""
    totals: list[int] = []
    while len(totals) < WINDOWS and 0 not in totals:
        with traced(pids) as calls:
            threading.Event().wait(2)
        totals.append(sum(map(len, calls.values())))
    return {f"system calls, {what}": min(totals)} if can_trace() else {}


# --- system calls


def can_trace() -> bool:
    """Return whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return tried.returncode == 0


@contextmanager
def traced(pids: dict[str, int]) -> Iterator[dict[str, list[str]]]:
    """Record the names of the system calls of these processes while the block lasts.

    The calls of a child count for its parent until the child executes its program.
    """
    calls: dict[str, list[str]] = {}
    if not can_trace():
        yield calls
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as tracing:
        logs = {process: Path(folder, process) for process in pids}
        own = {process: {thread.name for thread in threads(pid)} for process, pid in pids.items()}
        for process, pid in pids.items():
            tracing.enter_context(strace(pid, logs[process]))
        yield calls
        tracing.close()
        for process, log in logs.items():
            calls[process] = calls_in(log, own[process])


@contextmanager
def strace(pid: int, log: Path) -> Iterator[None]:
    command = ["strace", "-f", "-e", "signal=none", "-o", str(log), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        assert "attached" in line, line
        try:
            yield
        finally:
            tracer.terminate()
            tracer.stderr.read()


def calls_in(log: Path, own: set[str]) -> list[str]:
    """Return the names of the completed calls in a log of strace; `own`: ids of the process's threads."""
    names: list[str] = []
    strangers: set[str] = set()  # children that have executed their program
    for line in log.read_text(errors="replace").splitlines():
        call = _COMPLETED.match(line)
        if call is None or call["pid"] in strangers:
            continue
        names.append(call["name"])
        if call["name"] == "execve" and call["pid"] not in own and line.endswith(" = 0"):
            strangers.add(call["pid"])
    return names


# A call that was waiting when strace came or left is not one: it is unfinished or detached
_COMPLETED = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?:\(| resumed>).* = .*")


# --- modules


def count_modules(daemon: CountedDaemon) -> Counts:
    """Return how many modules are imported, besides those of a Python that does nothing."""
    bare = modules(daemon, "")
    ends = "import os; os._exit = lambda code: show()"
    found = {
        "import bgd": modules(daemon, "import bgd"),
        "bgd.job": modules(daemon, "import bgd; bgd.job"),
        "submit of a Client": modules(daemon, "import bgd; bgd.Client().submit(['/bin/true'])"),
        "launcher": modules(daemon, "import bgd.launcher.__main__"),
        "daemon": modules(daemon, "import bgd.__main__"),
    }
    daemon.env["BGD_SOCKET"] = str(daemon.socket)  # so that bgctl reads no configuration
    for verb, *words in (
        ["submit", "/bin/true"],
        ["run", "/bin/true"],
        ["list"],
        ["logs", "1"],
        ["wait", "1"],
    ):
        for way in ([], ["--"]):  # without the client, and with the parser and the client
            code = f"{ends}; sys.argv[1:] = {[verb, *way, *words]}; from bgctl.__main__ import main; main()"
            found[" ".join(["bgctl", verb, *way])] = modules(daemon, code)
    with daemon.client() as client:
        found["spawned class job"] = set(client.returned(client.call("counted_modules:names").wait().id))
    bare |= {"unicodedata"}  # Python's compiler needs it, where bytecode is not cached
    return {f"modules, {what}": len(names - bare) for what, names in found.items()}


def modules(daemon: CountedDaemon, code: str) -> set[str]:
    """Run code; return the modules that were imported then, whether it returns or calls show() and ends."""
    program = f"import sys\ndef show(): print('', *sys.modules, file=sys.stderr)\n{code}\nshow()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=daemon.env,
        cwd=daemon.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


# --- memory


def count_memory() -> Counts:
    done = subprocess.run(
        [sys.executable, "-m", "tests.guard.memory"],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    counts: Counts = json.loads(done.stdout)
    return counts
