"""Draw numbers as paths of SVG, which templates put into a picture and classes of the style colour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import ceil, floor, log10

WIDTH, HEIGHT = 600.0, 100.0  # units of a picture, which the page stretches
_LEAST = 1.5  # height of a bar that is not 0, so that a single failure is seen
_STEPS = (1.0, 2.0, 5.0, 10.0)
_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0
_DURATIONS = (
    *(unit * count for unit in (1.0, _MINUTE) for count in (1, 2, 5, 10, 30)),
    *(_HOUR * count for count in (1, 2, 5, 12)),
)


Layer = tuple[str, str]
"""A path of a picture, after the class of its style."""


def top_of(values: Sequence[float | None], *, are_seconds: bool = False) -> float:
    """Return a round number that is at least as large as all values, and more than 0."""
    largest = max((value for value in values if value is not None), default=0.0)
    if largest <= 0:
        return 1.0
    if are_seconds and largest > 1:
        fitting = (each for each in _DURATIONS if each >= largest)
        return next(fitting, ceil(largest / _DAY) * _DAY)
    power = 10.0 ** floor(log10(largest))
    return next(power * step for step in _STEPS if power * step >= largest)


def bars(series: Sequence[tuple[str, Sequence[float]]], top: float) -> list[Layer]:
    """Return bars of one column each, the series stacked on each other, the first at the bottom."""
    columns = list(zip(*(values for _, values in series), strict=True))
    step = WIDTH / max(len(columns), 1)
    paths: list[list[str]] = [[] for _ in series]
    for place, column in enumerate(columns):
        heights = [max(value / top * HEIGHT, _LEAST) if value else 0.0 for value in column]
        for path, height, above in zip(paths, heights, accumulate(heights), strict=True):
            if height:
                path.append(
                    f"M{_number(place * step)} {_number(HEIGHT - above)}h{_number(step * 0.85)}"
                    f"v{_number(height)}h-{_number(step * 0.85)}z"
                )
    return [(look, "".join(path)) for (look, _), path in zip(series, paths, strict=True) if path]


def line(look: str, values: Sequence[float | None], top: float) -> Layer:
    """Return a line that joins the values of the columns; a column without a value leaves a gap."""
    step = WIDTH / max(len(values), 1)
    path, is_drawn = "", False
    for place, value in enumerate(values):
        if value is not None:
            y = _number(HEIGHT - value / top * HEIGHT)
            path += f"{'L' if is_drawn else 'M'}{_number((place + 0.5) * step)} {y}h0"
        is_drawn = value is not None
    return look, path


def area(look: str, values: Sequence[float], top: float) -> Layer:
    """Return the area below a line of steps, one for each column."""
    step = WIDTH / max(len(values), 1)
    steps = "".join(f"V{_number(HEIGHT - value / top * HEIGHT)}h{_number(step)}" for value in values)
    return look, f"M0 {_number(HEIGHT)}{steps}V{_number(HEIGHT)}z"


def span(begin: float, end: float) -> str:
    """Return a path over the whole height, between two shares of the width."""
    width = max((end - begin) * WIDTH, _LEAST)
    return f"M{_number(begin * WIDTH)} 0h{_number(width)}v{_number(HEIGHT)}h-{_number(width)}z"


def columns(count: int) -> list[str]:
    """Return a path over the whole height of each column, to point at."""
    return [span(place / count, (place + 1) / count) for place in range(count)]


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
