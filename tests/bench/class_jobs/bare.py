"""How fast can a process of this size fork at all? `bare.py AT_ONCE COUNT` prints children a second.

Behind it the microseconds of processor time that each takes, its own and its parent's.
"""

from __future__ import annotations

import gc
import os
import sys
import time

import work


def main(at_once: int, count: int) -> None:
    gc.freeze()  # a collection in a child would copy the memory that it shares
    used, began = _used(), time.perf_counter()
    started = 0
    for ended in range(count):
        while started < min(ended + at_once, count):
            started += 1
            if os.fork() == 0:
                work.nothing()
                os._exit(0)
        os.waitpid(-1, 0)
    print(count / (time.perf_counter() - began), (_used() - used) / count * 1_000_000)


def _used() -> float:
    """Return the seconds of computing of this process and of its children that are reaped."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
