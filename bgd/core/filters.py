"""Parts of job filters on pages and in bgctl: names of states, and patterns for names."""

from __future__ import annotations

import re
from collections.abc import Collection

from bgd.core.job import State

SUSPENDED = "suspended"  # a running job whose processes are stopped
STATE_NAMES = (*map(str, State), SUSPENDED)
"""The states that users may name."""


def named_states(names: Collection[str]) -> tuple[list[State], bool]:
    """Return the states with these names, and whether only suspended running jobs match."""
    only_suspended = SUSPENDED in names and State.RUNNING not in names
    return [
        each for each in State if each in names or (only_suspended and each is State.RUNNING)
    ], only_suspended


def exact_name(name: str) -> str:
    """Return the shell pattern that matches only this name."""
    return re.sub(r"[*?[]", r"[\g<0>]", name)
