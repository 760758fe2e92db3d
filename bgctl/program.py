"""The program: finds the verb, and turns every error into one line and an exit code."""

from __future__ import annotations

import os
import sys

import click

from bgctl import codes
from bgctl.common import COMPLETION_VARIABLE, GlobalOptions
from bgctl.verbs import bgctl
from bgd.errors import BgdError, shorten
from bgd.escape import one_line


def run(arguments: list[str]) -> int:
    """Do what was typed; return the exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return codes.BROKEN_PIPE
    except OSError as error:  # as of a full disk
        return _complain(f"cannot write to stdout: {error.strerror}", codes.of_error(error))
    return code


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
        return _complain(_worded(error), codes.USAGE)
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
    with bgctl.make_context("bgctl", arguments, obj=GlobalOptions()) as context:
        return bgctl.invoke(context) or 0


def _worded(error: click.ClickException) -> str:
    """Return what click says, and where one can see how it is meant."""
    if isinstance(error, click.MissingParameter) and error.ctx is not None:
        return f"{error.format_message()} See '{error.ctx.command_path} --help'."
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        return _of_another_verb(error.option_name, error.ctx) or error.format_message()
    return error.format_message()


def _of_another_verb(option: str, context: click.Context) -> str | None:
    """Say which other verb for new jobs has this option; None: none has, or this verb is none of them."""
    own = context.info_name
    if own == "run" and option in _WAITING:
        return f"{option} is for submit: run shows the output and waits for the end by itself"
    if own not in _NEW_JOBS:
        return None
    for verb, kind in _NEW_JOBS.items():
        command = bgctl.get_command(context, verb)
        if command is not None and any(option in each.opts for each in command.params):
            return f"{option} is for {kind}: see 'bgctl {verb} --help'"
    return None


_NEW_JOBS = {"submit": "commands", "call": "class jobs", "run": "commands"}
_WAITING = ("--wait", "--follow", "-f")


def _complain(message: str, code: int) -> int:
    click.echo(f"bgctl: {shorten(one_line(' '.join(message.split())))}", err=True)
    return code
