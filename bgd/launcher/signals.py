"""What signals mean to the launcher: told to end, it does, however many children end at the same moment."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def listen(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
    """Call `leave` on SIGTERM."""
    # the loop's own handlers hear of a signal through what hundreds of SIGCHLD fill while the loop is busy,
    # and what comes after them is lost; a handler of Python's is always called
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(leave))
    for ignored in (signal.SIGINT, signal.SIGHUP):
        # with a handler, not SIG_IGN, which every job would inherit
        signal.signal(ignored, lambda *_: None)
