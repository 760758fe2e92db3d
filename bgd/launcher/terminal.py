"""The terminal of a job that asked for one: nobody looks at it and nobody types, its output is logged."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import termios

from bgd.launcher.logfile import move
from bgd.launcher.problems import SHORTAGES, CannotStart
from bgd.launcher.process import Channel
from bgd.wire.launching import NotStarted

log = logging.getLogger(__name__)

LINES, COLUMNS = 24, 80  # what programs expect of a terminal that says nothing else
KIND = "xterm"  # TERM of a job that has none: its caller had no terminal


class Terminal:
    """A pseudo-terminal. The job has `job_end`, and what it writes there is to be taken by `relay`.

    This process keeps `job_end` open until `let_go`: a program that closes all of its own, to reopen
    /dev/tty later, must not be taken for the end of the output.
    """

    def __init__(self) -> None:
        """Open it.

        Raises:
            CannotStart: the machine has no terminals.
            OSError: all are taken; may be tried again.
        """
        try:
            self.screen, self.job_end = os.openpty()  # never this process's own controlling terminal
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            raise CannotStart(f"{NotStarted.OTHER}: no terminal: {error.strerror}") from error
        os.set_blocking(self.screen, False)
        termios.tcsetwinsize(self.job_end, (LINES, COLUMNS))
        status = os.fstat(self.job_end)
        self.channel: Channel = (status.st_dev, status.st_ino)

    def relay(self, pipe: int, most: int) -> bool:
        """Move what there is now and the pipe has room for, at most so many bytes; False: it is at its end.

        The kernel hands out a few KiB at a time, so a flood takes many turns.
        """
        try:
            move(self.screen, pipe, most)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:  # which only says that everybody closed it
                log.warning("a job's terminal is hung up, as it cannot be read: %s", error.strerror)
            return False
        return True

    def let_go(self) -> None:
        """Close this process's copy of the job's end."""
        if self.job_end >= 0:
            os.close(self.job_end)
            self.job_end = -1

    def close(self) -> None:
        """Hang up: whoever still has the job's end reads and writes no more."""
        self.let_go()
        os.close(self.screen)


def take_control() -> None:
    """Make stdout the controlling terminal of this process, which leads a session and has none yet."""
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
