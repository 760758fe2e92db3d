"""The bar: how far many jobs have come, for who looks at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bgd.core.job import State

Tell = Callable[[State], None]
"""It is told in which state a job has finished."""


@contextmanager
def bar(title: str, total: int | None, *, wanted: bool | None) -> Iterator[Tell]:
    """Draw a bar on stderr, until the block ends; what it yields moves it on.

    Args:
        title: what stands in front of it.
        total: how many jobs there will be, None: nobody knows.
        wanted: None: if stderr is a terminal.
    """
    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    if wanted:
        with _drawn(title, total) as tell:
            yield tell
    else:
        yield _tell_nobody


def _tell_nobody(_: State) -> None: ...


@contextmanager
def _drawn(title: str, total: int | None) -> Iterator[Tell]:
    # who looks at no bar shall not wait for its import
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
    # what the program prints goes above the bar, unless it goes elsewhere
    is_shown = sys.stdout is not None and sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=is_shown) as progress:
        task = progress.add_task("", total=total, failed="")
        failed = 0

        def tell(state: State) -> None:
            nonlocal failed
            failed += state is not State.SUCCEEDED
            progress.update(task, advance=1, failed=f"{failed} failed" if failed else "")

        yield tell
