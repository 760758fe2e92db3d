"""Starts one process exactly as a Launch says."""

from __future__ import annotations

import asyncio
import os

from msgspec import Struct

from bgd.launcher.input import unnamed
from bgd.launcher.problems import SHORTAGES, CannotStart, why_not_started
from bgd.launcher.process import MARK
from bgd.launcher.terminal import KIND, take_control
from bgd.launcher.tree import mark
from bgd.wire.launching import Launch


class Spawned(Struct, frozen=True):
    """`result`: descriptor of the file the process writes its result to, None if it was not to."""

    process: asyncio.subprocess.Process
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
    return Spawned(process, result)


def _environment(launch: Launch, result: int | None) -> dict[str, str]:
    # the mark comes first: see process.mark_of
    environment = {MARK: mark(launch.key), "PYTHONUNBUFFERED": "1", **launch.env}
    environment[MARK] = mark(launch.key)
    if launch.pty:
        environment.setdefault("TERM", KIND)
    if result is not None:
        environment["BGD_RESULT_FD"] = str(result)
    return environment
