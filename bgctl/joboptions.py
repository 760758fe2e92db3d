"""The options that every new job may have: what people write, made into what the client takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import click
import msgspec

from bgd.client.limits import (
    MAX_DURATION,
    MAX_NAME,
    MAX_PRIORITY,
    MAX_RETRIES,
    Backoff,
    Name,
    Priority,
    QueueName,
    Retries,
    Share,
)
from bgd.client.options import JobOptions
from bgd.units import format_duration, parse_duration

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A duration as in the configuration, in seconds."""

    name = "duration"

    def __init__(self, *, may_be_zero: bool = True) -> None:
        self._may_be_zero = may_be_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read "90", "5s" or "1h30m"."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds > MAX_DURATION:
            self.fail(f"{value!r} is too long: at most {format_duration(MAX_DURATION)}", param, ctx)
        if not (seconds or self._may_be_zero):
            self.fail("it must be more than 0; without the option there is no limit", param, ctx)
        return seconds


DURATION = Duration()


class Bounded(click.ParamType[Any]):
    """What must be as a job's own type says.

    Args:
        kind: that type.
        rule: what it wants, in words.
    """

    name = "bounded"

    def __init__(self, kind: Any, rule: str) -> None:
        self._kind = kind
        self._rule = rule

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as a job takes it."""
        try:
            return msgspec.convert(value, self._kind, strict=False)  # a number comes as text
        except msgspec.ValidationError:
            self.fail(f"{value!r} is not {self._rule}", param, ctx)


_NAME = Bounded(Name, f"a text of 1 to {MAX_NAME} characters")
QUEUE_NAME = Bounded(QueueName, "a queue's name: letters, digits, . _ -, at most 64, first a letter or digit")
_PRIORITY = Bounded(Priority, f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")
_RETRIES = Bounded(Retries, f"a whole number from 0 to {MAX_RETRIES}")
_BACKOFF = Bounded(Backoff, "a number from 1 to 100")
_SHARE = Bounded(Share, "a number from 0 to 1")


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


_OPTIONS = [
    click.option(
        "-p",
        "--priority",
        type=_PRIORITY,
        metavar="N",
        help=f"Higher runs first: -{MAX_PRIORITY} to {MAX_PRIORITY}, usually 0.",
    ),
    click.option("-q", "--queue", type=QUEUE_NAME, metavar="NAME", help="The lane it waits in."),
    click.option("-n", "--name", type=_NAME, metavar="TEXT", help="A name to find it by."),
    click.option(
        "-t",
        "--tag",
        "tags",
        type=_NAME,
        multiple=True,
        metavar="TEXT",
        help="A tag; may be given several times.",
    ),
    click.option(
        "--retries",
        type=_RETRIES,
        metavar="N",
        help="Attempts after the first that failed.",
    ),
    click.option("--retry-delay", type=DURATION, metavar="D", help="Pause before a retry, as 5s or 2m."),
    click.option("--backoff", type=_BACKOFF, metavar="F", help="Each pause is F times the one before."),
    click.option("--max-delay", type=DURATION, metavar="D", help="No pause is longer."),
    click.option("--jitter", type=_SHARE, metavar="SHARE", help="Spread pauses by so much, as 0.1."),
    click.option(
        "--rerun", type=click.Choice(["yes", "no"]), help="Run it again if nobody saw how it ended."
    ),
    click.option(
        "--timeout",
        type=Duration(may_be_zero=False),
        metavar="D",
        help="End an attempt that takes longer.",
    ),
    click.option("--delay", type=DURATION, metavar="D", help="Start no sooner than this from now."),
    click.option("--cwd", metavar="DIR", help="Where it runs; else here, or for a class job where bgd runs."),
    click.option(
        "-e", "--env", multiple=True, callback=_assignments, metavar="K=V", help="Set a variable for it."
    ),
    click.option(
        "--env-pass", callback=_passed, metavar="all|none|NAMES", help="Which of your variables it gets."
    ),
]


def with_job_options(function: F) -> F:
    """Give a verb the options of a new job; it takes them as keywords and hands them to `job_options`."""
    for add in reversed(_OPTIONS):
        function = add(function)
    return function


def job_options(given: dict[str, Any]) -> JobOptions:
    """Return what was given, as the client takes it; what was not given is left out."""
    options = {key: value for key, value in given.items() if value is not None and value != ()}
    if "rerun" in options:
        options["rerun"] = options["rerun"] == "yes"
    return cast(JobOptions, options)
