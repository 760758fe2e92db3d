"""Open descriptors: how many a process has, what they are, and what to do when none is left."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
from collections import Counter
from contextlib import suppress
from pathlib import Path

from bgd.clock import elapsed

log = logging.getLogger(__name__)

_KINDS = 3  # named at most
_LISTED = 4096  # numbers that are looked at if the folder cannot be listed: then the lowest are all in use
_COLLECTIONS_APART = 10.0  # seconds: a shortage must not keep the process busy

_collected_at = -_COLLECTIONS_APART


def open_descriptors(pid: int) -> tuple[int, int, str]:
    """Return how many descriptors a process has, the limit, and what most of them are.

    Raises:
        OSError: the process is gone, or belongs to another user.
    """
    folder = Path(f"/proc/{pid}/fd")
    try:
        links = list(folder.iterdir())
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        links = [folder / str(number) for number in range(_LISTED)]
    kinds: Counter[str] = Counter()
    for link in links:
        with suppress(FileNotFoundError):  # closed meanwhile
            kinds[_kind_of(str(link.readlink()))] += 1
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    return kinds.total(), limit, ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_KINDS))


def described(error: Exception) -> str:
    """Return what an error says; if this process can open nothing more, say what holds its descriptors.

    Those that only the garbage collector would close are closed first, so that the next try may succeed.
    """
    global _collected_at  # noqa: PLW0603  a process has one table of descriptors
    if not (isinstance(error, OSError) and error.errno == errno.EMFILE):
        return str(error)
    is_due = elapsed() - _collected_at >= _COLLECTIONS_APART
    if is_due:
        _collected_at = elapsed()
        gc.collect()
    count, limit, kinds = open_descriptors(os.getpid())
    words = f"too many files are open: {count} of at most {limit}, mostly {kinds}"
    if is_due:
        log.warning("%s", words)
    return words


def _kind_of(target: str) -> str:
    """Return the kind of a descriptor in the plural, from what /proc says it refers to."""
    if target.startswith("/memfd:"):
        return f"files in memory ({target.removeprefix('/memfd:').partition(' ')[0]})"
    if target.startswith("/"):
        return "files"
    return f"{target.removeprefix('anon_inode:').partition(':')[0].strip('[]')}s"
