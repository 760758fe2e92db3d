"""Run many random histories on all processors, or run one again that failed, step by step.

make simulate                   200,000 histories, others each time
make simulate HISTORIES=500     this many
make simulate SEED=4711         this one, with all its steps
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.simulation.run import SimulationRun

HISTORIES = 200_000
PORTION = 200  # histories that a process runs at a time
REPORT_EVERY = 10_000  # histories: all of them take most of an hour
MAX_FAILURES = 10  # stop after these

# What histories have in addition, in turn
KINDS: list[dict[str, Any]] = [
    {"has_calls": True},
    {},
    {"has_references": True, "has_schedules": False},
    {"has_batches": True, "has_schedules": False, "has_limits": False},
    {"has_inboxes": True, "has_schedules": False, "has_limits": False},
    {"has_retries": True},
    {"has_permits": True, "has_schedules": False},
    {"has_permits": True, "has_retries": True},
    {"has_permits": True, "has_batches": True, "has_schedules": False, "has_limits": False},
]


def main() -> int:
    arguments = _parser().parse_args()
    logging.disable(logging.ERROR)  # hundreds of messages about lost launchers
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets must not vary
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    if arguments.seed is not None:
        return _replay(arguments.seed)
    return _simulate(arguments.histories, arguments.processes)


def _replay(seed: int) -> int:
    try:
        found = SimulationRun(seed, print, **KINDS[seed % len(KINDS)]).run()
    except AssertionError as error:
        print(f"seed {seed}: {error or 'see the traceback'}")
        raise
    print(f"seed {seed}: nothing wrong; {dict(found)}")
    return 0


def _simulate(histories: int, processes: int) -> int:
    first = random.SystemRandom().randrange(2**31)
    began_at = time.monotonic()
    run_so_far, failed, found = 0, 0, Counter[str]()
    with ProcessPoolExecutor(processes) as pool:
        portions = [
            range(start, min(start + PORTION, first + histories))
            for start in range(first, first + histories, PORTION)
        ]
        for count, failures, there_was in pool.map(_run, portions):
            run_so_far += count
            failed += len(failures)
            found += there_was
            for seed, error in failures.items():
                print(f"seed {seed}: {error}\n    make simulate SEED={seed}", flush=True)
            if run_so_far % REPORT_EVERY < count:
                print(f"{run_so_far} of {histories} histories, {failed} failed", flush=True)
            if failed >= MAX_FAILURES:
                pool.shutdown(cancel_futures=True)
                break
    rate = run_so_far / (time.monotonic() - began_at)
    print(f"{run_so_far} histories from seed {first}, {failed} failed; {rate:.0f} histories a second")
    print(", ".join(f"{what} {count}" for what, count in sorted(found.items())))
    return 1 if failed else 0


def _run(seeds: range) -> tuple[int, dict[int, str], Counter[str]]:
    failures: dict[int, str] = {}
    found: Counter[str] = Counter()
    for seed in seeds:
        try:
            found += SimulationRun(seed, **KINDS[seed % len(KINDS)]).run()
        except Exception as error:  # noqa: BLE001 - report the seed of any error
            failures[seed] = f"{type(error).__name__}: {error}"
    return len(seeds), failures, found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, help="run this history and print its steps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
