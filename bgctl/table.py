"""Tables for a terminal: coloured, and never wider than it is."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgctl.common import has_colors
from bgctl.show import STATE_COLORS

_RIGHT = {"ID", "PRIORITY", "ATTEMPT", "AGE", "TIME"}
_LAST_RESORT = {"COMMAND", "NAME"}  # what is shortened when the terminal is narrow


def print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print one row a line; what does not fit is cut and ends in an ellipsis."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in _RIGHT else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None
            if heading in _LAST_RESORT
            else max([len(heading), *(len(row[headings.index(heading)]) for row in rows)]),
        )
    state = headings.index("STATE")
    for row in rows:
        style = STATE_COLORS.get(row[state], "")
        table.add_row(*(Text(cell, style=style if index == state else "") for index, cell in enumerate(row)))
    Console(no_color=not has_colors(), highlight=False).print(table)
