"""What is run, the same for all: next to nothing, in a process that holds 60 MB of Python objects.

Standard library only: it is imported by bgd's workers and by the peers'.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path


class Thing:
    """As modules hold them: an object with attributes, which the garbage collector looks through."""

    def __init__(self, number: int) -> None:
        self.name = f"a thing of no importance, number {number}"
        self.number = number


# as large modules do; a fork's child shares it, as long as nobody touches it
HELD = [Thing(number) for number in range(270_000)]


def nothing() -> None:
    """Do nothing, which leaves what the system around it does."""


def same(number: int) -> int:
    return number


def late(path: str, at: float) -> None:
    """Write how many seconds after `at` it runs."""
    _append(path, struct.pack("d", time.time() - at))


def rest(path: str, seconds: float) -> None:
    """Take some time without a processor, then say so."""
    threading.Event().wait(seconds)
    _append(path, b".")


def tell(path: str) -> None:
    """Print the time, and count that."""
    print(time.time(), flush=True)
    _append(path, b".")


def stay(folder: str) -> None:
    """Say who runs, by a file that is named by the pid, then stay to be looked at."""
    Path(folder, str(os.getpid())).touch()
    threading.Event().wait(60)


def _append(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, data)
    os.close(fd)
