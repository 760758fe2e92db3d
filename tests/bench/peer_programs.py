"""Runs a program with the peers' Python, in a folder that holds their broker."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import installing

PROGRAMS = Path(__file__).with_name("class_jobs")
ON_POSTGRESQL = {"oban", "procrastinate"}


def answer(system: str, *command: object, deadline: float | None = None) -> Any:
    """Return the line of JSON that a program prints last; it is killed after `deadline` seconds."""
    broker = installing.postgresql if system in ON_POSTGRESQL else installing.redis
    python = installing.oban_python() if system == "oban" else installing.peers_python()
    with tempfile.TemporaryDirectory(prefix="bgd-bench-") as folder, broker(Path(folder)):
        run = subprocess.run(
            [python, *map(str, command)],
            cwd=folder,
            env={"PYTHONPATH": str(PROGRAMS), "HOME": folder, "PATH": os.environ["PATH"]},
            capture_output=True,
            check=False,
            timeout=deadline,
        )
    if run.returncode:
        raise RuntimeError(f"{system} failed: {run.stderr.decode(errors='replace')[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])
