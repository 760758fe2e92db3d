"""How late do delayed jobs start? P21: 10,000 of them; 250 become due in each second.

From the time at which a job may start to the time that it prints, or that its function writes. Beside them a
process sleeps until each of these times: it shows what the machine itself is late by.
"""

from __future__ import annotations

import json
import multiprocessing
import select
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bgd.core.spec import Isolation, JobSpec
from tests.bench.bench_latency import STAMP
from tests.bench.harness import ENVIRONMENT, Daemon, daemon, latencies, report, submitted_many
from tests.bench.options import Peers, arguments
from tests.bench.peer_programs import answer, configuration

SLOTS = 8
RATE = 250.0  # jobs that become due in a second
LEAD = 3.0  # seconds from the first submit to the first that is due
PEERS_LEAD = 90.0  # they take jobs one by one
PEERS = ("rq_simple", "huey_processes", "celery_pool", "dramatiq_processes", "procrastinate")


class Amounts(NamedTuple):
    jobs: int
    peers_lead: float


FULL = Amounts(10_000, PEERS_LEAD)
QUICK = Amounts(500, 8.0)


def sleep_until(times: list[float], sender: multiprocessing.connection.Connection) -> None:
    late = []
    for at in times:
        select.select([], [], [], max(at - time.time(), 0.0))
        late.append(time.time() - at)
    sender.send(late)


def commands(count: int) -> dict[str, list[float]]:
    """Return how late commands are, and a process that sleeps until the same times."""
    with daemon(SLOTS) as running:
        client = running.connect()
        due = due_times(count)
        receiver, sender = multiprocessing.Pipe(duplex=False)
        sleeper = multiprocessing.Process(target=sleep_until, args=(due, sender))
        sleeper.start()
        specs = [JobSpec(argv=STAMP, cwd="/", umask=0o022, at=at) for at in due]
        jobs = submitted_many(client, specs, ENVIRONMENT)
        client.wait(jobs)
        alone = receiver.recv()
        sleeper.join()
        logs = running.folder / "logs"
        printed = [float((logs / f"{job // 1000}/{job}.1.log").read_text()) for job in jobs]
    return {"bgd": [start - at for start, at in zip(printed, due, strict=True)], "sleeper": alone}


def functions(count: int) -> dict[str, list[float]]:
    """Return how late functions are that reused processes run."""
    with daemon(SLOTS, configuration(Isolation.REUSE)) as running:
        client = running.connect()
        warm = [JobSpec(target="work:rest", arguments=given(running, "warm", 0.1))] * SLOTS
        client.wait(submitted_many(client, warm))  # starts the warm workers
        due = due_times(count)
        specs = [JobSpec(target="work:late", arguments=given(running, "times", at), at=at) for at in due]
        client.wait(submitted_many(client, specs))
        written = (running.folder / "times").read_bytes()
    return {"bgd_reuse": [late for (late,) in struct.iter_unpack("d", written)]}


def due_times(count: int) -> list[float]:
    first = time.time() + LEAD
    return [first + number / RATE for number in range(count)]


def given(running: Daemon, name: str, number: float) -> str:
    return json.dumps({"args": [str(Path(running.folder, name)), number]})


def peer(name: str, amounts: Amounts) -> dict[str, list[float]]:
    numbers = (SLOTS, amounts.jobs, RATE, amounts.peers_lead)
    return {name: answer(name, "-c", "import lateness; lateness.main()", "delayed", name, *numbers)}


def main() -> None:
    options = arguments(__doc__, rounds=1)
    amounts = QUICK if options.quick else FULL
    samples: dict[str, list[list[float]]] = {}
    peers = Peers()
    for _ in range(options.rounds):
        found = commands(amounts.jobs) | functions(amounts.jobs)
        for name in () if options.no_peers else PEERS:
            measure: Callable[[], dict[str, list[float]]] = partial(peer, name, amounts)
            found |= peers.ask(name, measure) or {}
        for name, late in found.items():
            samples.setdefault(name, []).append(late)
    report("lateness", jobs=amounts.jobs, rate=RATE, late_ms=latencies(samples), missing=peers.missing)


if __name__ == "__main__":
    main()
