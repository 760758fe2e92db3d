"""How fast are jobs taken durably? P1: one client, one by one. P2: 64 clients at once. Beside raw SQLite.

And beside RQ, where the package rq and a redis-server are installed.
"""

from __future__ import annotations

import multiprocessing
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.harness import BareClient, daemon, percentiles, raw_commits_a_second, report, spread, submit

ONE_BY_ONE = 4_000
CLIENTS = 64
PROCESSES = 2  # for all clients, so that their CPU time does not dominate
EACH = 500


def one_by_one(path: str) -> list[float]:
    client = BareClient(path)
    times = []
    for number in range(ONE_BY_ONE):
        began = time.perf_counter()
        client.ask(submit(number, ("/bin/echo", str(number))))
        times.append(time.perf_counter() - began)
    return times


def many_at_once(path: str, clients: int, ready: multiprocessing.synchronize.Barrier) -> None:
    """Run all clients at once, each with one submit in flight."""
    selector = selectors.DefaultSelector()
    for index in range(clients):
        client = BareClient(path)
        selector.register(client.socket, selectors.EVENT_READ, [client, index, EACH])
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


def at_once_rate(path: str) -> float:
    ready = multiprocessing.Barrier(PROCESSES + 1)
    share = CLIENTS // PROCESSES
    workers = [
        multiprocessing.Process(target=many_at_once, args=(path, share, ready)) for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    ready.wait()
    rate = CLIENTS * EACH / (time.perf_counter() - began)
    for worker in workers:
        worker.join()
    return rate


def rq_rate() -> float | None:
    """Return RQ's enqueues per second on a Redis that always syncs; None if one of them is not installed."""
    try:
        import redis
        import rq
    except ImportError:
        return None
    if shutil.which("redis-server") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        always = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", path, "--dir", folder, *always],
            stdout=subprocess.DEVNULL,
        )
        try:
            connection = redis.Redis(unix_socket_path=path)
            while not Path(path).exists():
                server.poll()
            queue = rq.Queue(connection=connection)
            count = 2_000
            began = time.perf_counter()
            for number in range(count):
                queue.enqueue("operator.add", number, 1)
            return count / (time.perf_counter() - began)
        finally:
            server.kill()
            server.wait()


def main(rounds: int) -> None:
    latencies: list[float] = []
    single, several, raw = [], [], []
    for _ in range(rounds):
        # one slot, occupied by a job: only submitting is measured
        with daemon(slots=1) as running:
            running.connect().ask(submit(1, ("/bin/sleep", "600")))
            raw.append(raw_commits_a_second(running.folder))
            times = one_by_one(running.socket)
            latencies += times
            single.append(len(times) / sum(times))
            several.append(at_once_rate(running.socket))
    peers = [rate for rate in (rq_rate() for _ in range(rounds)) if rate is not None]
    report(
        "submit",
        raw_sqlite_commits_a_second=spread(raw),
        p1_one_client_a_second=spread(single),
        p1_share_of_raw=round(sorted(single)[len(single) // 2] / sorted(raw)[len(raw) // 2], 2),
        p1_latency_ms=percentiles(latencies),
        p2_64_clients_a_second=spread(several),
        rq_redis_fsync_always_a_second=spread(peers) if peers else "not installed",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
