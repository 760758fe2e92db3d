"""Runs a program with the peers' Python, in a folder that holds their broker."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bgd.core.spec import Isolation
from tests.bench import installing
from tests.bench.class_jobs import trees

PROGRAMS = Path(__file__).with_name("class_jobs")
ON_POSTGRESQL = {"oban", "procrastinate"}


def configuration(isolation: Isolation) -> str:
    """Return the configuration of a bgd that runs the functions of `PROGRAMS`."""
    return f"""
        [security]
        allowed_classes = ["work.*"]
        [python]
        path = ["{PROGRAMS}"]
        preload = ["work"]
        isolation = "{isolation}"
    """


def answer(system: str, *command: object, deadline: float | None = None) -> Any:
    """Return the line of JSON that a program prints last.

    After `deadline` seconds it is killed, with all that it has started.
    """
    broker = installing.postgresql if system in ON_POSTGRESQL else installing.redis
    python = installing.oban_python() if system == "oban" else installing.peers_python()
    with tempfile.TemporaryDirectory(prefix="bgd-bench-") as folder, broker(Path(folder)):
        program = subprocess.Popen(
            [python, *map(str, command)],
            cwd=folder,
            env={"PYTHONPATH": str(PROGRAMS), "HOME": folder, "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            output, errors = program.communicate(timeout=deadline)
        finally:
            trees.end_tree(program)  # with its workers, if it is stuck or this is interrupted
    if program.returncode:
        raise RuntimeError(f"{system} failed: {errors[-2000:]}")
    return json.loads(output.splitlines()[-1])
