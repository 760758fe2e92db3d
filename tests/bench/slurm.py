"""How many jobs a second does Slurm take, handed over in which way? `make bench-slurm EXECUTORS="cluster"`.

It needs root and Debian's Slurm, and starts one of two nodes on this machine, with two processors each. Each
system runs SLOTS jobs at a time. The executors are those of the daemon in tests/slurm/two_nodes.py. Prints a
line of JSON, then tables for docs/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bgd import Client, Job, State
from tests.bench import machine
from tests.bench.bench_commands import HYPERQUEUE
from tests.bench.installing import peers_python
from tests.bench.options import Peers
from tests.slurm.two_nodes import AS_USER, TwoNodes, running_cluster, serving_as_user, what_is_missing
from tests.support import Daemon, wait_until

SLOTS = 4
WAITING_SECONDS = 600  # far longer than a round takes
USUAL = ("cluster",)  # executors
LEAST_SECONDS, MOST_JOBS = 3.0, 10_000
SLEEPERS = 4  # jobs whose memory is measured together


class Work(NamedTuple):
    """A kind of job: its program, and how many to run at least."""

    title: str
    argv: list[str]
    jobs: int


class Setting(NamedTuple):
    """How many requests a second Slurm takes from a user (None: any number), and how many bgd sends."""

    title: str
    limit: int | None
    requests: int


WORKS = (Work("jobs that do nothing", ["/bin/true"], 80), Work("jobs of a second", ["sleep", "1"], 24))
SETTINGS = (Setting("no request limit", None, 10_000), Setting("limit of 40 requests a second", 40, 30))
SRUN = ("srun", "--quiet", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--mem=100M", "--chdir=/")
ON_BOTH_NODES = ("srun", "--quiet", "--nodes=2", "--ntasks=2", "--wait=0", "--cpus-per-task=2", "--mem=2G")

Rates = dict[str, dict[str, list[float]]]  # jobs a second, by system and by column
Memory = dict[str, dict[str, dict[str, float]]]  # megabytes of a job, by its state, program and kind


def main() -> int:
    """Measure; return 1 if there can be no Slurm here."""
    options = _options()
    missing = what_is_missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 1
    rates: Rates = {}
    memory: Memory = {}
    peers = Peers()
    for setting in SETTINGS:
        with (
            running_cluster(setting.limit) as cluster,
            serving_as_user(cluster, slots=SLOTS, requests=setting.requests) as daemon,
        ):
            measure(rates, setting, cluster, daemon, options, peers)
            if setting.limit is None:
                memory = memory_of_jobs(daemon, cluster, options.executors)
    say_all(rates, memory, peers.missing)
    return 0


def measure(
    rates: Rates,
    setting: Setting,
    cluster: TwoNodes,
    daemon: Daemon,
    options: argparse.Namespace,
    peers: Peers,
) -> None:
    """Add the rates of all systems in this setting, in turns, because the speed of a machine drifts."""
    with daemon.client(WAITING_SECONDS) as client:
        systems: dict[str, Callable[[Work], float]] = {
            f"bgd, executor `{name}`": partial(bgd_rate, client, name) for name in options.executors
        }
        if not options.no_peers:
            systems |= {
                "`srun` in a loop, one by one": partial(srun_rate, cluster, 1),
                f"`xargs -P{SLOTS} srun`": partial(srun_rate, cluster, SLOTS),
                "HyperQueue in an allocation of both nodes": partial(hyperqueue_rate, cluster),
            }
        for _ in range(options.rounds):
            for work in WORKS:
                for name, rate in systems.items():
                    found = peers.ask(name, partial(steady, rate, work))
                    cluster.wait_until_idle()
                    if found is not None:
                        column = f"{work.title}, {setting.title}"
                        rates.setdefault(name, {}).setdefault(column, []).append(found)


def steady(rate: Callable[[Work], float], work: Work) -> float:
    """Return a rate that was measured for a few seconds, with more jobs if a system needs them for that."""
    while work.jobs / (found := rate(work)) < LEAST_SECONDS and work.jobs < MOST_JOBS:
        work = work._replace(jobs=work.jobs * 4)
    return found


def bgd_rate(client: Client, executor: str, work: Work) -> float:
    """Return how many jobs a second end on an executor, from the submit to the last end."""
    began = time.perf_counter()
    jobs = client.submit_many({"argv": work.argv, "cwd": "/", "executor": executor} for _ in range(work.jobs))
    with closing(client.as_finished(jobs, timeout=WAITING_SECONDS)) as finished:
        states = Counter(job.state for job in finished)
    seconds = time.perf_counter() - began
    if states != {State.SUCCEEDED: work.jobs}:
        raise RuntimeError(f"not all jobs succeeded: {dict(states)}")
    return work.jobs / seconds


def srun_rate(cluster: TwoNodes, at_once: int, work: Work) -> float:
    """Return how many sruns end in a second if `at_once` of them run at a time."""
    began = time.perf_counter()
    subprocess.run(
        [*AS_USER, "xargs", f"-P{at_once}", "-I{}", *SRUN, *work.argv],  # a line for each, which is not used
        input="job\n" * work.jobs,
        text=True,
        env=os.environ | {"SLURM_CONF": str(cluster.configuration)},
        cwd="/",
        check=True,
    )
    return work.jobs / (time.perf_counter() - began)


def hyperqueue_rate(cluster: TwoNodes, work: Work) -> float:
    """Return what HyperQueue does on the first of two nodes that it has for itself, with SLOTS slots."""
    # root's job, because the peers are in root's home; of the two tasks one runs
    script = '[ "$SLURM_PROCID" = 0 ] || exit 0; exec "$@"'
    task = [str(peers_python()), str(HYPERQUEUE), str(work.jobs), str(SLOTS), *work.argv]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*ON_BOTH_NODES, "sh", "-c", script, "sh", *task],
            env={"HOME": folder, "PATH": os.environ["PATH"], "SLURM_CONF": str(cluster.configuration)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    return float(done.stdout.split()[-1])


# --- memory


def memory_of_jobs(daemon: Daemon, cluster: TwoNodes, executors: Iterable[str]) -> Memory:
    """Return the megabytes that a job costs here and on its node, by program.

    The node's programs are on this machine too.
    """
    found: Memory = {}
    with daemon.client(WAITING_SECONDS) as client:
        states = {f"running, executor `{name}`": (name, True) for name in executors}
        for title, (executor, runs) in (states | {"waiting for a node": ("later", False)}).items():
            before = memory_of_programs(daemon, cluster)
            nodes = None if runs else 1  # each has a job of its own in Slurm then
            jobs = [
                client.submit(["sleep", "1000"], cwd="/", executor=executor, nodes=nodes)
                for _ in range(SLEEPERS)
            ]
            wait_until(partial(all_run, jobs) if runs else lambda: len(cluster.jobs()) == SLEEPERS)
            found[title] = {
                name: {
                    kind: round((size - before.get(name, NO_MEMORY)[kind]) / SLEEPERS / 1e6, 2)
                    for kind, size in sizes.items()
                }
                for name, sizes in memory_of_programs(daemon, cluster).items()
            }
            client.cancel(jobs)
            for job in jobs:
                job.wait(WAITING_SECONDS)
            cluster.wait_until_idle()
    return found


def all_run(jobs: Iterable[Job]) -> bool:
    return all(job.attempts() and job.attempts()[0].pid for job in jobs)


def memory_of_programs(daemon: Daemon, cluster: TwoNodes) -> dict[str, Counter[str]]:
    """Return the bytes of all processes of a daemon, of a cluster and of their jobs, by name."""
    marks = (str(daemon.folder).encode(), str(cluster.folder).encode())
    parents: dict[int, tuple[str, int]] = {}
    ours: set[int] = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
            told = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        name, parent = stat[stat.index("(") + 1 : stat.rindex(")")], stat.rpartition(")")[2].split()[1]
        parents[int(path.name)] = name, int(parent)
        if any(mark in told for mark in marks):
            ours.add(int(path.name))
    # a slurmstepd has nothing of its cluster in its environment, but its task does
    above = {parents[pid][1] for pid in ours}
    ours |= {pid for pid in above if parents.get(pid, ("", 0))[0] == "slurmstepd"}
    found: dict[str, Counter[str]] = {}
    for pid in ours:
        found.setdefault(parents[pid][0], Counter()).update(_memory_of(pid))
    return found


def _memory_of(pid: int) -> dict[str, int]:
    """Return the resident bytes of a process, and those of them that it shares with no other."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return {}
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
    return {"resident": sizes["Rss:"], "private": sizes["Private_Clean:"] + sizes["Private_Dirty:"]}


NO_MEMORY: Counter[str] = Counter()


# --- the answer


def say_all(rates: Rates, memory: Memory, missing: Mapping[str, str]) -> None:
    """Print the figures as a line of JSON, and as tables."""
    columns = [f"{work.title}, {setting.title}" for setting in SETTINGS for work in WORKS]
    print(
        json.dumps(
            {
                "question": "slurm",
                "slots": SLOTS,
                "machine": machine.machine(),
                "slurm": subprocess.check_output(["dpkg-query", "-Wf${Version}", "slurm-client"], text=True),
                "jobs_a_second": rates,
                "megabytes_a_job": memory,
                "missing": missing,
            }
        )
    )
    print(f"\n| jobs a second | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|")
    for name, found in rates.items():
        cells = [_cell(found[each]) if each in found else "-" for each in columns]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| MB of a job | private | of it | resident |\n|---|---:|---|---:|")
    for state, programs in memory.items():
        shown = {name: sizes for name, sizes in sorted(programs.items()) if sizes["resident"] >= LEAST_SHOWN}
        words = ", ".join(f"{name} {sizes['private']:.1f}" for name, sizes in shown.items())
        private, resident = (sum(sizes[kind] for sizes in shown.values()) for kind in ("private", "resident"))
        print(f"| {state} | {private:.1f} | {words} | {resident:.1f} |")


def _cell(values: list[float]) -> str:
    """Return the median, with the smallest and the largest in brackets."""
    middle, least, most = (f"{value:.1f}" for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


LEAST_SHOWN = 0.1  # MB


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.slurm", description=__doc__)
    parser.add_argument("executors", nargs="*", metavar="EXECUTOR", help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--no-peers", action="store_true", help="measure bgd only")
    given = parser.parse_args()
    given.executors = given.executors or list(USUAL)
    return given


if __name__ == "__main__":
    sys.exit(main())
