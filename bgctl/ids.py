"""Job ids as people write them: 12, 3-9, last."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from bgd import Client, State
from bgd.wire.requests import MAX_IDS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

LAST = range(0)  # stands for the caller's latest job, whichever that is

Words = tuple[tuple[range, ...], ...]  # ids as they were written: words, and what is in each

_ID = r"([1-9][0-9]{0,17})(?:-([1-9][0-9]{0,17}))?"


class Ids(click.ParamType[tuple[range, ...]]):
    """One word of ids.

    Args:
        states: in which jobs are that a shell offers; None: any.
    """

    name = "id"

    def __init__(self, states: Collection[State] | None = None) -> None:
        self._states = states

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[range, ...]:
        """Read "12", "3-9", "last", or several of these with commas between them."""
        if isinstance(value, tuple):
            return value
        return tuple(self._converted(each.strip(), param, ctx) for each in value.split(","))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the latest jobs of the daemon, if one answers."""
        del param
        from bgctl.completing import jobs_like  # noqa: PLC0415 - only a shell that completes needs it

        return jobs_like(ctx, incomplete, self._states)

    def _converted(self, word: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if word == "last":
            return LAST
        match = re.fullmatch(_ID, word)
        if match is None:
            self.fail(f"{word!r} is no job id: write 12, 3-9 or last", param, ctx)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_IDS:
            self.fail(f"{word!r} is no range of at most {MAX_IDS} ids, the smaller first", param, ctx)
        return range(first, last + 1)


def chosen_ids(daemon: Client, words: Words) -> list[int]:
    """Return the ids that were named, each once, in this order; if none was, the caller's latest job's.

    Raises:
        NoSuchJob: the latest was asked for, and there is none.
    """
    ids: dict[int, None] = {}
    for word in words or ((LAST,),):
        for part in word:
            ids |= dict.fromkeys(part or [daemon.job().id])
    return list(ids)
