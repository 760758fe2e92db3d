"""Starts one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import errno
import os
from asyncio.subprocess import Process
from contextlib import ExitStack

from msgspec import Struct

from bgd.launcher.problems import why_not_started
from bgd.launcher.process import MARK
from bgd.launcher.tree import mark
from bgd.wire.launching import Launch, NotStarted

# not the job's fault, and it passes: no descriptors, processes, memory or disk left
_SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})


class CannotStart(Exception):
    """The attempt cannot be started as it is; the message is the `problem` of its end."""


class Spawned(Struct, frozen=True):
    """`result`: descriptor of the file the process writes its result to, None if it was not to."""

    process: Process
    result: int | None


async def spawn(launch: Launch, output: int, null: int, folder: str) -> Spawned:
    """Start the program with stdout and stderr to `output`, reading its input, or `null` if it has none.

    `folder` is where unnamed files are made for input and result.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError: for one that lies in the machine; it was not started and may be tried again.
        LostChild: it was started and had to be killed at once.
    """
    with ExitStack() as ours:
        standard_input = null
        if launch.stdin is not None:
            standard_input = _unnamed(folder, launch.stdin)
            ours.callback(os.close, standard_input)
        if not launch.result:
            return Spawned(await _start(launch, standard_input, output, None), None)
        result = _unnamed(folder)
        try:
            return Spawned(await _start(launch, standard_input, output, result), result)
        except BaseException:
            os.close(result)
            raise


async def _start(launch: Launch, standard_input: int, output: int, result: int | None) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(launch.argv or [""]),
            stdin=standard_input,
            stdout=output,
            stderr=output,
            env=_environment(launch, result),
            cwd=launch.cwd,
            umask=launch.umask,
            start_new_session=True,
            pass_fds=() if result is None else (result,),
        )
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise CannotStart(why_not_started(launch, error)) from error
    except ValueError as error:  # NUL, text that cannot be encoded, a variable named with "="
        raise CannotStart(why_not_started(launch, error)) from error


def _environment(launch: Launch, result: int | None) -> dict[str, str]:
    # the mark comes first: see process.mark_of
    environment = {MARK: mark(launch.key), "PYTHONUNBUFFERED": "1", **launch.env}
    environment[MARK] = mark(launch.key)
    if result is not None:
        environment["BGD_RESULT_FD"] = str(result)
    return environment


def _unnamed(folder: str, content: bytes = b"") -> int:
    """Return a file without a name that holds `content` and is at its beginning."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        fd = os.memfd_create("bgd")  # a file system that knows no unnamed files
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        os.close(fd)
        if error.errno in _SHORTAGES:
            raise
        raise CannotStart(f"{NotStarted.OTHER}: its input cannot be written: {error.strerror}") from error
    return fd
