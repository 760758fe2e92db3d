"""bgctl: what people type. Finds the verb, and turns every error into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from bgctl import codes
from bgctl.common import COMPLETION_VARIABLE, Common
from bgctl.verbs import bgctl
from bgd.errors import BgdError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run bgctl and exit with its code."""
    _open_what_is_closed()
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        code = codes.BROKEN_PIPE
    if code == codes.BROKEN_PIPE:  # the interpreter would try to flush once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Give /dev/null to streams that whoever called had closed: what is written there is to go nowhere."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:  # or files opened later would get the number
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for this process's life


def _run(arguments: list[str]) -> int:
    # a name or an error may hold what a terminal set to another encoding cannot show
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are text files here
    try:
        return _invoke(arguments)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except (BrokenPipeError, KeyboardInterrupt) as error:  # whoever asked wants to hear no more
        return codes.of_error(error)
    except click.ClickException as error:
        return _complain(error.format_message(), codes.USAGE)
    except (BgdError, OSError) as error:
        return _complain(str(error), codes.of_error(error))
    except Exception as error:  # a person at a terminal is not helped by a traceback
        if os.environ.get("BGD_DEBUG"):
            raise
        what = f"bug: {type(error).__name__}: {error} (BGD_DEBUG=1 shows where; please report it)"
        return _complain(what, codes.BUG)


def _invoke(arguments: list[str]) -> int:
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from bgctl.completing import complete  # noqa: PLC0415 - only a shell that completes needs it

        return complete(bgctl, instruction)
    with bgctl.make_context("bgctl", arguments, obj=Common()) as context:
        return bgctl.invoke(context) or 0


def _complain(message: str, code: int) -> int:
    click.echo(f"bgctl: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
