"""A warm worker: an interpreter that has imported what jobs need before they come.

The launcher sits at the other end of the line, whose descriptor is the only argument. It says first what to
import: {"protocol", "path", "preload"}, with "recycle" for a worker that is to run the jobs itself. The
answer is {"importing": MODULE} before each, and in the end {"ready": PID, "unfit": "why it must not fork" |
null}, or {"failed": "why"} before it exits, or {"ready", "skew"} where it speaks another protocol. What
follows is of jobs: see forking.py and reusing.py. Once the launcher is gone, or hangs up, the worker ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys

from .account import line_of
from .forking import serve_by_forks
from .hazards import hazards
from .link import PROTOCOL, Link
from .pages import gather, keep_together
from .reusing import serve_in_turn
from .streams import flush, log_traceback, point_to_nothing

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FAILED = 1


def main() -> int:
    """Work for the launcher until it wants nothing more; return the exit code."""
    # the kernel is to end this process when the launcher ends, even in the midst of an import; if that was
    # before now, the line is closed
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    link = Link(int(sys.argv.pop()))
    told = link.hear()
    if told is None:
        return 0
    beginning = told[0]
    if beginning["protocol"] != PROTOCOL:
        link.tell(ready=os.getpid(), skew=True)
        return 0
    if "recycle" not in beginning:
        keep_together()
    sys.path[:0] = beginning["path"]
    if not _imported(beginning["preload"], link):
        return _FAILED
    flush()
    point_to_nothing(os.O_WRONLY, 1, 2)
    if "recycle" in beginning:
        link.tell(ready=os.getpid())
        serve_in_turn(link, beginning["recycle"])
        return 0
    gc.collect()
    unfit = hazards()
    gc.freeze()  # a collection in a child would touch, and so copy, all that it shares with this process
    gather()
    link.tell(ready=os.getpid(), unfit=unfit)
    if unfit is None:
        serve_by_forks(link)
    return 0


def _imported(modules: list[str], link: Link) -> bool:
    """Import the modules to be preloaded; False: one failed, and the launcher was told so."""
    for module in modules:
        link.tell(importing=module)
        try:
            __import__(module)
        except BaseException as error:  # noqa: BLE001 - SystemExit too: the worker's end would say less
            log_traceback(error)
            link.tell(failed=f"{module} cannot be imported: {line_of(error)}")
            return False
    return True
