"""The standard streams of a job, which may have done to them whatever it liked."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback


def log(text: str) -> None:
    flush()  # what the job printed comes first
    with contextlib.suppress(Exception):  # the job closed or replaced it; the document has the text too
        sys.stderr.write(text)


def log_traceback(error: BaseException) -> None:
    log("".join(traceback.format_exception(type(error), error, error.__traceback__)))


def flush() -> None:
    for name, fd in (("stdout", 1), ("stderr", 2)):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - nobody reads it, its disk is full, the job closed or replaced it
            # the interpreter would flush it once more at its end, and turn the exit code into 120
            point_to_nothing(os.O_WRONLY, fd)
            setattr(sys, name, None)


def point_to_nothing(mode: int, *streams: int) -> None:
    nothing = os.open(os.devnull, mode)
    for stream in streams:
        if stream == nothing:  # where that was closed and is the lowest
            os.set_inheritable(stream, True)
        else:
            os.dup2(nothing, stream)
    if nothing not in streams:
        os.close(nothing)


def point_to(output: int) -> None:
    """Let standard output and error go there."""
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
