"""HyperQueue at commands: `commands_of_hyperqueue.py COUNT SLOTS [PROGRAM ...]` prints jobs a second.

Without a program they do nothing.

With 0 slots it only takes jobs, and that is measured. Run it with the peers' Python. Server and worker are in
this process and keep nothing on disk.
"""

from __future__ import annotations

import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def job(count: int, argv: list[str]) -> Job:
    made = Job()
    for _ in range(count):
        made.program(argv, stdout=None, stderr=None)
    return made


def main(count: int, slots: int, argv: list[str]) -> None:
    with LocalCluster() as cluster:
        client = cluster.client()
        if slots:
            cluster.start_worker(WorkerConfig(cores=slots))
            client.wait_for_jobs([client.submit(job(slots, ["/bin/true"]))])  # the worker is there
        began = time.perf_counter()
        submitted = client.submit(job(count, argv))
        if slots:
            client.wait_for_jobs([submitted])
        print(count / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or ["/bin/true"])
