"""How fast are 20,000 jobs that print the time queued, one by one, and then run by 10 workers? P20.

bgd's queue is paused until all are in it; the workers of the others start then. bgd is timed from there to
the end of the last job, the others from when a tenth is done: without the start of their workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bgd import Client
from bgd.core.spec import Isolation, JobSpec
from tests.bench.harness import daemon, report, spread, submitted_many
from tests.bench.options import Peers, arguments
from tests.bench.peer_programs import answer, configuration

JOBS = 20_000
QUICK = 400
WORKERS = 10
PEERS = ("rq_forking", "rq_simple", "huey_processes", "celery_pool", "dramatiq_processes", "procrastinate")
Rates = tuple[float, float]  # jobs a second: queued, run


def bgd_rates(submit: Callable[[Client, Path], int], jobs: int, isolation: Isolation | None = None) -> Rates:
    with (
        daemon(WORKERS, configuration(isolation) if isolation else "") as running,
        Client(running.socket) as client,
    ):
        if isolation:
            warm = [JobSpec(target="work:nothing")] * WORKERS
            running.connect().wait(submitted_many(running.connect(), warm))  # starts the warm workers
        client.pause()
        began = time.perf_counter()
        ids = [submit(client, running.folder / "told") for _ in range(jobs)]
        queued = jobs / (time.perf_counter() - began)
        began = time.perf_counter()
        client.resume()
        running.connect().wait(ids)
        return queued, jobs / (time.perf_counter() - began)


def command(client: Client, _: Path) -> int:
    return client.submit(["/bin/date", "+%s.%N"]).id


def function(client: Client, path: Path) -> int:
    return client.call("work:tell", [str(path)]).id


def peer_rates(name: str, jobs: int) -> Rates:
    queued, run = answer(name, "-c", "import lateness; lateness.main()", "printing", name, WORKERS, jobs)
    return queued, run


def main() -> None:
    options = arguments(__doc__, rounds=1)
    jobs = QUICK if options.quick else JOBS
    rates: dict[str, tuple[list[float], list[float]]] = {}
    peers = Peers()
    for _ in range(options.rounds):
        found: dict[str, Rates | None] = {
            "bgd": bgd_rates(command, jobs),
            "bgd_fork": bgd_rates(function, jobs, Isolation.FORK),
            "bgd_reuse": bgd_rates(function, jobs, Isolation.REUSE),
        }
        for name in () if options.no_peers else PEERS:
            found[name] = peers.ask(name, partial(peer_rates, name, jobs))
        for name, pair in found.items():
            for values, value in zip(rates.setdefault(name, ([], [])), pair or (), strict=False):
                values.append(value)
    report(
        "printing",
        jobs=jobs,
        workers=WORKERS,
        jobs_a_second={name: [spread(each) for each in both] for name, both in rates.items() if both[0]},
        missing=peers.missing,
    )


if __name__ == "__main__":
    main()
