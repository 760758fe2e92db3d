"""How long do whole commands take? P9: `bgctl submit` and `bgctl run true`, beside an import of msgspec."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.harness import daemon, report, spread

TIMES = 20


def milliseconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


def main(times: int) -> None:
    bgctl = str(Path(sys.executable).with_name("bgctl"))
    commands = {
        "python": [sys.executable, "-c", "import msgspec"],
        "submit": [bgctl, "submit", "true"],
        "run": [bgctl, "run", "true"],
        "list": [bgctl, "list"],
        "help": [bgctl, "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with daemon(slots=2) as running:
        environment = {**os.environ, "BGD_SOCKET": running.socket}
        for command in commands.values():
            milliseconds(command, environment)  # to write bytecode and cache files
        for _ in range(times):  # in turn, so that a busy second of the machine affects all of them
            for name, command in commands.items():
                taken[name].append(milliseconds(command, environment))
    median = {name: sorted(values)[len(values) // 2] for name, values in taken.items()}
    report(
        "start",
        p9_submit_times_python=round(median["submit"] / median["python"], 2),
        p9_run_times_python=round(median["run"] / median["python"], 2),
        milliseconds={name: spread(values) for name, values in taken.items()},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TIMES)
