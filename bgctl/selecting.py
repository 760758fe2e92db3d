"""Selections: the jobs that a verb is about, named by id or by what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, TypeVar

import click
from msgspec import Struct

from bgctl.options import QUEUE_NAME, JobIdRanges, JobIdsType, PastTimeType
from bgd import Client, Job, State
from bgd.wire.requests import MAX_LIST

F = TypeVar("F", bound=Callable[..., Any])

_FILTERS = ("states", "queue", "name", "tag", "since")
_PREFIX = "only_"  # of what click calls them: a verb may have options of its own that are called the same

_USUAL_OPTIONS = {"queue": "--queue", "name": "--name", "tag": "--tag"}
# of a verb whose --queue, --name and --tag say what jobs are to have
_OTHER_OPTIONS = {"queue": "--in-queue", "name": "--named", "tag": "--tagged"}


class Selection(Struct, frozen=True):
    """Jobs by id, or by the filters of `list`; never both."""

    ids: JobIdRanges
    filters: dict[str, Any]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said at all."""
        return not (self.ids or self.is_by_filter)

    @property
    def is_by_filter(self) -> bool:
        return any(self.filters.values())

    def jobs_in(self, daemon: Client, states: Collection[State]) -> list[Job]:
        """Return the jobs selected, oldest first, however many there are.

        `states`: in which they are, unless the selection says in which.
        """
        filters = self.filters | {"states": self.filters["states"] or states}
        jobs: list[Job] = []
        while True:
            page = daemon.jobs(**filters, limit=MAX_LIST, before=jobs[-1].id if jobs else None)
            jobs += page
            if len(page) < MAX_LIST:
                return jobs[::-1]


def with_filters(
    function: Callable[..., int], *, options: Mapping[str, str] = _USUAL_OPTIONS
) -> Callable[..., int]:
    """Give a verb the options that select jobs; it takes them as one `filters`, by what `jobs` calls them."""

    @wraps(function)
    def filtering(**given: Any) -> int:
        return function(filters={name: given.pop(f"{_PREFIX}{name}") for name in _FILTERS}, **given)

    decorated: Callable[..., int] = filtering
    for add in reversed(_filter_options(options)):
        decorated = add(decorated)
    return decorated


def with_selection(
    states: Collection[State], *, may_be_nothing: bool = False, has_own_options: bool = False
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a verb ids or the options that select jobs; it takes them as one `selection`.

    Args:
        states: in which are jobs that a shell offers.
        may_be_nothing: naming no job is no mistake.
        has_own_options: the verb's own --queue, --name and --tag mean something else.
    """
    options = _OTHER_OPTIONS if has_own_options else _USUAL_OPTIONS

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @wraps(function)
        def selecting(ids: JobIdRanges, filters: dict[str, Any], **given: Any) -> int:
            selection = Selection(ids, filters)
            if selection.ids and selection.is_by_filter:
                raise click.UsageError("ids and a selection exclude each other: give either")
            if selection.is_empty and not may_be_nothing:
                choice = ", ".join(["--state", *options.values(), "--since"])
                raise click.UsageError(f"name jobs by ID (12, 3-9, last) or select them: {choice}")
            return function(selection=selection, **given)

        argument = click.argument("ids", nargs=-1, type=JobIdsType(states), metavar="[ID]...")
        return argument(with_filters(selecting, options=options))

    return decorate


def _filter_options(options: Mapping[str, str]) -> list[Callable[[F], F]]:
    return [
        click.option(
            "--state",
            f"{_PREFIX}states",
            multiple=True,
            type=click.Choice([str(state) for state in State]),
            metavar="STATE",
            help="In this state, as failed; several may be given.",
        ),
        click.option(
            options["queue"], f"{_PREFIX}queue", type=QUEUE_NAME, metavar="NAME", help="In this queue."
        ),
        click.option(
            options["name"],
            f"{_PREFIX}name",
            metavar="GLOB",
            help="Whose name is like this: * and ? stand for anything.",
        ),
        click.option(options["tag"], f"{_PREFIX}tag", metavar="TEXT", help="With this tag."),
        click.option(
            "--since",
            f"{_PREFIX}since",
            type=PastTimeType(),
            metavar="WHEN",
            help="Submitted since 2h ago, or since 2026-10-01.",
        ),
    ]
