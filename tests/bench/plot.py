"""Draws bars and lines as SVG, without any library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH = 760
LABELS = 250  # the space for the names of bars
BAR = 16
GAP = 10  # between two groups of bars
TOP = 64
PLOT_HEIGHT = 300
LEFT, RIGHT = 70, 170  # of a plot with lines; their names are on the right
NARROWEST = 14  # pixels between two names of lines

OURS = ("#0b6e4f", "#63b995")
OTHERS = ("#8a8f98", "#c3c7cd")
LINES = ("#0b6e4f", "#c44536", "#28587b", "#b8860b", "#7b4b94", "#444444")


def bars(
    title: str, unit: str, series: Sequence[str], rows: Mapping[str, Sequence[float | None]], ours: set[str]
) -> str:
    """Return horizontal bars: a group for each row, in it a bar for each of at most two series.

    The bars of `ours` have a colour. A value of None leaves its bar out.
    """
    longest = max((value for values in rows.values() for value in values if value is not None), default=1.0)
    scale = (WIDTH - LABELS - 90) / (longest or 1.0)
    parts = [_text(16, 24, title, size=16, weight="bold"), _text(16, 44, unit, color="#555")]
    if len(series) > 1:
        parts += _legend(series)
    y = TOP
    for label, values in rows.items():
        colors = OURS if label in ours else OTHERS
        middle = y + BAR * len(values) / 2 + 4
        weight = "bold" if label in ours else "normal"
        parts.append(_text(LABELS - 10, middle, label, anchor="end", weight=weight))
        for value, color in zip(values, colors, strict=False):
            if value is not None:
                width = max(value * scale, 1.0)
                parts.append(
                    f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{color}"/>'
                )
                parts.append(_text(LABELS + width + 6, y + BAR - 5, number(value), size=11))
            y += BAR
        y += GAP
    return _document(y + 6, title, parts)


def lines(title: str, unit: str, x_name: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return one line for each series of points, both axes logarithmic; values must be above zero."""
    points = [point for values in series.values() for point in values]
    x_low, x_high = _decades([x for x, _ in points])
    y_low, y_high = _decades([y for _, y in points])
    bottom = TOP + PLOT_HEIGHT

    def x_of(x: float) -> float:
        return LEFT + (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return bottom - (math.log10(y) - y_low) / (y_high - y_low) * PLOT_HEIGHT

    parts = [_text(16, 24, title, size=16, weight="bold"), _text(16, 44, unit, color="#555")]
    for power in range(y_low, y_high + 1):
        y = y_of(10.0**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, number(10.0**power), anchor="end", size=11))
    for power in range(x_low, x_high + 1):
        x = x_of(10.0**power)
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 18, number(10.0**power), anchor="middle", size=11))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 38, x_name, anchor="middle", color="#555"))
    names = []
    for (name, values), color in zip(series.items(), LINES * len(series), strict=False):
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in values)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{color}"/>' for x, y in values]
        names.append((y_of(values[-1][1]), name, color))
    last = -math.inf
    for y, name, color in sorted(names):
        last = max(y + 4, last + NARROWEST)
        parts.append(_text(WIDTH - RIGHT + 10, last, name, color=color))
    return _document(bottom + 52, title, parts)


def number(value: float) -> str:
    """Return a number as people read it: three digits matter, thousands have commas."""
    if value >= 1000:
        digits = max(len(str(int(value))) - 3, 0)
        return f"{round(value, -digits):,.0f}"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _legend(series: Sequence[str]) -> Iterator[str]:
    x = LABELS
    for name, color in zip(series, OURS, strict=False):
        yield f'<rect x="{x}" y="36" width="10" height="10" fill="{color}"/>'
        yield _text(x + 16, 45, name, size=12)
        x += 30 + 8 * len(name)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "normal",
    color: str = "#222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
        f' fill="{color}">{escape(text)}</text>'
    )


def _document(height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
        f' height="{height:.0f}" role="img" font-family="system-ui, sans-serif">'
    )
    body = [f"<title>{escape(title)}</title>", '<rect width="100%" height="100%" fill="#fff"/>', *parts]
    return "\n".join([head, *body, "</svg>"]) + "\n"
