"""What a warm worker prints while it starts."""

from __future__ import annotations

import asyncio
import os


class Words:
    """A pipe, read all the time, of which the beginning is kept."""

    def __init__(self) -> None:
        """Make the pipe; `far_end` is for the worker, and to be closed here once that has it."""
        self._reader, self.far_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._loop = asyncio.get_running_loop()
        self._text = bytearray()
        self._loop.add_reader(self._reader, self._read)

    def end(self) -> bytes:
        """Return what has been printed, and read no more."""
        while self._reader >= 0 and self._read():
            pass
        self._close()
        return bytes(self._text)

    def _read(self) -> bool:
        """Take one piece; False: there is none now."""
        try:
            piece = os.read(self._reader, _KEPT)
        except BlockingIOError:
            return False
        if not piece:
            self._close()
        self._text += piece[: _KEPT - len(self._text)]
        return len(self._text) < _KEPT

    def _close(self) -> None:
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1


_KEPT = 32_768  # bytes: half of what a pipe holds, so that they fit into a job's
