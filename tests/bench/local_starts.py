"""How soon does a local job start beside jobs on Slurm, and while Slurm's controller is dead?

It needs root and Debian's Slurm, like tests/bench/slurm.py. The settings take turns, because the speed of a
machine drifts. Times are from the submit to the first instruction. Prints a line of JSON.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bgd import Client
from tests.bench.bench_latency import submit_to_start
from tests.bench.harness import percentiles, report
from tests.bench.options import arguments
from tests.slurm.two_nodes import TwoNodes, running_cluster, serving_as_user, what_is_missing
from tests.support import Daemon, wait_until

WAITING = 20  # jobs in Slurm, or on their way there
SAMPLES = 170  # of a setting in a round
PAUSE = 0.1  # seconds between two: a round lasts twice as long as srun takes to give up
SETTINGS = ("no job on Slurm", "jobs wait in Slurm", "jobs wait, and slurmctld is killed")


def main() -> int:
    """Measure; return 1 if there can be no Slurm here."""
    options = arguments(__doc__, rounds=3)
    missing = what_is_missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 1
    times: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    samples = 20 if options.quick else SAMPLES
    with (
        running_cluster() as cluster,
        serving_as_user(cluster, slots=WAITING + 4) as daemon,
        daemon.client(60) as client,
    ):
        local_starts(daemon, samples)  # the first ones are slow
        for _ in range(options.rounds):
            for setting in SETTINGS:
                with prepared(setting, cluster, client):
                    times[setting] += local_starts(daemon, samples)
    report(
        "local starts",
        load=os.getloadavg()[0],
        samples=samples * options.rounds,
        submit_to_first_instruction_ms={setting: percentiles(found) for setting, found in times.items()},
    )
    return 0


def local_starts(daemon: Daemon, samples: int) -> list[float]:
    return submit_to_start(str(daemon.socket), daemon.state_dir / "logs", samples, pause=PAUSE)


@contextmanager
def prepared(setting: str, cluster: TwoNodes, client: Client) -> Iterator[None]:
    """Bring about a setting for the length of the block; no job of it ever starts."""
    none, up, down = SETTINGS
    if setting == down:
        cluster.kill_controller()
    count = 0 if setting == none else WAITING
    jobs = [client.submit(["true"], cwd="/", executor="later", nodes=1) for _ in range(count)]
    if setting == up:
        wait_until(lambda: len(cluster.jobs()) == WAITING)
    yield
    if setting == down:
        cluster.start_controller()
    client.cancel(jobs)
    for job in jobs:
        job.wait(60)


if __name__ == "__main__":
    sys.exit(main())
