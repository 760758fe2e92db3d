"""What does a limit by key cost? Jobs that do nothing, without a limit and with several kinds of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import replace

from bgd.core.spec import Isolation, JobSpec, Limit
from tests.bench.class_jobs import processor
from tests.bench.harness import ENVIRONMENT, Daemon, daemon, report, spread, submitted_many
from tests.bench.options import arguments
from tests.bench.peer_programs import configuration

SLOTS = 8
KEYS = 100
COMMANDS, FUNCTIONS = 2_000, 4_000
QUICK = 0.1

# the limit of the job with this number
LIMITS: dict[str, Callable[[int], Limit | None]] = {
    "no limit": lambda _: None,
    "a key for each job": lambda number: (f"job:{number}", 1),
    f"{KEYS} keys, one job of each at once": lambda number: (f"key:{number % KEYS}", 1),
    "one key, a job for each slot at once": lambda _: ("key", SLOTS),
}


def measure(
    running: Daemon, spec: JobSpec, count: int, limit: Callable[[int], Limit | None]
) -> tuple[float, float]:
    """Return jobs per second, from the first byte of their submit to the end of the last one, and the
    microseconds of a processor that the daemon uses for each.
    """
    client = running.connect()
    specs = [replace(spec, limit=limit(number)) for number in range(count)]
    used, began = processor.Used(running.process.pid, running.launcher_pid), time.perf_counter()
    client.wait(submitted_many(client, specs, ENVIRONMENT))
    return count / (time.perf_counter() - began), used.microseconds(count)["daemon"]


def main() -> None:
    options = arguments(__doc__, rounds=3)
    share = QUICK if options.quick else 1.0
    command, function = JobSpec(argv=("/bin/true",), cwd="/", umask=0o022), JobSpec(target="work:nothing")
    figures: dict[str, dict[str, list[list[float]]]] = {
        figure: {name: [[], []] for name in LIMITS}
        for figure in ("jobs_a_second", "daemon_microseconds_a_job")
    }
    with daemon(SLOTS, configuration(Isolation.REUSE)) as running:
        measure(running, function, SLOTS, LIMITS["no limit"])  # starts the warm workers
        for _ in range(options.rounds):
            for name, limit in LIMITS.items():
                for kind, (spec, count) in enumerate(((command, COMMANDS), (function, FUNCTIONS))):
                    found = measure(running, spec, round(count * share), limit)
                    for values, value in zip(figures.values(), found, strict=True):
                        values[name][kind].append(value)
    report(
        "limits",
        slots=SLOTS,
        **{
            figure: {name: [spread(each) for each in both] for name, both in values.items()}
            for figure, values in figures.items()
        },
    )


if __name__ == "__main__":
    main()
