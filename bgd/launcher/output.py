"""The pump: empty an attempt's output pipe, or terminal, into its log, a bounded amount at a time."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import resource
import select
import termios
from collections.abc import Callable
from contextlib import suppress

from bgd.launcher.children import Child, Children, Readers, start_program
from bgd.launcher.keyboards import Keyboards
from bgd.launcher.log_file import LogFile, move
from bgd.launcher.outbox import UnstoredOutput
from bgd.launcher.problems import explained, reason_of
from bgd.launcher.process import StreamId
from bgd.wire.launching import NotStarted

log = logging.getLogger(__name__)


Log = LogFile | UnstoredOutput
"""Where the output of an attempt goes."""


class AttemptOutput:
    """A job's stdout and stderr: a pipe, or a terminal whose output is moved into the pipe.

    `inode` is the number of the pipe in /proc/PID/fd. `end`: done once all writers have closed it.
    `terminal`: None without one, or once it is closed.
    """

    def __init__(self, log: Log, readers: Readers, *, with_terminal: bool) -> None:
        """Make the pipe, and the terminal if wanted.

        Raises:
            CannotStart: the machine has no terminals.
            OSError: too many descriptors or terminals are open; may be tried again.
        """
        self.log = log
        self._readers = readers
        self.terminal: Terminal | None = None
        self._reader = self._writer = -1
        self._moved: Callable[[], None] | None = None
        self._is_large = False
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            if with_terminal:
                self.terminal = Terminal()
            self._reader, self._writer = _pipe()
            os.set_blocking(self._reader, False)  # the job's end stays blocking, as programs expect
            self.inode = os.fstat(self._reader).st_ino
            self._read()
        except BaseException:
            self.close()
            raise

    @property
    def job_end(self) -> int:
        """The descriptor for the job, valid until `begin`."""
        return self._writer if self.terminal is None else self.terminal.job_end

    @property
    def stream(self) -> StreamId:
        """What identifies a process that can write to it; not a closed terminal: its number may be reused."""
        return self.inode if self.terminal is None else self.terminal.stream

    def put(self, text: bytes) -> None:
        """Write text to the log that does not come from the pipe. Call it before `begin`."""
        for start in range(0, len(text), select.PIPE_BUF):  # an empty pipe holds at least this much
            end = self.log.total + os.write(self._writer, text[start : start + select.PIPE_BUF])
            while self.log.total < end and self._pump():  # a log takes less at once where a piece is full
                pass

    def begin(self, moved: Callable[[], None]) -> None:
        """Start reading, once the job has its own copy of its end; call `moved` after each chunk."""
        self._moved = moved
        if self.log.total:
            moved()

    def drain(self) -> bool:
        """Move everything available; return whether all writers have closed it.

        Call it only after the job's first process has ended. It moves little more than a pipe holds, so that
        a process that keeps writing does not block the event loop.
        """
        if self.terminal is not None:
            self.terminal.close_job_end()
        start = self.log.total
        while not self.end.done() and self._pump() and self.log.total - start <= _CHUNK:
            pass
        return self.end.done()

    def discard_rest(self, null: int, children: Children) -> None:
        """Let processes that still have the pipe open continue to write, and discard their output.

        Without a reader their next write would end them (SIGPIPE). The reader is a process of its own, so
        that they outlive the launcher. It ends when the last of them has closed the pipe.

        Raises:
            OSError: the reader cannot be started.
        """
        if self.terminal is not None or self.end.done():
            return  # a terminal is hung up instead, as usual when its session ends
        self._readers.remove(self._reader)
        os.set_blocking(self._reader, True)
        Child(start_program("/bin/cat", ["cat"], {}, (self._reader, null, null)), children)

    def close(self) -> None:
        """Close the pipe, the terminal and the log."""
        self._close_terminal()
        self._close_writer()
        self._close_reader()
        self.log.close()

    def _read(self) -> None:
        """Start reading before the job starts, so that an error here costs no started job."""
        self._readers.add(self._reader, self._pump)
        if self.terminal is not None:
            self._readers.add(self.terminal.screen, self._pump)

    def _pump(self) -> bool:
        """Move one chunk; return whether there may be more."""
        if self.terminal is None and self._moved is not None:
            # kept until now, so that the end of a silent job is one event, without another for its pipe; the
            # log or its times need the descriptor now
            self._close_writer()
        if self.terminal is not None and not self.terminal.relay(self._writer, _CHUNK):
            self._close_terminal()
            self._close_writer()
        try:
            count = self.log.take(self._reader, _CHUNK)
        except BlockingIOError:
            return False
        if count == 0:
            self._close_reader()
            self.end.set_result(None)
            return False
        if count >= _FLOOD and not self._is_large:
            self._enlarge()
        if self._moved is not None:
            self._moved()
        if self.log.is_full:
            self._readers.remove(self._reader)
        return True

    def go_on(self) -> None:
        """Resume reading once the log has room. Do not call it from a callback of the readers."""
        if self._reader >= 0 and not self.log.is_full:
            self._readers.add(self._reader, self._pump)

    def _enlarge(self) -> None:
        self._is_large = True
        # it keeps its size if pipe memory is used up, or if the job made it larger itself and filled it
        with suppress(OSError):
            fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _CHUNK)

    def _close_terminal(self) -> None:
        if self.terminal is not None:
            self._readers.remove(self.terminal.screen)
            self.terminal.close()
            self.terminal = None

    def _close_writer(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def _close_reader(self) -> None:
        if self._reader >= 0:
            self._readers.remove(self._reader)
            os.close(self._reader)
            self._reader = -1


_FLOOD = 1 << 16  # bytes: a pipe's default size; if it is full, the job writes faster than it is read
# bytes moved in one turn of the loop, in a tenth of a millisecond; also the size of a flooding job's pipe
_CHUNK = 1 << 18
_RESERVED = 32  # descriptors that jobs leave for connections, process scans and pidfds


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and writer > limit - _RESERVED:  # the lowest free number is used first
        os.close(reader)
        os.close(writer)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return reader, writer


# --- The terminal of a job that asked for one; its output is logged.


LINES, COLUMNS = 24, 80  # the default size of terminals
TERM_TYPE = "xterm"  # TERM for a job of a caller without one


class Terminal:
    """A pseudo-terminal. The job has `job_end`; `relay` takes what it writes there, `keyboards` type into it.

    This process keeps `job_end` open until `close_job_end`: a program that closes all its copies, to open
    /dev/tty again later, must not look like the end of the output.
    """

    def __init__(self) -> None:
        """Open it.

        Raises:
            CannotStart: the machine has no terminals.
            OSError: all are in use; may be tried again.
        """
        with explained(lambda error: f"{NotStarted.OTHER}: no terminal: {reason_of(error)}"):
            self.screen, self.job_end = os.openpty()  # never becomes this process's controlling terminal
        os.set_blocking(self.screen, False)
        termios.tcsetwinsize(self.job_end, (LINES, COLUMNS))
        status = os.fstat(self.job_end)
        self.stream: StreamId = (status.st_dev, status.st_ino)
        self.keyboards = Keyboards(self.screen)

    def relay(self, pipe: int, most: int) -> bool:
        """Move what is available and fits into the pipe, up to `most` bytes; return False at the end.

        The kernel returns a few KiB at a time, so a flood takes many turns of the loop.
        """
        try:
            move(self.screen, pipe, most)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:  # EIO only means that all its users closed it
                log.warning("cannot read a job's terminal, so it is hung up: %s", error.strerror)
            return False
        return True

    def close_job_end(self) -> None:
        """Close this process's copy of the job's end."""
        if self.job_end >= 0:
            os.close(self.job_end)
            self.job_end = -1

    def close(self) -> None:
        """Hang up: processes that still have the job's end can read and write no more."""
        self.keyboards.close()
        self.close_job_end()
        os.close(self.screen)


def set_controlling_terminal() -> None:
    """Make stdout the controlling terminal of this process, which leads a session and has none yet."""
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
