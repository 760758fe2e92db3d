"""Write tests/slow.txt: the tests that `pytest tests/ROOM` leaves out, so that it takes less than a minute.

.venv/bin/python -m tests.slow    run all tests, for some ten minutes, on a machine that does nothing else
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.support import ROOT

LIST = Path(__file__).with_name("slow.txt")
LONGEST = 40.0  # seconds of all fast tests of a room
_DURATION = re.compile(r"^(?P<seconds>[\d.]+)s \w+ +(?P<test>tests/[^[\n]+)", re.MULTILINE)


def room_of(test: str) -> str:
    """Return the folder whose tests are run together: tests/launcher, or tests for those of no room."""
    return "/".join(test.partition("::")[0].split("/")[:-1][:2])


def slow_tests(seconds: dict[str, float]) -> list[str]:
    """Return the slowest tests of each room, so that the others take no longer than LONGEST together."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for test in seconds:
        rooms[room_of(test)].append(test)
    slow = []
    for tests in rooms.values():
        total = sum(seconds[test] for test in tests)
        for test in sorted(tests, key=lambda each: -seconds[each]):
            if total <= LONGEST:
                break
            slow.append(test)
            total -= seconds[test]
    return sorted(slow)


def main() -> int:
    command = [sys.executable, "-m", "pytest", "-q", "--slow", "--durations=0", "--durations-min=0.005"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    seconds: dict[str, float] = defaultdict(float)
    for found in _DURATION.finditer(done.stdout):
        seconds[found["test"].rstrip()] += float(found["seconds"])
    LIST.write_text("".join(f"{test}\n" for test in slow_tests(seconds)))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
