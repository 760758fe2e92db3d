"""How long does a submit wait while finished jobs are pruned? P11: with a million of them, never 50 ms."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from threading import Event, Thread, Timer

from bgd.wire.replies import End, Pruned
from bgd.wire.requests import Prune
from tests.bench.bench_lists import KEPT
from tests.bench.filled import fill
from tests.bench.harness import Daemon, daemon, percentiles, report, submit, submitted
from tests.bench.options import arguments

JOBS = 1_000_000
QUICK = 3_000
SECONDS = 20.0  # of submits without pruning, for comparison


def submit_until(running: Daemon, end: Event) -> list[float]:
    """Submit one job after the other; return how long each took."""
    client = running.connect()
    taken = []
    while not end.is_set():
        began = time.perf_counter()
        submitted(client, submit(1))
        taken.append(time.perf_counter() - began)
    return taken


def prune(running: Daemon, keep: int, end: Event) -> float:
    """Prune all jobs except `keep`; return the seconds it took."""
    client = running.connect()
    began = time.perf_counter()
    client.send(Prune(id=1, keep=keep))
    while not isinstance(reply := client.receive(), End):
        assert isinstance(reply, Pruned), reply
    end.set()
    return time.perf_counter() - began


def measure(running: Daemon, jobs: int) -> dict[str, object]:
    end = Event()
    timer = Timer(SECONDS, end.set)
    timer.start()
    alone = submit_until(running, end)
    end = Event()
    took: list[float] = []
    pruning = Thread(target=lambda: took.append(prune(running, jobs // 10, end)))
    pruning.start()
    beside = submit_until(running, end)
    pruning.join()
    return {
        "submit_ms_alone": percentiles(alone),
        "submit_ms_beside": percentiles(beside),
        "submits_beside": len(beside),
        "over_50_ms": sum(each > 0.05 for each in beside),
        "prune_seconds": round(took[0], 1),
        "pruned_a_second": round((jobs - jobs // 10) / took[0]),
        "resident_mb": running.resident_megabytes(),
    }


def main() -> None:
    jobs = QUICK if arguments(__doc__, rounds=1).quick else JOBS

    def prepare(folder: Path) -> None:
        asyncio.run(fill(folder / "bgd.db", jobs, finished=True, uid=os.getuid()))

    with daemon(slots=1, extra=KEPT, prepare=prepare) as running:
        report("prune", jobs=jobs, **measure(running, jobs))


if __name__ == "__main__":
    main()
