"""The options that jobs may have: declared once, for new jobs and for changes of those that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import click

from bgctl.ids import Ids, chosen_ids
from bgctl.instants import FutureInstant
from bgctl.kinds import (
    BACKOFF,
    CORE_SIZE,
    DURATION,
    FILE,
    FOLDER,
    MEMORY,
    NAME,
    NICE,
    OPEN_FILES,
    PERCENT,
    PRIORITY,
    PROCESSES,
    QUEUE_NAME,
    RETRIES,
    SHARE,
    SLOTS,
    TIME_LIMIT,
    ExitCodes,
)
from bgctl.selecting import UNFINISHED
from bgd import Client
from bgd.client.limits import MAX_PRIORITY
from bgd.client.options import JobOptions

F = TypeVar("F", bound=Callable[..., Any])


def _assignments(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise click.BadParameter(f"{name!r} is no NAME=VALUE", context, parameter)
    return {name: value for name, _, value in pairs} or None


def _passed(context: click.Context, parameter: click.Parameter, value: str | None) -> str | list[str] | None:
    del context, parameter
    return value if value in (None, "all", "none") else value.split(",")


_CHANGEABLE = [
    click.option(
        "-p",
        "--priority",
        type=PRIORITY,
        metavar="N",
        help=f"Higher runs first: -{MAX_PRIORITY} to {MAX_PRIORITY}, usually 0.",
    ),
    click.option("-q", "--queue", type=QUEUE_NAME, metavar="NAME", help="The lane it waits in."),
    click.option("-n", "--name", type=NAME, metavar="TEXT", help="A name to find it by."),
    click.option(
        "-t", "--tag", "tags", type=NAME, multiple=True, metavar="TEXT", help="A tag; there may be several."
    ),
    click.option("--retries", type=RETRIES, metavar="N", help="Attempts after the first that failed."),
    click.option("--retry-delay", type=DURATION, metavar="D", help="Pause before a retry, as 5s or 2m."),
    click.option("--backoff", type=BACKOFF, metavar="F", help="Each pause is F times the one before."),
    click.option("--max-delay", type=DURATION, metavar="D", help="No pause is longer."),
    click.option("--jitter", type=SHARE, metavar="SHARE", help="Spread pauses by so much, as 0.1."),
    click.option(
        "--retry-on",
        type=ExitCodes(),
        metavar="CODES",
        help="Retry only after these exit codes, as 1,70-79; 128+N: signal N, 124: time limit.",
    ),
    click.option(
        "--no-retry-on", type=ExitCodes(), metavar="CODES", help="Retry after all but these exit codes."
    ),
    click.option(
        "--rerun", type=click.Choice(["yes", "no"]), help="Run it again if nobody saw how it ended."
    ),
    click.option("--timeout", type=TIME_LIMIT, metavar="D", help="End an attempt that takes longer."),
    click.option("--delay", type=DURATION, metavar="D", help="Start no sooner than this from now."),
    click.option(
        "--at",
        type=FutureInstant(),
        metavar="WHEN",
        help="Start no sooner than at 14:30, 'tomorrow 9:00' or '2026-10-01 14:30'; local time, or as in"
        " 2026-10-01T14:30Z. 14:30 is the next one to come.",
    ),
    click.option("--expires", type=TIME_LIMIT, metavar="D", help="Start within this from now, or never run."),
    click.option(
        "--after",
        type=Ids(UNFINISHED),
        multiple=True,
        metavar="ID,...",
        help="Start when these have succeeded.",
    ),
    click.option(
        "--after-any",
        type=Ids(UNFINISHED),
        multiple=True,
        metavar="ID,...",
        help="Start when these have ended, however.",
    ),
    click.option("--slots", type=SLOTS, metavar="N", help="It takes up N slots while it runs."),
    click.option(
        "--cwd",
        type=FOLDER,
        metavar="DIR",
        help="Where it runs; else here, or for a class job where bgd runs.",
    ),
    click.option(
        "-e", "--env", multiple=True, callback=_assignments, metavar="K=V", help="Set a variable for it."
    ),
]
_CHANGEABLE += [
    click.option("--nice", type=NICE, metavar="N", help="-20 to 19: higher leaves more time to others."),
    click.option(
        "--memory-max", type=MEMORY, metavar="SIZE", help="All its processes together may use so much."
    ),
    click.option(
        "--cpu-max",
        type=PERCENT,
        metavar="PERCENT",
        help="Likewise, of one processor: 150 is one and a half.",
    ),
    click.option("--pids-max", type=PROCESSES, metavar="N", help="So many processes and threads at a time."),
    click.option("--open-files", type=OPEN_FILES, metavar="N", help="Descriptors of each process."),
    click.option("--core-max", type=CORE_SIZE, metavar="SIZE", help="Of a core file; 0: none is written."),
    click.option(
        "--keep-leftovers", is_flag=True, help="Leave running what it leaves running when it ends by itself."
    ),
]
_OF_NEW_JOBS = [
    click.option(
        "--env-pass", callback=_passed, metavar="all|none|NAMES", help="Which of your variables it gets."
    ),
    click.option("--hold", is_flag=True, help="It waits until it is released."),
    click.option(
        "--key",
        type=NAME,
        metavar="TEXT",
        help="While an unfinished job has this key, name that one; queue no other.",
    ),
]
_ISOLATION = click.option(
    "--isolation",
    type=click.Choice(["fork", "spawn", "reuse"]),
    help="Fork it from a warm interpreter, start a fresh one, or run it in one that is reused.",
)
_PTY = click.option("--pty", is_flag=True, help="It gets a terminal of its own.")
_OF_NEW_COMMANDS = [
    click.option(
        "--stdin", type=FILE, metavar="FILE|-", help="It reads this file; -: what bgctl can read now."
    ),
    _PTY,
]
_OF_COMMANDS = [click.option("--stdin", type=FILE, metavar="FILE", help="It reads this file."), _PTY]


def with_call_options(function: F) -> F:
    """Give a verb the options of a new class job, likewise."""
    return _with(function, [*_CHANGEABLE, *_OF_NEW_JOBS, _ISOLATION])


def with_command_options(function: F) -> F:
    """Give a verb the options of a new command."""
    return _with(function, _CHANGEABLE + _OF_NEW_JOBS + _OF_NEW_COMMANDS)


def with_changeable_options(function: F) -> F:
    """Give a verb the options that can change while a job waits."""
    return _with(function, [*_CHANGEABLE, *_OF_COMMANDS, _ISOLATION])


def job_options(daemon: Client, given: dict[str, Any]) -> JobOptions:
    """Return what was given, as the client takes it; what was not given is left out.

    Raises:
        NoSuchJob: it is to wait for the latest job, and there is none.
    """
    options = {key: value for key, value in given.items() if _is_given(value)}
    for one, other in (("delay", "at"), ("retry_on", "no_retry_on")):
        if one in options and other in options:
            raise click.UsageError(f"{_spelled(one)} and {_spelled(other)} exclude each other")
    if "rerun" in options:
        options["rerun"] = options["rerun"] == "yes"
    for key in options.keys() & {"after", "after_any"}:
        options[key] = chosen_ids(daemon, options[key])
    return cast(JobOptions, options)


def _spelled(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != ()


def _with(function: F, options: Sequence[Callable[[F], F]]) -> F:
    for add in reversed(options):
        function = add(function)
    return function
