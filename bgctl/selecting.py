"""Select jobs by id or by filters such as --state and --queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

import click
from msgspec import Struct

from bgctl.columns import group_of
from bgctl.options import PAST_TIME, QUEUE_NAME, JobIdRanges, chosen_ids, with_ids, with_options
from bgd import Client, Job, State
from bgd.core.filters import STATE_NAMES, named_states
from bgd.wire import requests
from bgd.wire.requests import MAX_LIST

# The filters that bgctl has, each with its type, metavar and help
_FILTERS: dict[str, tuple[Any, str, str]] = {
    "states": (
        click.Choice(STATE_NAMES),
        "STATE",
        "Select jobs in this state, or suspended; may be repeated.",
    ),
    "queue": (QUEUE_NAME, "NAME", "Select jobs in this queue."),
    "name": (None, "GLOB", "Select jobs by name; * and ? are wildcards."),
    "tag": (None, "TEXT", "Select jobs with this tag."),
    "since": (PAST_TIME, "WHEN", "Select jobs submitted since, for example 2h or 2026-10-01."),
    "until": (PAST_TIME, "WHEN", "Select jobs submitted before, for example 1h or yesterday."),
    "words": (None, "WORDS", "Select jobs as on the page, for example 'error:x -queue:mail'."),
}
_PREFIX = "only_"  # of the parameter names, because a verb may have its own option with the same name

_USUAL_SPELLINGS = {"states": ["--state"], "queue": ["-q", "--queue"], "words": ["--filter"]}
# for verbs whose --queue, --name and --tag set properties of jobs
_OTHER_SPELLINGS = _USUAL_SPELLINGS | {"queue": ["--in-queue"], "name": ["--named"], "tag": ["--tagged"]}


Verb = Callable[..., int | None]  # its first argument is a client


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
        others = self.filters | {"states": states or None, "suspended": only_suspended or None}
        return requests.Selection(**others)

    def ids_in(self, daemon: Client, states: Collection[State]) -> list[int]:
        """Return the ids of all selected jobs; without filters, of those that were named.

        `states`: the states to select if the user gave filters without --state.
        """
        if not self.is_by_filter:
            return chosen_ids(daemon, self.ids)
        filters = self.filters | {"states": self.filters["states"] or states}
        return [job.id for job in reversed(jobs_matching(daemon, filters, self.ids))]


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


def all_matching(
    daemon: Client, filters: dict[str, Any], ids: JobIdRanges = (), before: int | None = None
) -> Iterator[Job]:
    """Yield all jobs that the filters select, however many, and each once.

    They come in pages. Without `before`, running and waiting jobs come first in the first page, which is one
    answer of the daemon: no job is left out because it starts or ends meanwhile.
    """
    page = jobs_matching(daemon, filters, ids, limit=MAX_LIST, before=before)
    first = {job.id for job in page}
    yield from page if before else sorted(page, key=lambda job: group_of(job.view))
    filters = filters | {"states": filters["states"] or tuple(State)}  # by id alone
    while len(page) == MAX_LIST:
        page = jobs_matching(daemon, filters, ids, limit=MAX_LIST, before=before)
        yield from (job for job in page if job.id not in first)
        before = page[-1].id if page else None


def with_filters(function: Verb, *, spellings: Mapping[str, list[str]] = _USUAL_SPELLINGS) -> Verb:
    """Add the options that filter jobs to a verb, which receives them as `filters` for Client.jobs."""

    @wraps(function)
    def filtering(daemon: Client, **given: Any) -> int | None:
        return function(daemon, filters={name: given.pop(f"{_PREFIX}{name}") for name in _FILTERS}, **given)

    options = (
        click.option(
            *spellings.get(name, [f"--{name}"]),
            f"{_PREFIX}{name}",
            multiple=name == "states",
            type=kind,
            metavar=metavar,
            help=purpose,
        )
        for name, (kind, metavar, purpose) in _FILTERS.items()
    )
    return with_options(*options)(filtering)


def with_selection(
    states: Collection[State], *, may_be_empty: bool = False, has_own_options: bool = False
) -> Callable[[Verb], Verb]:
    """Add ids and the options that filter jobs to a verb, which receives them as `selection`.

    Args:
        states: shell completion offers jobs in these states.
        may_be_empty: allow a command line that selects no jobs.
        has_own_options: the verb has its own --queue, --name and --tag.
    """
    spellings = _OTHER_SPELLINGS if has_own_options else _USUAL_SPELLINGS

    def decorate(function: Verb) -> Verb:
        @wraps(function)
        def selecting(
            daemon: Client, *, ids: JobIdRanges, filters: dict[str, Any], **given: Any
        ) -> int | None:
            selection = Selection(ids, filters)
            if selection.is_empty and not may_be_empty:
                choice = ", ".join(spellings.get(name, [f"--{name}"])[-1] for name in _FILTERS)
                raise click.UsageError(f"name jobs by ID (12, 3-9, last) or select them with {choice}")
            return function(daemon, selection=selection, **given)

        return with_ids(states)(with_filters(selecting, spellings=spellings))

    return decorate
