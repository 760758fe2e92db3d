"""Conversations that were recorded between real programs of launching protocol 5, to be replayed.

The files are never changed: they are what launchers say that outlive an upgrade. Each line is a message of
the supervisor (>) or of the launcher (<). `launcher_5` is a daemon with its launcher, the others are a
launcher with a pilot: `pilot_5_early` from when pilots did not answer KeepAlive, and their launchers sent one
after each Ready; `pilot_5_late` from when pilots answered each KeepAlive with Ready.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec

from tests.support import has_all_of

SAMPLES = Path(__file__).parent / "samples" / "conversations"
SUPERVISOR, LAUNCHER = ">", "<"
# what differs from run to run
_VOLATILE = {
    *("protocol", "instance", "pid", "abilities", "started_at", "finished_at", "since", "run_seconds"),
    *("user_seconds", "system_seconds", "max_rss_bytes", "env", "umask", "generation", "position", "node"),
}


def recorded(name: str, store: str) -> list[tuple[str, dict[str, Any]]]:
    """Return who says what, with this store in place of the one of then."""
    lines = (SAMPLES / f"{name}.txt").read_text().replace("teststore", store).splitlines()
    return [(line[0], ast.literal_eval(line[2:])) for line in lines]


def says_the_same(message: msgspec.Struct, then: dict[str, Any]) -> bool:
    """Return whether a message of today says all that a recorded one said, except what no two runs share."""
    now = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    return has_all_of(now, {name: value for name, value in then.items() if name not in _VOLATILE})
