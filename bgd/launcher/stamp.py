"""The stamp: a number that all processes of an attempt inherit, whatever they do to be forgotten.

The soft limit of real-time processor time is what carries it. It means something to processes with a
real-time priority only, and to those nothing for a hundred thousand years, so nobody has reason to set
another; and unlike a variable, a descriptor or a session it outlives fork, exec, setsid and an emptied
environment.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bgd.launcher.process import contents


def new_stamp() -> int | None:
    """Return a number that no other attempt of any launcher has; None where this machine takes none."""
    return _LEAST | int.from_bytes(os.urandom(8), "big") >> 2 if _IS_POSSIBLE else None


@contextmanager
def wearing(stamp: int | None) -> Iterator[None]:
    """Let every process that is started in the first step of what follows have this stamp."""
    if stamp is not None:
        resource.setrlimit(resource.RLIMIT_RTTIME, (stamp, _OWN[1]))
    try:
        yield
    finally:
        if stamp is not None:
            resource.setrlimit(resource.RLIMIT_RTTIME, _OWN)


def stamp_of(pid: int) -> int | None:
    """Return the stamp of a process, None if it has none or may not be looked at."""
    _, _, rest = contents(f"/proc/{pid}/limits", _MOST).partition(b"Max realtime timeout")
    soft = rest.split(maxsplit=1)[:1]
    number = int(soft[0]) if soft and soft[0].isdigit() else 0
    return number if number >= _LEAST else None


_LEAST = 1 << 62
_MOST = 4096  # bytes of /proc/PID/limits
_OWN = resource.getrlimit(resource.RLIMIT_RTTIME)


def _is_possible() -> bool:
    # errors: a lower limit was set for this process, or the kernel knows none
    with suppress(ValueError, OSError), wearing(_LEAST):
        return stamp_of(os.getpid()) == _LEAST
    return False


_IS_POSSIBLE = _is_possible()
