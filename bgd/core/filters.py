"""Filters of jobs: what pages take as `queue:mail since:2h`, and bgctl as `--queue mail --since 2h`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Annotated, Any

from msgspec import Meta

from bgd.core.job import State
from bgd.core.spec import QUEUE_NAME, Priority, QueueName, text_reader, whole_number_reader
from bgd.units import parse_past_time

SUSPENDED = "suspended"  # a running job whose processes are stopped
STATE_NAMES = (*map(str, State), SUSPENDED)
"""The states that users may name."""


def named_states(names: Collection[str]) -> tuple[list[State], bool]:
    """Return the states with these names, and whether only suspended running jobs match."""
    only_suspended = SUSPENDED in names and State.RUNNING not in names
    return [
        each for each in State if each in names or (only_suspended and each is State.RUNNING)
    ], only_suspended


read_queue = text_reader(QueueName, f"a queue: {QUEUE_NAME}")
_read_exit_code = whole_number_reader(Annotated[int, Meta(ge=0, le=255)])
_read_priority = whole_number_reader(Priority)

FILTERS: dict[str, Callable[[str, float], Any]] = {
    "state": lambda text, _: text,
    "queue": lambda text, _: read_queue(text),
    "name": lambda text, _: text,
    "tag": lambda text, _: text,
    "class": lambda text, _: text,
    "exit": lambda text, _: _read_exit_code(text),
    "since": parse_past_time,
    "until": parse_past_time,
    "priority": lambda text, _: _read_priority(text),
}
"""What a filter can compare, each with the reader of its value, which takes the text and the time now."""


def exact_name(name: str) -> str:
    """Return the shell pattern that matches only this name."""
    return re.sub(r"[*?[]", r"[\g<0>]", name)
