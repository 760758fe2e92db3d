"""Show lines of output as HTML: colours and styles are class names of a closed set."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from operator import itemgetter

from markupsafe import Markup, escape

from bgd.text.terminal import FORE, STYLES, Line, Terminal, attributes_of

Place = tuple[int, int]
"""Where a text begins and ends in a line."""


def as_markup(text: str) -> Markup:
    """Return output as HTML, with colours as spans and everything else as text."""
    terminal = Terminal()
    return Markup("\n").join(line_markup(line) for line in [*terminal.feed(text), terminal.end()])


def line_markup(
    line: Line, marked: Sequence[Place] = (), current: int | None = None, *, has_links: bool = True
) -> Markup:
    """Return one line as HTML, without its end. Addresses of http and https are links.

    The text between each of the places `marked` is marked; the mark of the `current` one can be linked to.
    """
    text = "".join(text for text, _ in line)
    links = [found.span() for found in _ADDRESS.finditer(text)] if has_links and "://" in text else []
    if not (marked or links):
        return Markup("".join(_styled(escape(text), style) for text, style in line))  # noqa: S704
    ends = [*accumulate(len(text) for text, _ in line)]
    runs = [*pairwise([0, *ends])]
    pieces: list[str] = []
    for begin, end in pairwise(sorted({*chain(*runs, *links, *marked)})):
        piece = _styled(escape(text[begin:end]), line[_place_at(begin, runs)][1])
        if (place := _place_at(begin, links)) >= 0:
            address = escape(text[slice(*links[place])])
            piece = f'<a class="address" href="{address}" rel="noopener noreferrer">{piece}</a>'
        if (place := _place_at(begin, marked)) >= 0:
            is_first = place == current and begin == marked[place][0]
            piece = f'<mark id="found" tabindex="-1">{piece}</mark>' if is_first else f"<mark>{piece}</mark>"
        pieces.append(piece)
    return Markup("".join(pieces))  # noqa: S704 - only the text is a stranger's, and it is escaped


def _styled(text: str, style: str) -> str:
    return f'<span class="{_classes(style)}">{text}</span>' if style else text


def _place_at(index: int, places: Sequence[Place]) -> int:
    """Return the number of the place that an index is in; -1: of none."""
    number = bisect_right(places, index, key=itemgetter(0)) - 1
    return number if number >= 0 and index < places[number][1] else -1


# An address ends before white space, quotes and brackets, and before punctuation that ends a sentence
_ADDRESS = re.compile(r"\bhttps?://[\w.~:/?#@!$&*+,;=%()-]*[\w~/#@$&*+=%-]", re.ASCII)


@lru_cache(maxsize=1024)
def _classes(style: str) -> str:
    """Return the class names of a style as `Terminal` has it."""
    names: list[str] = []
    for code, color in attributes_of(style):
        index = color[0] if len(color) == 1 else _nearest(*color) if color else 0
        names.append(STYLES.get(code) or f"{'f' if code == FORE else 'b'}{index}")
    return " ".join(names)


def _nearest(red: int, green: int, blue: int) -> int:
    """Return the index of the colour of the palette that is nearest to a true colour."""
    steps = [min(range(6), key=lambda step: abs(_CUBE[step] - component)) for component in (red, green, blue)]
    grey = min(max(round((red + green + blue) / 3 - 8) // 10, 0), 23)
    cube_index = 16 + 36 * steps[0] + 6 * steps[1] + steps[2]
    distances = {
        cube_index: sum(
            (_CUBE[step] - each) ** 2 for step, each in zip(steps, (red, green, blue), strict=True)
        ),
        232 + grey: sum((8 + 10 * grey - each) ** 2 for each in (red, green, blue)),
    }
    return min(distances, key=distances.__getitem__)


def palette() -> str:
    """Return the style sheet of the colours 16 to 255; those below are in style.css, readable on a log."""
    cube = [(_CUBE[n // 36], _CUBE[n // 6 % 6], _CUBE[n % 6]) for n in range(216)]
    greys = [(8 + 10 * n,) * 3 for n in range(24)]
    rules = "".join(
        f".f{index}{{color:#{red:02x}{green:02x}{blue:02x}}}.b{index}{{background:#{red:02x}{green:02x}{blue:02x}}}\n"
        for index, (red, green, blue) in enumerate(cube + greys, start=16)
    )
    return f".log {{\n{rules}}}\n"


_CUBE = (0, 95, 135, 175, 215, 255)
