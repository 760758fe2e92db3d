"""How fast do class jobs go through, durably, end to end? P5, P6: beside peers and a bare fork.

All run a function that does nothing in processes that hold 60 MB of Python objects; RQ and Celery on a Redis
that syncs each change, Huey on a SQLite that does. bgd's jobs are timed from the first byte of their submit
to the last one's end, the peers' from when a tenth of a full queue is done: without their start.
The peers are installed on the first run, see `installing.py`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial

from bgd.core.spec import Isolation, JobSpec
from bgd.wire.requests import Cancel
from tests.bench import foreign_peers
from tests.bench.class_jobs import memory, processor
from tests.bench.harness import daemon, report, spread, submitted_many
from tests.bench.options import Peers, arguments
from tests.bench.peer_programs import PROGRAMS, answer, configuration
from tests.support import wait_until

# enough for a run of some seconds; --quick: a fifth
BGD_JOBS = {Isolation.SPAWN: 50, Isolation.FORK: 3_000, Isolation.REUSE: 6_000}
BARE_FORKS = 3_000
PEERS_JOBS = {
    "rq_forking": 300,
    "rq_simple": 1_000,
    "huey_processes": 6_000,
    "celery_pool": 3_000,
    "celery_process_each": 100,
    "dramatiq_processes": 3_000,
    "procrastinate": 500,
    "bunqueue": 3_000,
    "bunqueue_synced": 1_000,
    "graphile_worker": 3_000,
    "sidekiq": 10_000,
}
RATIOS = {
    "p5_share_of_bare_fork": ("bgd_fork", "bare_fork"),
    "p5_times_rq_forking": ("bgd_fork", "rq_forking"),
    "p5_times_celery_pool": ("bgd_fork", "celery_pool"),
    "p6_times_huey_processes": ("bgd_reuse", "huey_processes"),
}


def bgd_run(isolation: Isolation, at_once: int, count: int) -> tuple[float, float, dict[str, float]]:
    """Return jobs per second, private MB of a running job, and microseconds per job of each process."""
    with daemon(at_once, configuration(isolation)) as running:
        client = running.connect()
        client.wait(
            submitted_many(client, [JobSpec(target="work:nothing")] * at_once)
        )  # the first job starts the warm workers
        used, began = processor.Used(running.process.pid, running.launcher_pid), time.perf_counter()
        client.wait(submitted_many(client, [JobSpec(target="work:nothing")] * count))
        rate, microseconds = count / (time.perf_counter() - began), used.microseconds(count)
        stayers = running.folder / "stayers"
        stayers.mkdir()
        arguments = json.dumps({"args": [str(stayers)]})
        jobs = submitted_many(client, [JobSpec(target="work:stay", arguments=arguments)] * at_once)
        wait_until(lambda: len(list(stayers.iterdir())) == at_once)
        size = statistics.mean(memory.own_megabytes(int(stayer.name)) for stayer in stayers.iterdir())
        client.ask(Cancel(1, jobs))
        client.wait(jobs)
        return rate, size, microseconds


def bare_forks(at_once: int, count: int) -> tuple[float, float]:
    """Return forks per second of a process of the same size that only forks, and microseconds per fork."""
    program = [sys.executable, str(PROGRAMS / "bare.py"), str(at_once), str(count)]
    rate, microseconds = subprocess.run(program, stdout=subprocess.PIPE, check=True).stdout.split()
    return float(rate), float(microseconds)


def peer_run(name: str, at_once: int, count: int) -> tuple[float, float | None]:
    """Return jobs per second, and the private MB of a running job if it has a process."""
    if name in foreign_peers.PEERS:
        return foreign_peers.run_rate(name, at_once, count), None
    found = answer(name, PROGRAMS / "peers.py", name, at_once, count)
    return found["rate"], found["megabytes"]


def measure(at_once: int, rounds: int, share: float, *, with_peers: bool) -> None:
    """Run each once per round, so that a busy minute of the machine affects all of them."""
    peers = Peers()
    rates: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    for _ in range(rounds):
        runs: dict[str, tuple[float, float | None]] = {}
        rate, microseconds = bare_forks(at_once, round(BARE_FORKS * share))
        rates.setdefault("bare_fork", []).append(rate)
        used.setdefault("bare_fork", []).append(microseconds)
        for isolation, count in BGD_JOBS.items():
            rate, size, spent = bgd_run(isolation, at_once, round(count * share))
            runs[f"bgd_{isolation}"] = rate, size
            for who, microseconds in spent.items():
                used.setdefault(f"bgd_{isolation}_{who}", []).append(microseconds)
        for name, count in PEERS_JOBS.items() if with_peers else ():
            run = peers.ask(name, partial(peer_run, name, at_once, round(count * share)))
            if run is not None:
                runs[name] = run
        for name, (rate, own) in runs.items():
            rates.setdefault(name, []).append(rate)
            if own is not None:
                sizes.setdefault(name, []).append(own)
    median = {name: statistics.median(values) for name, values in rates.items()}
    report(
        "class jobs",
        slots=at_once,
        jobs_a_second={name: spread(values) for name, values in rates.items()},
        **{
            name: round(median[ours] / median[other], 2)
            for name, (ours, other) in RATIOS.items()
            if other in median
        },
        own_megabytes_of_a_running_job=({name: spread(values) for name, values in sizes.items()}),
        microseconds_of_processors_a_job={name: spread(values) for name, values in used.items()},
        missing=peers.missing,
    )


def main() -> None:
    options = arguments(__doc__, rounds=3)
    for at_once in (2,) if options.quick else (2, 8):
        measure(at_once, options.rounds, 0.2 if options.quick else 1.0, with_peers=not options.no_peers)


if __name__ == "__main__":
    main()
