"""A table of jobs for a terminal: coloured, and never wider than the terminal is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgctl.common import has_colors
from bgctl.show import STATE_COLORS

_GAP = 2  # blanks between columns
_LEAST = 10  # cells; a narrower command says nothing, so a tiny terminal has to wrap
_LONGEST_NAME = 20
_RIGHT = {"ID", "PRIORITY", "ATTEMPT", "AGE", "TIME"}


def print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print one job a line; names, and commands by what is left, are cut and end in an ellipsis.

    A column of names in which there is none is left out.
    """
    columns = {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}
    if not set(columns["NAME"]) - {"-"}:
        del columns["NAME"]
    console = Console(color_system="auto" if has_colors() else None, highlight=False)
    widths = {
        heading: max(map(len, [heading, *cells]))
        for heading, cells in columns.items()
        if heading != "COMMAND"
    }
    if "NAME" in widths:
        widths["NAME"] = min(widths["NAME"], _LONGEST_NAME)
    widths["COMMAND"] = max(console.width - sum(widths.values()) - _GAP * len(widths), _LEAST)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(_text(*named, widths) for named in zip(columns, cells, strict=True)))
    console.print(table)


def _text(heading: str, cell: str, widths: dict[str, int]) -> Text:
    text = Text(cell, style=STATE_COLORS.get(cell, "") if heading == "STATE" else "")
    text.truncate(widths[heading], overflow="ellipsis")
    return text
