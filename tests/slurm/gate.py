"""A gate that jobs wait for, and killing."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


class Gate:
    """A file that jobs wait for, and a file in which each start of one leaves a line."""

    def __init__(self, folder) -> None:
        self._folder = folder

    def script(self, then: str) -> str:
        """Return a script that notes its start and waits until the gate is open."""
        gate = f"while [ ! -e {self._folder}/open ]; do sleep 0.02; done"
        return f"echo start >>{self._folder}/starts; echo ready; {gate}; {then}"

    def open(self) -> None:
        (self._folder / "open").touch()

    def pids(self) -> list[int]:
        """Return the processes that run the script."""
        argv = ["pgrep", "-f", f"^sh -c .*{self._folder}/starts"]
        return [int(pid) for pid in subprocess.run(argv, capture_output=True, check=True).stdout.split()]

    @property
    def starts(self) -> int:
        path = self._folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0


def kill(*pids: int) -> None:
    """Kill processes as if at one instant."""
    for signum in (signal.SIGSTOP, signal.SIGKILL):  # none of them reacts to the end of another
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended since it was found
                os.kill(pid, signum)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
