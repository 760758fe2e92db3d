"""What limits this launcher can set, so that a job that asks for more is refused where it is submitted."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from bgd.launcher.delegation import Delegation
from bgd.wire.limits import Abilities


def abilities(delegation: Delegation) -> Abilities:
    return Abilities(
        controllers=delegation.controllers,
        problem=delegation.problem,
        least_nice=_least_nice(),
        most_open_files=_number("/proc/sys/fs/nr_open")
        if _may(_CAP_SYS_RESOURCE)
        else _hard(resource.RLIMIT_NOFILE),
        most_core=None if _may(_CAP_SYS_RESOURCE) else _hard(resource.RLIMIT_CORE),
    )


_CAP_SYS_NICE = 23  # linux/capability.h
_CAP_SYS_RESOURCE = 24
_LOWEST = -20


def _least_nice() -> int:
    if _may(_CAP_SYS_NICE):
        return _LOWEST
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    allowed = _LOWEST if soft == resource.RLIM_INFINITY else 20 - soft  # as getrlimit(2) counts
    return max(_LOWEST, min(os.getpriority(os.PRIO_PROCESS, 0), allowed))


def _may(capability: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> capability & 1)


def _hard(limit: int) -> int | None:
    hard = resource.getrlimit(limit)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _number(path: str) -> int:
    return int(Path(path).read_text(encoding="ascii"))
