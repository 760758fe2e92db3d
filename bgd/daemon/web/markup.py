"""Show lines of output as HTML: colours and styles are class names of a closed set."""

from __future__ import annotations

from functools import lru_cache

from markupsafe import Markup, escape

from bgd.terminal import FORE, STYLES, Line, Terminal, attributes_of


def as_markup(text: str) -> Markup:
    """Return output as HTML, with colours as spans and everything else as text."""
    terminal = Terminal()
    return Markup("\n").join(line_markup(line) for line in [*terminal.feed(text), terminal.end()])


def line_markup(line: Line) -> Markup:
    """Return one line as HTML, without its end."""
    # put together by hand, because Markup.format takes 15 microseconds; only the text is a stranger's
    return Markup(  # noqa: S704
        "".join(
            f'<span class="{_classes(style)}">{escape(text)}</span>' if style else escape(text)
            for text, style in line
        )
    )


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
