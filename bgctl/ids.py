"""Job ids as people write them: 12, 3-9, last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from bgd import Client
from bgd.wire.requests import MAX_IDS

LAST = range(0)  # stands for the caller's latest job, whichever that is

_ID = re.compile(r"([1-9][0-9]{0,17})(?:-([1-9][0-9]{0,17}))?")


class Ids(click.ParamType[range]):
    """One word of ids."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """Read "12", "3-9" or "last"."""
        if isinstance(value, range):
            return value
        if value == "last":
            return LAST
        match = _ID.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no job id: write 12, 3-9 or last", param, ctx)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_IDS:
            self.fail(f"{value!r} is no range of at most {MAX_IDS} ids, the smaller first", param, ctx)
        return range(first, last + 1)


def chosen_ids(daemon: Client, words: Sequence[range]) -> list[int]:
    """Return the ids that were named, each once, in this order; if none was, the caller's latest job's.

    Raises:
        NoSuchJob: the latest was asked for, and there is none.
    """
    ids: dict[int, None] = {}
    for word in words or [LAST]:
        ids |= dict.fromkeys(word or [daemon.job().id])
    return list(ids)
