"""How long do whole commands take? P9: those of bgctl beside `python -c pass`, task-spooler and nq."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.bench import installing
from tests.bench.harness import daemon, report, spread
from tests.bench.options import Peers, arguments

TIMES = 20
PEERS = {"task_spooler": ["tsp", "-n", "true"], "nq": ["nq", "-q", "true"]}


def milliseconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    options = arguments(__doc__, rounds=TIMES, name="times")
    times = min(options.rounds, 3) if options.quick else options.rounds
    bgctl = str(Path(sys.executable).with_name("bgctl"))
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "submit": [bgctl, "submit", "true"],
        "run": [bgctl, "run", "true"],
        "list": [bgctl, "list"],
        "show": [bgctl, "show", "1"],
        "help": [bgctl, "--help"],
    }
    peers = Peers()
    with daemon(slots=2) as running, tempfile.TemporaryDirectory() as folder:
        environments = {name: {**os.environ, "BGD_SOCKET": running.socket} for name in commands}
        for name, (program, *rest) in {} if options.no_peers else PEERS.items():
            if (found := peers.ask(name, partial(installing.program, program))) is not None:
                path, environment = found
                commands[name] = [path, *rest]
                environments[name] = environment | {"TS_SOCKET": f"{folder}/socket", "NQDIR": folder}
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for name, command in commands.items():
            milliseconds(command, environments[name])  # so that bytecode is written and files are cached
        for _ in range(times):  # in turn, so that a busy second of the machine hurts all of them
            for name, command in commands.items():
                taken[name].append(milliseconds(command, environments[name]))
        if "task_spooler" in commands:
            subprocess.run([commands["task_spooler"][0], "-K"], env=environments["task_spooler"], check=True)
    median = {name: sorted(values)[len(values) // 2] for name, values in taken.items()}
    report(
        "start",
        p9_submit_times_pass=round(median["submit"] / median["python"], 2),
        p9_run_times_pass=round(median["run"] / median["python"], 2),
        milliseconds={name: spread(values) for name, values in taken.items()},
        missing=peers.missing,
    )


if __name__ == "__main__":
    main()
