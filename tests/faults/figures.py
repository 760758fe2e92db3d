"""How often a fault is tried: a few times in tests, at full figures by `make faults`; and what came of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

SHARE = float(os.environ.get("BGD_FAULTS", "0"))  # of the full figures; 1: all of them
REPORT = os.environ.get("BGD_FAULTS_REPORT")  # a file that takes a line of JSON for each series


def times(full: int, short: int) -> int:
    """Return how often to try: at least `short`."""
    return max(short, round(full * SHARE))


def seconds(full: float, short: float) -> float:
    return full if SHARE else short


def record(what: str, **found: int | str) -> None:
    """Keep what a series came to, for docs/faults.md; called after all of it was checked."""
    file = os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]
    line = json.dumps({"file": file, "what": what, "found": found})
    print(line)
    if REPORT is not None:
        with Path(REPORT).open("a") as report:
            report.write(f"{line}\n")
