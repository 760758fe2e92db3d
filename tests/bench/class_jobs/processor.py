"""How much processor time goes where: daemon, launcher, warm workers, and the processes of jobs."""

from __future__ import annotations

import os
from pathlib import Path

TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")  # microseconds


class Used:
    """Counts from when it is made."""

    def __init__(self, daemon: int, launcher: int) -> None:
        self._daemon = daemon
        self._launcher = launcher
        self._before = self._used()

    def microseconds(self, jobs: int) -> dict[str, float]:
        """Return how many each of so many jobs took, by who took them."""
        return {name: (used - self._before[name]) / jobs for name, used in self._used().items()}

    def _used(self) -> dict[str, float]:
        children = Path(f"/proc/{self._launcher}/task/{self._launcher}/children").read_text()
        workers = [int(pid) for pid in children.split()]
        return {
            "daemon": _own(self._daemon),
            "launcher": _own(self._launcher),
            "workers": sum(map(_own, workers)),
            # of the reaped; a worker that has given way to another one counts as one of them
            "jobs": sum(map(_of_children, [self._launcher, *workers])),
        }


def _own(pid: int) -> float:
    return sum(_ticks(pid)[:2]) * TICK


def _of_children(pid: int) -> float:
    return sum(_ticks(pid)[2:]) * TICK


def _ticks(pid: int) -> list[int]:
    """Return user and system ticks of a process, and of the children that it has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]
