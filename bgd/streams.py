"""The standard streams of bgd's own programs, which their caller may have closed."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Open /dev/null in place of each of descriptors 0 to 2 that is closed.

    Call it before anything else: the next file, socket or epoll instance would get the number, a job would
    inherit it as its standard stream, and libuv aborts when it has to close it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null == fd:
                os.set_inheritable(fd, True)
            else:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for this process's life
