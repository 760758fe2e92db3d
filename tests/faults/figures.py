"""How often a fault is tried, a few times in tests and in full numbers by `make faults`, and the results."""

from __future__ import annotations

import json
import os
from pathlib import Path

SHARE = float(os.environ.get("BGD_FAULTS", "0"))  # of the full numbers; 1 for all
REPORT = os.environ.get("BGD_FAULTS_REPORT")  # a file that gets a line of JSON for each series


def times(full: int, short: int) -> int:
    """Return how often to try: SHARE of `full`, but at least `short`."""
    return max(short, round(full * SHARE))


def seconds(full: float, short: float) -> float:
    return full if SHARE else short


def record(what: str, **found: int | str) -> None:
    """Record the result of a series for docs/faults.md; call this after everything was checked."""
    file = os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]
    line = json.dumps({"file": file, "what": what, "found": found})
    print(line)
    if REPORT is not None:
        with Path(REPORT).open("a") as report:
            report.write(f"{line}\n")
