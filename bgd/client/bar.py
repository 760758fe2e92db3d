"""A progress bar on the terminal that counts jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Counts some jobs, and how many of them failed."""


@contextmanager
def progress_bar(title: str, total: int | None, *, wanted: bool | None) -> Iterator[Advance]:
    """Draw a bar on stderr until the block ends; yield the function that advances it.

    Args:
        title: what the bar begins with.
        total: number of jobs, None: unknown.
        wanted: whether to draw it. None: if stderr is a terminal.
    """
    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    if wanted:
        with _drawn(title, total) as advance:
            yield advance
    else:
        yield _ignore


def _ignore(_: int, __: int) -> None: ...


@contextmanager
def _drawn(title: str, total: int | None) -> Iterator[Advance]:
    # programs without a bar need not wait for this import
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    time_column = TimeElapsedColumn() if total is None else TimeRemainingColumn(elapsed_when_finished=True)
    failed_column = TextColumn("[red]{task.fields[failed]}")
    columns = (TextColumn(escape(title)), BarColumn(), MofNCompleteColumn(), failed_column, time_column)
    # rich prints the program's own output above the bar, which is wrong if that output goes to a file
    is_shown = sys.stdout is not None and sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=is_shown) as progress:
        task = progress.add_task("", total=total, failed="")
        failed = 0

        def advance(jobs: int, more_failed: int) -> None:
            nonlocal failed
            failed += more_failed
            progress.update(task, advance=jobs, failed=f"{failed} failed" if failed else "")

        yield advance
