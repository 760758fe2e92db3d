"""How many steps of class jobs are recorded durably in a second: by one job, and by many at once?

Beside a bare commit of SQLite, one submit after the other by `bgd.Client`, DBOS on SQLite, and Restate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bgd import Client, Job
from bgd.core.spec import Isolation
from tests.bench import foreign_peers, installing
from tests.bench.bench_submit import by_client_rate
from tests.bench.class_jobs import memory
from tests.bench.harness import daemon, raw_commits_a_second, report, spread, submit
from tests.bench.options import Peers, arguments

PROGRAMS = Path(memory.__file__).parent
CONFIGURATION = f"""
    [security]
    allowed_classes = ["steps.*"]
    [python]
    path = ["{PROGRAMS}"]
    isolation = "{Isolation.REUSE}"
"""
AT_ONCE = 32  # jobs
DEADLINE = 600.0  # seconds


def bgd_rates(each: int, submits: int) -> dict[str, float]:
    """Return steps per second of one job and of many, and what the same daemon and disk do besides."""
    with daemon(slots=1) as running:  # no slot is free, so that nothing but the submits is measured
        running.connect().ask(submit(1, ("/bin/sleep", "600")))
        raw, by_client = raw_commits_a_second(running.folder), by_client_rate(running.socket, submits)
    with daemon(AT_ONCE, CONFIGURATION) as running, Client(running.socket) as client:
        for job in [client.call("steps:record", [1]) for _ in range(AT_ONCE)]:  # starts the warm workers
            job.result(DEADLINE)
        alone = span(client.call("steps:record", [each]))
        jobs = [client.call("steps:record", [each]) for _ in range(AT_ONCE)]
        spans = [span(job) for job in jobs]
        began, ended = min(span[0] for span in spans), max(span[1] for span in spans)
        return {
            "raw_sqlite_commits": raw,
            "p1_by_client": by_client,
            "one_job": each / (alone[1] - alone[0]),
            "all_jobs": each * AT_ONCE / (ended - began),
        }


def span(job: Job) -> tuple[float, float]:
    """Return when the steps of a job began and ended."""
    found: Any = job.result(DEADLINE)
    return found[0], found[1]


def dbos_rates(each: int) -> dict[str, float]:
    command = [str(installing.peers_python()), str(PROGRAMS / "dbos_steps.py"), str(each), str(AT_ONCE)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=DEADLINE)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"dbos_one_workflow": found["alone"], "dbos_all_workflows": found["together"]}


PEERS: dict[str, Callable[[int], dict[str, float]]] = {
    "dbos": dbos_rates,
    "restate": lambda each: foreign_peers.restate_rates(each, AT_ONCE),
}


def main() -> None:
    options = arguments(__doc__, rounds=3)
    each = 100 if options.quick else 2_000
    rates: dict[str, list[float]] = {}
    peers = Peers()
    for _ in range(options.rounds):
        found = bgd_rates(each, each)
        for name, measure in {} if options.no_peers else PEERS.items():
            found |= peers.ask(name, partial(measure, each // 10)) or {}
        for name, rate in found.items():
            rates.setdefault(name, []).append(rate)
    report(
        "steps",
        at_once=AT_ONCE,
        **{f"{name}_a_second": spread(values) for name, values in rates.items()},
        one_job_times_p1=round(
            statistics.median(rates["one_job"]) / statistics.median(rates["p1_by_client"]), 2
        ),
        missing=peers.missing,
    )


if __name__ == "__main__":
    main()
