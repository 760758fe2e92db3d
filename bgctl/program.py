"""Run the command line; turn every error into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from bgctl import exit_codes
from bgctl.common import COMPLETION_VARIABLE, with_remedy
from bgd.errors import BgdError, shorten
from bgd.text.escape import one_line

if TYPE_CHECKING:
    from bgctl.plain import Begun


def run(arguments: list[str], begun: Begun | None = None) -> int:
    """Run the command line and return the exit code; `begun`: go on after what was done for it."""
    try:
        code = _run(arguments, begun)
        sys.stdout.flush()
    except BrokenPipeError:
        return exit_codes.BROKEN_PIPE
    except OSError as error:  # for example a full disk
        return _complain(f"cannot write to stdout: {error.strerror}", exit_codes.exit_code_of_error(error))
    return code


def _run(arguments: list[str], begun: Begun | None) -> int:
    # names and errors may contain characters that the terminal's encoding cannot show
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are text streams here
    try:
        return _invoke(arguments, begun)
    except (BrokenPipeError, KeyboardInterrupt) as error:  # no more is read
        return exit_codes.exit_code_of_error(error)
    except (BgdError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            raise  # of stdout
        return _complain(with_remedy(error), exit_codes.exit_code_of_error(error))
    except Exception as error:  # a traceback does not help the user
        if os.environ.get("BGD_DEBUG"):
            raise
        message = f"bug: {type(error).__name__}: {error} (BGD_DEBUG=1 shows where; please report it)"
        return _complain(message, exit_codes.BUG)


def _invoke(arguments: list[str], begun: Begun | None) -> int:
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from bgctl.completing import complete  # noqa: PLC0415 - only shell completion needs it

        return complete(instruction)
    from bgctl.cli import invoke  # noqa: PLC0415 - it imports the parser

    return invoke(arguments, begun)


def _complain(message: str, code: int) -> int:
    print(f"bgctl: {shorten(one_line(' '.join(message.split())))}", file=sys.stderr, flush=True)
    return code
