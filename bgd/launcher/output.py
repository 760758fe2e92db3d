"""The pump: an attempt's output pipe, or terminal, emptied into its log file a bounded amount at a time.

The format of the files is described in bgd.launcher.logfile.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import select
from collections.abc import Callable
from contextlib import suppress

from bgd.launcher.logfile import LogFile
from bgd.launcher.process import Channel
from bgd.launcher.readers import Readers
from bgd.launcher.terminal import Terminal


class Output:
    """The pipe that is a job's stdout and stderr, or that the terminal which is them is emptied into.

    `inode` is what the pipe is called in /proc/PID/fd.
    """

    def __init__(self, log: LogFile, readers: Readers, *, with_terminal: bool) -> None:
        """Make pipe and terminal.

        Raises:
            CannotStart: there are no terminals.
            OSError: too many descriptors or terminals are open; may be tried again.
        """
        self.log = log
        self._readers = readers
        self._terminal: Terminal | None = None
        self._reader = self._writer = -1
        self._moved: Callable[[], None] | None = None
        self._is_large = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            if with_terminal:
                self._terminal = Terminal()
            self._reader, self._writer = _pipe()
            os.set_blocking(self._reader, False)  # the job's end stays as programs expect it
            self.inode = os.fstat(self._reader).st_ino
            self._read()
        except BaseException:
            self.close()
            raise

    @property
    def job_end(self) -> int:
        """The descriptor for the job, good until `begin`."""
        return self._writer if self._terminal is None else self._terminal.job_end

    @property
    def channel(self) -> Channel:
        """What shows that a process can write to it."""
        return self.inode if self._terminal is None else self._terminal.channel

    def say(self, words: bytes) -> None:
        """Put words into the log before the job's own; to be called before `begin`."""
        for start in range(0, len(words), select.PIPE_BUF):  # the least that an empty pipe holds
            os.write(self._writer, words[start : start + select.PIPE_BUF])
            self._pump()

    def begin(self, moved: Callable[[], None]) -> None:
        """Take it that the job has its own copy of its end; `moved` is called after each amount."""
        self._moved = moved
        if self._terminal is None:
            self._close_writer()
        if self.log.total:
            moved()

    def drain(self) -> bool:
        """Move all that is there now and return whether it is closed by all who could write to it.

        Only after the job's first process ended. Moves a little more than a pipe holds, so that a writer
        that goes on does not hold up the loop.
        """
        if self._terminal is not None:
            self._terminal.let_go()
        start = self.log.total
        while not self._end.done() and self._pump() and self.log.total - start <= _CHUNK:
            pass
        return self._end.done()

    async def ended(self, until: asyncio.Future[None]) -> bool:
        """Wait until nobody can write any more, or `until` is done; return whether it is the first."""
        await asyncio.wait({self._end, until}, return_when=asyncio.FIRST_COMPLETED)
        return self._end.done()

    async def leave_to_nowhere(self, null: int) -> None:
        """Let processes that still have the pipe open go on writing: what they write is thrown away.

        Without a reader their next write would end them (SIGPIPE). The reader is a process of its own, so
        that they outlive the launcher; it ends when the last of them has closed the pipe.

        Raises:
            OSError: that process cannot be started.
        """
        if self._terminal is not None or self._end.done():
            return  # a terminal is hung up, as always when its session ends
        self._readers.remove(self._reader)
        os.set_blocking(self._reader, True)
        await asyncio.create_subprocess_exec(
            "cat", stdin=self._reader, stdout=null, stderr=null, env={}, start_new_session=True
        )

    def close(self) -> None:
        self._close_terminal()
        self._close_writer()
        self._close_reader()
        self.log.close()

    def _read(self) -> None:
        """Begin to pump: before the job is there, which must not be started for nothing if this fails."""
        self._readers.add(self._reader, self._pump)
        if self._terminal is not None:
            self._readers.add(self._terminal.screen, self._pump)

    def _pump(self) -> bool:
        """Move one chunk and return whether there may be more."""
        if self._terminal is not None and not self._terminal.relay(self._writer, _CHUNK):
            self._close_terminal()
            self._close_writer()
        try:
            count = self.log.take(self._reader, _CHUNK)
        except BlockingIOError:
            return False
        if count == 0:
            self._close_reader()
            self._end.set_result(None)
            return False
        if count >= _FLOOD and not self._is_large:
            self._enlarge()
        if self._moved is not None:
            self._moved()
        return True

    def _enlarge(self) -> None:
        self._is_large = True
        # it stays as it is where pipe memory is used up, or the job made it larger itself and filled it
        with suppress(OSError):
            fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _CHUNK)

    def _close_terminal(self) -> None:
        if self._terminal is not None:
            self._readers.remove(self._terminal.screen)
            self._terminal.close()
            self._terminal = None

    def _close_writer(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def _close_reader(self) -> None:
        if self._reader >= 0:
            self._readers.remove(self._reader)
            os.close(self._reader)
            self._reader = -1


_FLOOD = 1 << 16  # a pipe's first capacity: found full, the job writes faster than it is read
_CHUNK = (
    1 << 18
)  # bytes moved in one turn of the loop, a tenth of a millisecond; and a flooding pipe's capacity
_RESERVED = 32  # descriptors jobs leave to connections, to looks at /proc and to waiting for processes


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and writer > limit - _RESERVED:  # numbers are given from the lowest up
        os.close(reader)
        os.close(writer)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return reader, writer
