"""The stamp: a number that all processes of an attempt inherit, whatever they do to be forgotten.

The soft limit of real-time processor time is what carries it. It means something to processes with a
real-time priority only, and to those nothing for a hundred thousand years, so nobody has reason to set
another; and unlike a variable, a descriptor or a session it outlives fork, exec, setsid and an emptied
environment.
"""

from __future__ import annotations

import itertools
import os
import resource

from bgd.launcher.process import LEAST_STAMP, stamp_of


def new_stamp() -> int | None:
    """Return a number that no other attempt of any launcher has; None where this machine takes none."""
    return next(_numbers) if _IS_POSSIBLE else None


def wear(stamp: int | None) -> None:
    """Let every process that is started from now on have this stamp; None: that of this process again."""
    resource.setrlimit(resource.RLIMIT_RTTIME, _OWN if stamp is None else (stamp, _OWN[1]))


_OWN = resource.getrlimit(resource.RLIMIT_RTTIME)
_numbers = itertools.count(
    LEAST_STAMP | int.from_bytes(os.urandom(5), "big") << 20
)  # and so many attempts more


def _is_possible() -> bool:
    try:
        wear(LEAST_STAMP)
        return stamp_of(os.getpid()) == LEAST_STAMP
    except (ValueError, OSError):  # a lower limit was set for this process, or the kernel knows none
        return False
    finally:
        wear(None)


_IS_POSSIBLE = _is_possible()
