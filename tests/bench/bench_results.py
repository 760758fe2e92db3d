"""How soon has a caller the result of a function? P19: one client alone, and 8 clients at once.

From the call to its result, one after the other by each client, which is a process of its own. All run a
function that returns its argument, in processes that hold 60 MB of Python objects, one for each client.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from bgd import Client
from bgd.core.spec import Isolation
from tests.bench.class_jobs import calls
from tests.bench.harness import daemon, latencies, report
from tests.bench.options import Peers, arguments
from tests.bench.peer_programs import answer, configuration

CLIENTS = 8
PATIENCE = 20.0  # seconds until a result is taken for lost
DEADLINE = 180.0  # seconds
PEERS = (
    *("rq_forking", "rq_simple", "huey_processes", "huey_looking_often"),
    *("celery_pool", "dramatiq_processes"),
)
WAYS = ("alone", "at_once")


class Amounts(NamedTuple):
    alone: int
    each: int  # of the clients


FULL = Amounts(alone=200, each=50)
QUICK = Amounts(alone=20, each=5)

Times = tuple[list[float], list[float]]  # seconds of each call: of the one client, of all clients


def bgd_times(isolation: Isolation, amounts: Amounts) -> Times:
    with daemon(CLIENTS, configuration(isolation)) as running:

        def connect() -> calls.Call:
            client = Client(running.socket)
            return lambda number: client.call("work:same", [number]).result(PATIENCE)

        calls.by_clients(connect, CLIENTS, 3)  # until then the warm workers start
        return calls.by_clients(connect, 1, amounts.alone), calls.by_clients(connect, CLIENTS, amounts.each)


def peer_times(name: str, amounts: Amounts) -> Times:
    numbers = (amounts.alone, CLIENTS, amounts.each)
    alone, at_once = answer(name, "-c", "import results; results.main()", name, *numbers, deadline=DEADLINE)
    return alone, at_once


def main() -> None:
    options = arguments(__doc__, rounds=3)
    amounts = QUICK if options.quick else FULL
    samples: dict[str, dict[str, list[list[float]]]] = {way: {} for way in WAYS}
    peers = Peers()
    for _ in range(options.rounds):
        found: dict[str, Times | None] = {
            f"bgd_{isolation}": bgd_times(isolation, amounts)
            for isolation in (Isolation.FORK, Isolation.REUSE)
        }
        for name in () if options.no_peers else PEERS:
            found[name] = peers.ask(name, partial(peer_times, name, amounts))
        for name, times in found.items():
            for way, seconds in zip(WAYS, times or (), strict=False):
                samples[way].setdefault(name, []).append(seconds)
    report(
        "results",
        clients=CLIENTS,
        **{f"{way}_ms": latencies(samples[way]) for way in WAYS},
        missing=peers.missing,
    )


if __name__ == "__main__":
    main()
