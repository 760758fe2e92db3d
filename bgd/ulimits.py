"""Resource limits of bgd's own processes, set by `ulimit` or a unit: which are too small to work with."""

from __future__ import annotations

import resource
from collections.abc import Iterable

from msgspec import Struct

from bgd.errors import BgdError
from bgd.units import format_size


class Least(Struct, frozen=True):
    """What a process of bgd needs of one limit; `names` are those of the shell and of systemd."""

    limit: int
    needed: int
    what: str
    names: tuple[str, str]
    is_size: bool = True


# The launcher has 17 open and keeps 32 in reserve (bgd.launcher.output); a command takes 3, a class job 5:
# below 52 it starts nothing. bgd has 31 open, without clients. The ballast has 8 MiB; logs and database grow.
_FILES = (
    Least(resource.RLIMIT_NOFILE, 64, "open files", ("ulimit -n", "LimitNOFILE="), is_size=False),
    Least(resource.RLIMIT_FSIZE, 64_000_000, "size of a file", ("ulimit -f", "LimitFSIZE=")),
)
# Twelve threads, each with a stack and an arena of malloc: 920 MB of addresses, of which 750 MB are enough
_MEMORY = (
    Least(resource.RLIMIT_AS, 1_000_000_000, "address space", ("ulimit -v", "LimitAS=")),
    Least(resource.RLIMIT_DATA, 400_000_000, "data of a process", ("ulimit -d", "LimitDATA=")),
)
OF_DAEMON = _FILES + _MEMORY
OF_LAUNCHER = _FILES  # it has no threads, and jobs may be meant by limits on memory


def check_limits(least: Iterable[Least]) -> None:
    """Refuse a limit with which bgd would start and then fail.

    Raises:
        BgdError: one is too small; it names the limit, its value and what is needed.
    """
    for each in least:
        soft, hard = resource.getrlimit(each.limit)
        if soft == resource.RLIM_INFINITY or soft >= each.needed:
            continue
        shell, unit = each.names
        value, needed, most = (_shown(each, number) for number in (soft, each.needed, hard))
        raise BgdError(
            f"the limit on {each.what} is {value} ({shell}; {unit} in a unit), and bgd needs {needed} or"
            f" more: raise it before bgd starts (hard limit: {most})"
        )


def file_size_limit() -> int | None:
    """Return how many bytes a file may have at most; None: there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


def _shown(least: Least, number: int) -> str:
    if number == resource.RLIM_INFINITY:
        return "unlimited"
    return format_size(number) if least.is_size else str(number)
