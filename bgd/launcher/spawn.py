"""Starts one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import logging
import os

from msgspec import Struct

from bgd.launcher.input import unnamed
from bgd.launcher.problems import SHORTAGES, CannotStart, why_not_started
from bgd.launcher.process import MARK, Process, read_process
from bgd.launcher.terminal import KIND, take_control
from bgd.launcher.tree import mark
from bgd.wire.launching import Launch

log = logging.getLogger(__name__)


class Spawned(Struct, frozen=True):
    """`first`: the process as it was found right after, None if it could not be: it had ended.

    `result`: descriptor of the file the process writes its result to, None if it was not to.
    """

    process: asyncio.subprocess.Process
    first: Process | None
    result: int | None


async def spawn(launch: Launch, standard_input: int, output: int, folder: str) -> Spawned:
    """Start the program with stdout and stderr to `output`; `folder` is where its result's file is made.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError: for one that lies in the machine; it was not started and may be tried again.
        LostChild: it was started and had to be killed at once.
    """
    if not launch.result:
        return await _start(launch, standard_input, output, None)
    result = unnamed(folder)
    try:
        return await _start(launch, standard_input, output, result)
    except BaseException:
        os.close(result)
        raise


async def _start(launch: Launch, standard_input: int, output: int, result: int | None) -> Spawned:
    try:
        process = await asyncio.create_subprocess_exec(
            *(launch.argv or [""]),
            stdin=standard_input,
            stdout=output,
            stderr=output,
            env=_environment(launch, result),
            cwd=launch.cwd,
            umask=launch.umask,
            start_new_session=True,
            pass_fds=() if result is None else (result,),
            # a fork, 2 ms, where others cost a vfork, 0.2; safe, as this process has one thread only
            preexec_fn=take_control if launch.pty else None,
        )
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(why_not_started(launch, error)) from error
    except ValueError as error:  # NUL, text that cannot be encoded, a variable named with "="
        raise CannotStart(why_not_started(launch, error)) from error
    return Spawned(process, _found(process.pid), result)


def _found(pid: int) -> Process | None:
    try:
        return read_process(pid)
    except OSError as error:  # no descriptor to look with: it runs, so this must not look like a failed start
        log.warning("process %d cannot be looked at: %s", pid, error.strerror)
        return None


def _environment(launch: Launch, result: int | None) -> dict[str, str]:
    # the mark comes first: see process.mark_of
    environment = {MARK: mark(launch.key), "PYTHONUNBUFFERED": "1", **launch.env}
    environment[MARK] = mark(launch.key)
    if launch.pty:
        environment.setdefault("TERM", KIND)
    if result is not None:
        environment["BGD_RESULT_FD"] = str(result)
    return environment
