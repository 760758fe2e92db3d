"""What a job reads, and the unnamed files that carry its input and its result."""

from __future__ import annotations

import asyncio
import os
import stat

from bgd.launcher.problems import SHORTAGES, CannotStart, no_input
from bgd.wire.launching import Launch, NotStarted


class Input:
    """`fd` is what the process is to read, None if that is nothing."""

    def __init__(self, launch: Launch, folder: str, *, is_apart: bool = False) -> None:
        """Open it; `folder` is where unnamed files are made. `is_apart`: leave a file to who may hang.

        Raises:
            CannotStart: it cannot be read.
            OSError: of the machine; may be tried again.
        """
        self.fd: int | None = None
        if launch.stdin is not None:
            self.fd = unnamed(folder, launch.stdin)
        elif launch.stdin_path is not None and not is_apart:
            # a FIFO must not hold up the loop until somebody writes to it
            self.fd = opened(launch.cwd, launch.stdin_path, os.O_NONBLOCK)
            os.set_blocking(self.fd, True)  # as programs expect their input to be

    @property
    def is_fifo(self) -> bool:
        return self.fd is not None and stat.S_ISFIFO(os.fstat(self.fd).st_mode)

    async def begun(self, until: asyncio.Future[None]) -> None:
        """Wait for the first to write to a FIFO, as a shell does in opening it; or for `until`.

        Without anybody who writes, its reader would find an end at once.
        """
        if self.fd is None:
            return
        fd, loop = self.fd, asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()

        def begin() -> None:
            loop.remove_reader(fd)
            begun.set_result(None)

        loop.add_reader(fd, begin)
        try:
            await asyncio.wait({begun, until}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(fd)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


def unnamed(folder: str, content: bytes = b"") -> int:
    """Return a file without a name that holds `content` and is at its beginning."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        fd = os.memfd_create("bgd")  # a file system that knows no unnamed files
    if not content:
        return fd
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        os.close(fd)
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(f"{NotStarted.OTHER}: its input cannot be written: {error.strerror}") from error
    return fd


def opened(folder: str, path: str, flags: int = 0) -> int:
    """Open a file that a process in this folder is to read.

    Raises:
        CannotStart: it cannot be read.
        OSError: of the machine; may be tried again.
    """
    try:
        # as the process itself would find it
        fd = os.open(
            os.path.join(folder, path),  # noqa: PTH118  plain strings here
            os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | flags,
        )
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(no_input(path, f"{error.strerror}")) from error
    except ValueError as error:  # NUL, text that cannot be encoded
        raise CannotStart(no_input(path, "no file can have this name")) from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise CannotStart(no_input(path, "it is a directory"))
    return fd
