"""What a fork would break: threads, which are not there in the child, and event loops, which all share."""

from __future__ import annotations

import gc
import os
import sys
import threading


def hazards() -> str | None:
    """Say in one line what forbids to fork this process, None if nothing does."""
    found = [*_threads(), *_loops()]
    if not found:
        native = _native_threads()
        if native:
            found.append(f"{native} threads of native code")
    return ", ".join(found) or None


def _threads() -> list[str]:
    own = threading.current_thread()
    return [f"thread {each.name!r}" for each in threading.enumerate() if each is not own]


def _loops() -> list[str]:
    events = sys.modules.get("asyncio.events")
    if events is None:
        return []
    kind = events.AbstractEventLoop
    loops = [each for each in gc.get_objects(generation=None) if issubclass(type(each), kind)]
    return [f"event loop {type(each).__name__}" for each in loops if not each.is_closed()]


def _native_threads() -> int:
    """Count those that are still there after a fork: libraries that know of forks end theirs before it."""
    if len(os.listdir("/proc/self/task")) == 1:  # noqa: PTH208  pathlib is slow to import
        return 0
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return len(os.listdir("/proc/self/task")) - 1  # noqa: PTH208
