"""Repair the standard streams and the encoding at the start of each of bgd's programs.

`bgctl` does this before it imports anything else, so this module imports almost nothing.
"""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Open /dev/null in place of each of descriptors 0 to 2 that is closed.

    Call this before anything else. Otherwise the next file, socket or epoll instance gets the number, a job
    inherits it as its standard stream, and libuv aborts when it has to close it.
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


def use_utf_8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale has another encoding.

    The argv, environment and paths of jobs are bytes, which clients send as UTF-8. Encoded as Latin-1, for
    example, a job would get other bytes than its caller wrote. Call this before anything is set up.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        # not with PYTHONUTF8, which jobs would inherit

        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - no shell
