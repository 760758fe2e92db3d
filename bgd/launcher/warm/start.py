"""Starts the process of a warm worker, and says why one did not become ready."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

from bgd.launcher.problems import SHORTAGES, CannotStart, one_line, why_not_started
from bgd.wire.launching import Launch, NotStarted


class FailedStart(CannotStart):
    """The worker ended before it was ready."""

    def __init__(self, problem: str) -> None:
        super().__init__(one_line(NotStarted.OTHER, problem))


class Crashed(FailedStart):
    """It did not say why: it was killed, or ended by what it imported."""


async def start(
    launch: Launch, folder: str, environment: dict[str, str], null: int, line: int, words: int
) -> asyncio.subprocess.Process:
    """Start the worker that `launch` needs, in `folder`; `line` and `words` are its ends of both.

    Raises:
        CannotStart: for a reason that lies in the Launch.
        OSError, LostChild: as `bgd.launcher.spawn.spawn`.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *launch.argv,
            str(line),
            stdin=null,
            stdout=words,
            stderr=words,
            env=environment,
            cwd=folder,
            umask=0o022,
            start_new_session=True,
            pass_fds=(line,),
        )
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise CannotStart(why_not_started(launch, error)) from error
    except ValueError as error:  # NUL, text that cannot be encoded, a variable named with "="
        raise CannotStart(why_not_started(launch, error)) from error


def end_of(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
