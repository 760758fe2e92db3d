"""Select jobs by id or by filters such as --state and --queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import click
from msgspec import Struct

from bgctl.options import PAST_TIME, QUEUE_NAME, JobIdRanges, chosen_ids, job_ids, with_options
from bgd import Client, Job, State
from bgd.core.filters import STATE_NAMES, named_states
from bgd.wire import requests
from bgd.wire.requests import MAX_LIST

F = TypeVar("F", bound=Callable[..., Any])

_FILTERS = ("states", "queue", "name", "tag", "since")
_PREFIX = "only_"  # of the parameter names, because a verb may have its own option with the same name

_FILTER_OPTIONS = {"queue": ("-q", "--queue"), "name": ("--name",), "tag": ("--tag",)}
# for verbs whose --queue, --name and --tag set properties of jobs
_ALTERNATIVE_FILTER_OPTIONS = {"queue": ("--in-queue",), "name": ("--named",), "tag": ("--tagged",)}


class Selection(Struct, frozen=True):
    """Jobs selected by ids, by filters, or by both: then they must match both."""

    ids: JobIdRanges
    filters: dict[str, Any]

    @property
    def is_empty(self) -> bool:
        """Whether the user gave neither ids nor filters."""
        return not (self.ids or self.is_by_filter)

    @property
    def is_by_filter(self) -> bool:
        return any(self.filters.values())

    def where(self) -> requests.Selection:
        """Return the jobs that the filters select, for the daemon."""
        states, only_suspended = named_states(self.filters["states"])
        others: dict[str, Any] = {name: self.filters[name] for name in _FILTERS if name != "states"}
        return requests.Selection(states=states or None, suspended=only_suspended or None, **others)

    def jobs_in(self, daemon: Client, states: Collection[State]) -> list[Job]:
        """Return all selected jobs, oldest first.

        `states`: the states to select if the user gave no --state.
        """
        filters = self.filters | {"states": self.filters["states"] or states}
        return jobs_matching(daemon, filters, self.ids)[::-1]


def jobs_matching(
    daemon: Client,
    filters: Mapping[str, Any],
    ids: JobIdRanges = (),
    *,
    limit: int | None = None,
    before: int | None = None,
) -> list[Job]:
    """Return the newest jobs that the filters select, at most `limit`; None means all.

    With a limit, and without states, ids and `before`, running jobs are chosen first, then waiting ones.
    """
    names: Sequence[str] = filters["states"] or (() if limit and not ids else tuple(State))
    states, only_suspended = named_states(names)
    among = set(chosen_ids(daemon, ids)) if ids else None
    if among:
        before = min(before or max(among) + 1, max(among) + 1)
    jobs: list[Job] = []
    while limit is None or len(jobs) < limit:
        wanted = MAX_LIST if limit is None or only_suspended or among else limit - len(jobs)
        page = daemon.jobs(**{**filters, "states": states}, limit=wanted, before=before)
        jobs += [
            job
            for job in page
            if (job.suspended or not (only_suspended and job.state is State.RUNNING))
            and (among is None or job.id in among)
        ]
        if len(page) < wanted or (among and page[-1].id <= min(among)):
            break
        before = page[-1].id
    return jobs[:limit]


def with_filters(
    function: Callable[..., int], *, options: Mapping[str, tuple[str, ...]] = _FILTER_OPTIONS
) -> Callable[..., int]:
    """Add the options that filter jobs to a verb, which receives them as `filters` for Client.jobs."""

    @wraps(function)
    def filtering(**given: Any) -> int:
        return function(filters={name: given.pop(f"{_PREFIX}{name}") for name in _FILTERS}, **given)

    return _filter_options(options)(filtering)


def with_selection(
    states: Collection[State], *, may_be_empty: bool = False, has_own_options: bool = False
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add ids and the options that filter jobs to a verb, which receives them as `selection`.

    Args:
        states: shell completion offers jobs in these states.
        may_be_empty: allow a command line that selects no jobs.
        has_own_options: the verb has its own --queue, --name and --tag.
    """
    options = _ALTERNATIVE_FILTER_OPTIONS if has_own_options else _FILTER_OPTIONS

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @wraps(function)
        def selecting(ids: JobIdRanges, filters: dict[str, Any], **given: Any) -> int:
            selection = Selection(ids, filters)
            if selection.is_empty and not may_be_empty:
                choice = ", ".join(["--state", *(spellings[-1] for spellings in options.values()), "--since"])
                raise click.UsageError(f"name jobs by ID (12, 3-9, last) or select them with {choice}")
            return function(selection=selection, **given)

        argument = click.argument("ids", nargs=-1, type=job_ids(states), metavar="[ID]...")
        return argument(with_filters(selecting, options=options))

    return decorate


def _filter_options(options: Mapping[str, tuple[str, ...]]) -> Callable[[F], F]:
    return with_options(
        click.option(
            "--state",
            f"{_PREFIX}states",
            multiple=True,
            type=click.Choice(STATE_NAMES),
            metavar="STATE",
            help="Select jobs in this state, or suspended; may be repeated.",
        ),
        click.option(
            *options["queue"],
            f"{_PREFIX}queue",
            type=QUEUE_NAME,
            metavar="NAME",
            help="Select jobs in this queue.",
        ),
        click.option(
            *options["name"],
            f"{_PREFIX}name",
            metavar="GLOB",
            help="Select jobs by name; * and ? are wildcards.",
        ),
        click.option(*options["tag"], f"{_PREFIX}tag", metavar="TEXT", help="Select jobs with this tag."),
        click.option(
            "--since",
            f"{_PREFIX}since",
            type=PAST_TIME,
            metavar="WHEN",
            help="Select jobs submitted since, for example 2h or 2026-10-01.",
        ),
    )
