"""How soon does a job start? P7: submit to first instruction; P8: one job's exit to the next start."""

from __future__ import annotations

import multiprocessing
import select
import subprocess
import time
from pathlib import Path

from msgspec.structs import replace

from bgd.core.spec import DEFAULT_QUEUE
from tests.bench.harness import BareClient, daemon, percentiles, report, submit, submitted
from tests.bench.options import arguments

SAMPLES = 300
LOAD_CLIENTS = 8

# The job's first instruction. A static program would be fairer, but every machine has date.
STAMP = ("/bin/date", "+%s.%N")


def submit_to_start(
    path: str, logs: Path, samples: int, queue: str = DEFAULT_QUEUE, priority: int = 0, pause: float = 0.0
) -> list[float]:
    """Submit, one at a time, jobs that print the time of their start; pause after each."""
    client = BareClient(path)
    times = []
    for number in range(samples):
        request = submit(number, STAMP)
        request = replace(request, spec=replace(request.spec, queue=queue, priority=priority))
        began = time.time()
        job = submitted(client, request)
        client.wait([job])
        times.append(float((logs / f"{job // 1000}/{job}.1.log").read_text()) - began)
        if pause:
            select.select([], [], [], pause)
    return times


def exit_to_start(path: str, samples: int) -> list[float]:
    """Queue jobs for one slot; compare the end of one with the start of the next, by the launcher's times."""
    client = BareClient(path)
    jobs = [submitted(client, submit(number, ("/bin/true",))) for number in range(samples)]
    client.wait(jobs)
    attempts = [client.attempt(job) for job in jobs]
    ends = [attempt.finished_at or 0.0 for attempt in attempts[:-1]]
    starts = [attempt.started_at or 0.0 for attempt in attempts[1:]]
    return [start - end for start, end in zip(starts, ends, strict=True)]


def programs_alone() -> list[float]:
    """Return the time that the program itself takes, from the fork to the time it prints."""
    times = []
    for _ in range(100):
        began = time.time()
        out = subprocess.run(STAMP, capture_output=True, check=True).stdout
        times.append(float(out) - began)
    return times


def keep_submitting(path: str, stop: multiprocessing.synchronize.Event) -> None:
    client = BareClient(path)
    number = 0
    while not stop.is_set():
        client.ask(submit(number, ("/bin/true",)))
        number += 1
        stop.wait(0.02)  # a steady load, not a flood: a long queue would be measured instead


def main() -> None:
    options = arguments(__doc__, rounds=1)
    samples = 20 if options.quick else SAMPLES * options.rounds
    with daemon(slots=4) as running:
        logs = running.folder / "logs"
        idle = submit_to_start(running.socket, logs, samples)
        stop = multiprocessing.Event()
        load = [
            multiprocessing.Process(target=keep_submitting, args=(running.socket, stop))
            for _ in range(LOAD_CLIENTS)
        ]
        for process in load:
            process.start()
        loaded = submit_to_start(running.socket, logs, samples)
        stop.set()
        for process in load:
            process.join()
    with daemon(slots=1) as running:
        between = exit_to_start(running.socket, samples)
    report(
        "latency",
        p7_submit_to_first_instruction_idle_ms=percentiles(idle),
        p7_with_8_clients_submitting_ms=percentiles(loaded),
        p8_exit_to_start_ms=percentiles(between),
        fork_to_first_instruction_alone_ms=percentiles(programs_alone()),
    )


if __name__ == "__main__":
    main()
