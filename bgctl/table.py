"""A table of jobs for a terminal: coloured, and never wider than the terminal is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgctl.common import STATE_COLORS, has_colors

_GAP = 2  # blanks between columns
_LEAST = 10  # cells; a narrower command says nothing
_ENOUGH = 20  # cells; a narrower one says little
_LONGEST = {"NAME": 20, "PROGRESS": 24}
_RIGHT = {"ID", "PRIORITY", "ATTEMPT", "AGE", "TIME"}
_USUAL = {"QUEUE": "default", "PRIORITY": "0"}
_EXPENDABLE = ("AGE", "TIME", "PRIORITY", "QUEUE", "NAME", "PROGRESS")  # the first is missed least


def print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print one job a line; names, and commands by what is left, are cut and end in an ellipsis.

    A column of names in which there is none is left out, and others where the terminal is too narrow for
    them: first what says nothing, then what is missed least. Ids and states are always whole.
    """
    columns = {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}
    if not set(columns["NAME"]) - {"-"}:
        del columns["NAME"]
    console = Console(color_system="auto" if has_colors() else None, highlight=False)
    widths = _fitting(columns, console.width)
    # a terminal that is narrower still has to wrap: rich would cut ids
    console.width = max(console.width, sum(widths.values()) + _GAP * (len(widths) - 1))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for heading in widths:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", no_wrap=True)
    for cells in zip(*(columns[heading] for heading in widths), strict=True):
        table.add_row(*(_text(*named, widths) for named in zip(widths, cells, strict=True)))
    console.print(table)


def _fitting(columns: dict[str, list[str]], width: int) -> dict[str, int]:
    """Return the columns for which there is room, in order, and how wide each is."""
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    for heading in widths.keys() & _LONGEST:
        widths[heading] = min(widths[heading], _LONGEST[heading])
    longest = widths.pop("COMMAND")
    silent = [heading for heading, usual in _USUAL.items() if set(columns[heading]) == {usual}]
    wanted = [(heading, _ENOUGH) for heading in (*silent, "ATTEMPT")]
    for heading, cells in (*wanted, *((heading, _LEAST) for heading in _EXPENDABLE)):
        if _left(widths, width) < min(cells, longest):
            widths.pop(heading, None)
    return widths | {"COMMAND": max(_left(widths, width), _LEAST)}


def _left(widths: dict[str, int], width: int) -> int:
    return width - sum(widths.values()) - _GAP * len(widths)


def _text(heading: str, cell: str, widths: dict[str, int]) -> Text:
    text = Text(cell, style=STATE_COLORS.get(cell, "") if heading == "STATE" else "")
    text.truncate(widths[heading], overflow="ellipsis")
    return text
