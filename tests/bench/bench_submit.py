"""How fast are jobs taken durably? P1: one by one by one client. P2: by 64 clients. P3: many in one request.

Beside raw SQLite and the peers. A bare client shows what the daemon can do; `bgd.Client` what programs get.
"""

from __future__ import annotations

import multiprocessing
import os
import selectors
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest.mock import patch

from bgd import Client
from bgd.core.spec import JobSpec
from tests.bench import submit_peers
from tests.bench.harness import (
    ENVIRONMENT,
    BareClient,
    daemon,
    percentiles,
    raw_commits_a_second,
    report,
    spread,
    submit,
    submitted_many,
)
from tests.bench.options import Peers, arguments
from tests.bench.submit_peers import Amounts

FULL = Amounts(one_by_one=4_000, clients=64, each=500, bulk=20_000, programs=300)
QUICK = Amounts(one_by_one=200, clients=64, each=5, bulk=2_000, programs=20)
PROCESSES = 2  # clients share them, so that client CPU does not decide alone
LIBRARY = 0.25  # of the jobs of a bare client are submitted by a library
WAYS = {"one_by_one": "p1", "at_once": "p2", "bulk": "p3"}


def one_by_one(path: str, count: int) -> list[float]:
    client = BareClient(path)
    times = []
    for number in range(count):
        began = time.perf_counter()
        client.ask(submit(number, ("/bin/echo", str(number))))
        times.append(time.perf_counter() - began)
    return times


def many_at_once(path: str, clients: int, each: int, ready: Barrier) -> None:
    """Each client has one submit in flight, all of them at once."""
    selector = selectors.DefaultSelector()
    for index in range(clients):
        client = BareClient(path)
        selector.register(client.socket, selectors.EVENT_READ, [client, index, each])
    ready.wait()
    for key in selector.get_map().values():
        key.data[0].send(submit(0, ("/bin/echo", str(key.data[1]))))
    while selector.get_map():
        for key, _ in selector.select():
            client, index, left = key.data
            client.receive()
            key.data[2] = left = left - 1
            if left:
                client.send(submit(left, ("/bin/echo", str(index), str(left))))
            else:
                selector.unregister(client.socket)
    ready.wait()


def clients_at_once(path: str, clients: int, each: int, ready: Barrier) -> None:
    """Each thread has a Client, and waits for the answer to a job before it submits the next one."""

    def submit_all() -> None:
        with Client(path) as client:
            client.submit(["/bin/echo", "first"])  # it connects
            begin.wait()
            for number in range(each):
                client.submit(["/bin/echo", str(number)])

    begin = threading.Barrier(clients + 1)
    threads = [threading.Thread(target=submit_all) for _ in range(clients)]
    with patch.dict(os.environ, ENVIRONMENT, clear=True):
        for thread in threads:
            thread.start()
        begin.wait()
        ready.wait()
        for thread in threads:
            thread.join()
    ready.wait()


def at_once_rate(work: Callable[[str, int, int, Barrier], None], path: str, clients: int, each: int) -> float:
    ready = multiprocessing.Barrier(PROCESSES + 1)
    workers = [
        multiprocessing.Process(target=work, args=(path, clients // PROCESSES, each, ready))
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    ready.wait()
    rate = clients * each / (time.perf_counter() - began)
    for worker in workers:
        worker.join()
    return rate


def by_client_rate(path: str, count: int) -> float:
    with Client(path) as client, patch.dict(os.environ, ENVIRONMENT, clear=True):
        client.submit(["/bin/echo", "first"])  # it connects
        began = time.perf_counter()
        for number in range(count):
            client.submit(["/bin/echo", str(number)])
        return count / (time.perf_counter() - began)


def bulk_rate(path: str, count: int) -> float:
    client = BareClient(path)
    spec = JobSpec(argv=("/bin/true",), cwd="/", umask=0o022)
    began = time.perf_counter()
    submitted_many(client, [spec] * count, ENVIRONMENT)
    return count / (time.perf_counter() - began)


def bulk_by_client_rate(path: str, count: int) -> float:
    commands = [["/bin/echo", str(number)] for number in range(count)]
    with Client(path) as client, patch.dict(os.environ, ENVIRONMENT, clear=True):
        client.submit(["/bin/echo", "first"])  # it connects
        began = time.perf_counter()
        client.submit_many(commands)
        return count / (time.perf_counter() - began)


def bulk_by_bgctl_rate(path: str, count: int) -> float:
    """Return what `bgctl batch` submits, with its own start and a line of input for each job."""
    lines = "".join(f"{number}\n" for number in range(count))
    bgctl = str(Path(sys.executable).with_name("bgctl"))
    began = time.perf_counter()
    subprocess.run(
        [bgctl, "batch", "--", "/bin/echo"],
        input=lines,
        text=True,
        env=ENVIRONMENT | {"BGD_SOCKET": path},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return count / (time.perf_counter() - began)


def main() -> None:
    options = arguments(__doc__, rounds=3)
    amounts = QUICK if options.quick else FULL
    library = amounts._replace(
        one_by_one=round(amounts.one_by_one * LIBRARY * 2), each=max(round(amounts.each * LIBRARY), 1)
    )
    latencies: list[float] = []
    rates: dict[str, list[float]] = {}
    theirs: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    peers = Peers()
    for _ in range(options.rounds):
        # slots: none is free, because a job runs in the one there is: submitting alone is measured
        with daemon(slots=1) as running:
            path = running.socket
            running.connect().ask(submit(1, ("/bin/sleep", "600")))
            times = one_by_one(path, amounts.one_by_one)
            latencies += times
            found = {
                "raw_sqlite_commits": raw_commits_a_second(running.folder, 0.2 if options.quick else 1.0),
                "p1_one_client": len(times) / sum(times),
                "p1_by_client": by_client_rate(path, library.one_by_one),
                "p2_64_clients": at_once_rate(many_at_once, path, amounts.clients, amounts.each),
                "p2_64_by_client": at_once_rate(clients_at_once, path, library.clients, library.each),
                "p3_bulk": bulk_rate(path, amounts.bulk),
                "p3_bulk_by_client": bulk_by_client_rate(path, amounts.bulk),
                "p3_bulk_by_bgctl": bulk_by_bgctl_rate(path, amounts.bulk),
            }
        for name, rate in found.items():
            rates.setdefault(name, []).append(rate)
        for name, measure in {} if options.no_peers else submit_peers.PEERS.items():
            given = amounts if name == "beanstalkd" else library
            for way, peer_rate in (peers.ask(name, partial(measure, given)) or {}).items():
                if peer_rate is not None:
                    theirs[way].setdefault(name, []).append(peer_rate)
    report(
        "submit",
        **{f"{name}_a_second": spread(values) for name, values in rates.items()},
        p1_share_of_raw=round(
            statistics.median(rates["p1_one_client"]) / statistics.median(rates["raw_sqlite_commits"]), 2
        ),
        p1_latency_ms=percentiles(latencies),
        **{
            f"{short}_peers_a_second": {name: spread(values) for name, values in theirs[way].items()}
            for way, short in WAYS.items()
        },
        missing=peers.missing,
    )


if __name__ == "__main__":
    main()
