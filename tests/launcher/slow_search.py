"""A launcher whose search after the loss of its journal is slow: `python -m tests.launcher.slow_search`."""

from __future__ import annotations

import sys

from bgd.launcher import supervisors, sweep
from bgd.launcher.context import Context

SECONDS = 1.0


async def end_strays(store: str, context: Context) -> None:
    """End what a lost journal does not name, after a pause."""
    await context.deadlines.timer(SECONDS)
    await sweep.end_strays(store, context)


if __name__ == "__main__":
    from bgd.launcher.__main__ import main

    vars(supervisors)["end_strays"] = end_strays
    sys.exit(main())
