"""What all verbs have in common: the global options, the way to the daemon, and how things are said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click
from msgspec import Struct
from msgspec.structs import replace

from bgctl.options import FILE
from bgd.client import Client
from bgd.escape import one_line

F = TypeVar("F", bound=Callable[..., Any])

COMPLETION_VARIABLE = "_BGCTL_COMPLETE"  # in which a shell says what it wants completed

_SEE_ALSO = "Global options too: --socket, --config, --user, --system, --json, --color; see 'bgctl --help'."


class Common(Struct, frozen=True, kw_only=True):
    """The global options as they were given, before the verb or after it."""

    socket: str | None = None
    config: str | None = None
    user: bool = False
    system: bool = False
    json: bool = False
    color: str = "auto"


def common() -> Common:
    """Return the global options of this call."""
    options = click.get_current_context().find_root().obj
    assert isinstance(options, Common)  # noqa: S101 - bgctl.__main__ puts it there
    return options


def client(*, autostart: bool = False) -> Client:
    """Return the way to the daemon that the global options name.

    `autostart`: the caller's own daemon is started if it is down.
    """
    options = common()
    if options.user and options.system:
        raise click.UsageError("--user and --system exclude each other")
    return Client(
        options.socket,
        autostart=autostart,
        config=options.config,
        user=options.user,
        system=options.system,
        on_autostart=lambda pid, log: say(f"started a daemon for you (pid {pid}, log {log})"),
    )


def say(message: str) -> None:
    """Tell the person something that is no data."""
    click.echo(f"bgctl: {one_line(message)}", err=True)


def is_terminal() -> bool:
    """Tell whether a person reads stdout: tables are for people, columns for programs."""
    return sys.stdout.isatty()


def has_colors() -> bool:
    """Tell whether colours may go to stdout."""
    match common().color:
        case "always":
            return True
        case "never":
            return False
        case _:
            return is_terminal() and not os.environ.get("NO_COLOR")  # https://no-color.org


def verb(
    name: str, *examples: str, ends_options: bool = False, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., int]], click.Command]:
    """Make a function a verb: the global options are taken care of, its result is the exit code.

    `ends_options`: what follows the first argument is that program's own, options included.
    """
    settings: dict[str, object] = {"allow_interspersed_args": not ends_options}
    epilog = "\n  ".join(["\b\nExamples:", *examples]) + f"\n\n{_SEE_ALSO}"

    def decorate(function: Callable[..., int]) -> click.Command:
        with_all = with_common_options(hidden=True)(function)
        return click.command(name, cls, context_settings=settings, epilog=epilog)(with_all)

    return decorate


def with_common_options(*, hidden: bool) -> Callable[[F], F]:
    """Give a command the global options; `hidden` keeps them out of its help."""
    option = partial(click.option, expose_value=False, callback=_remember, hidden=hidden)
    options = [
        option(
            "--socket",
            type=FILE,
            metavar="PATH",
            help="The daemon's socket; else $BGD_SOCKET, else the usual places.",
        ),
        option("--config", type=FILE, metavar="FILE", help="Configuration that says where the daemon is."),
        option("--user", is_flag=True, help="Only your own daemon."),
        option("--system", is_flag=True, help="Only the system's daemon."),
        option(
            "--json",
            is_flag=True,
            help="JSON on stdout, one document, or one a line where things come in turn.",
        ),
        option("--color", type=click.Choice(["auto", "always", "never"]), help="When to use colours."),
    ]

    def decorate(function: F) -> F:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value and parameter.name:  # not given here: what stood before the verb stays
        root = context.find_root()
        root.obj = replace(root.obj, **{parameter.name: value})
