"""A warm worker: an interpreter that has imported in advance what jobs need.

The launcher is at the other end of the channel, whose descriptor is the only argument. It first sends the
imports: {"protocol", "path", "preload"}. If the worker is to run the jobs in its own process, there is also
"recycle", and a descriptor of memory to share. The worker sends {"importing": MODULE} before each import.
Then it sends {"ready": PID, "unfit": "why it must not fork" | null}; or {"failed": "why", "is_lasting": would
the next worker fail, too}, and exits; or {"ready", "skew"} if it speaks another protocol. All further
messages are about jobs: see forking.py and reusing.py. The worker ends when the launcher ends or closes the
channel.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys

from .callables import LASTING_ERRORS
from .channel import PROTOCOL, LauncherChannel, SharedMemory
from .forking import avoid_gaps, collapse_huge_pages, fork_hazards, serve_by_forks
from .job import error_line
from .process import flush, log_traceback, redirect_to_null
from .reusing import serve_in_turn
from .stopping import dump_on_signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FAILED = 1


def main() -> int:
    """Serve the launcher until it closes the channel; return the exit code."""
    # let the kernel end this process with the launcher, even in the middle of an import; a launcher that
    # ended before this call has closed the channel
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    channel = LauncherChannel(int(sys.argv.pop()))
    received = channel.receive()
    if received is None:
        return 0
    beginning, descriptors = received
    if beginning["protocol"] != PROTOCOL:
        channel.send(ready=os.getpid(), skew=True)
        return 0
    if "recycle" not in beginning:
        avoid_gaps()
    sys.path[:0] = beginning["path"]
    if not _imported(beginning["preload"], channel):
        return _FAILED
    flush()
    redirect_to_null(os.O_WRONLY, 1, 2)
    dump_on_signal()
    if "recycle" in beginning:
        serve_in_turn(channel, SharedMemory(*descriptors), beginning["recycle"])
        return 0
    gc.collect()
    unfit = fork_hazards()
    gc.freeze()  # a garbage collection in a child would write to all memory shared with it, and so copy it
    collapse_huge_pages()
    channel.send(ready=os.getpid(), unfit=unfit)
    if unfit is None:
        serve_by_forks(channel)
    return 0


def _imported(modules: list[str], channel: LauncherChannel) -> bool:
    """Import the modules to preload; if one fails, tell the launcher and return False."""
    for module in modules:
        channel.send(importing=module)
        try:
            __import__(module)
        except BaseException as error:  # noqa: BLE001 - SystemExit too: the exit alone would say less
            log_traceback(error)
            words = f"{module} cannot be imported: {error_line(error)}"
            channel.send(failed=words, is_lasting=isinstance(error, LASTING_ERRORS))
            return False
    return True
