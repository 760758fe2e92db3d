"""How soon does a job of a quiet queue start beside a noisy one? P22: beside 5,000 queued jobs of 10 ms each.

From the submit to the time that the job prints, or that its function writes; one after the other. bgd runs
commands, the peers functions in reused processes.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from bgd.core.spec import JobSpec
from bgd.wire.requests import Cancel
from tests.bench.bench_latency import submit_to_start
from tests.bench.harness import ENVIRONMENT, daemon, latencies, report, submitted_many
from tests.bench.options import Peers, arguments
from tests.bench.peer_programs import answer

SLOTS = 8
REST = 0.01  # seconds that a noisy job takes
PAUSE = 0.02  # seconds between two jobs of the quiet queue
PEERS = ("rq_simple", "huey_processes", "celery_pool", "dramatiq_processes", "procrastinate")
WEIGHTS = """
    [queues.noisy]
    weight = 1
    [queues.quiet]
    weight = 1
"""


class Amounts(NamedTuple):
    noisy: int
    samples: int


FULL = Amounts(noisy=5_000, samples=100)
QUICK = Amounts(noisy=1_000, samples=10)


def bgd_times(
    amounts: Amounts, *, configuration: str = "", priority: int = 0, noisy: bool = True
) -> list[float]:
    """Return the seconds of each job of the quiet queue."""
    with daemon(SLOTS, configuration) as running:
        client = running.connect()
        noise = [JobSpec(argv=("/bin/sleep", str(REST)), cwd="/", umask=0o022, queue="noisy")]
        jobs = submitted_many(client, noise * amounts.noisy, ENVIRONMENT) if noisy else []
        client.wait(jobs[:SLOTS])
        waits_for_all = noisy and not configuration and not priority
        times = submit_to_start(
            running.socket,
            running.folder / "logs",
            1 if waits_for_all else amounts.samples,
            queue="quiet",
            priority=priority,
            pause=PAUSE,
        )
        if noisy and not waits_for_all:
            if client.attempts(jobs[-1]):
                raise RuntimeError("the noisy jobs did not last until the end")
            client.ask(Cancel(1, jobs))
        return times


def peer_times(name: str, amounts: Amounts) -> list[float]:
    numbers = (SLOTS, amounts.noisy, REST, amounts.samples, PAUSE)
    times: list[float] = answer(name, "-c", "import lateness; lateness.main()", "quiet", name, *numbers)
    return times


def main() -> None:
    options = arguments(__doc__, rounds=1)
    amounts = QUICK if options.quick else FULL
    samples: dict[str, list[list[float]]] = {}
    peers = Peers()
    for _ in range(options.rounds):
        found: dict[str, list[float] | None] = {
            "bgd_weights": bgd_times(amounts, configuration=WEIGHTS),
            "bgd_priority": bgd_times(amounts, priority=1),
            "bgd_alone": bgd_times(amounts, noisy=False),
            "bgd_neither": bgd_times(amounts),
        }
        for name in () if options.no_peers else PEERS:
            found[name] = peers.ask(name, partial(peer_times, name, amounts))
        for name, times in found.items():
            if times is not None:
                samples.setdefault(name, []).append(times)
    report("quiet", noisy=amounts.noisy, start_ms=latencies(samples), missing=peers.missing)


if __name__ == "__main__":
    main()
