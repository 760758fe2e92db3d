"""Render values as HTML, in one place where no text of a stranger can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bgd.escape import BIDI_CONTROL, CONTROL, one_line, visible_symbol


def render(template: str, values: dict[str, object]) -> bytes:
    """Return a page rendered from a template. Takes some milliseconds, so call it on a thread."""
    text = _environment().get_template(template).render(values)
    return text.encode(errors="replace")


@cache
def _environment() -> Environment:
    """Compile all templates at once: when the next page is due, their files may be of another version."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_text,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["colored"] = as_markup
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def _escape_text(value: object) -> object:
    """Make the special characters of any text visible; markup was made here, and stays."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_TEMPLATES = Path(__file__).parent / "templates"


# --- Output: colours of a terminal become classes of a closed set, other control characters become visible


def as_markup(text: str) -> Markup:
    """Return output with its colours as spans and everything else as text."""
    return Markup("").join(_spans(text))


def _spans(text: str) -> Iterator[Markup]:
    style = _TextStyle()
    begin = 0
    for found in _SEQUENCE.finditer(text):
        yield style.wrap(text[begin : found.start()])
        begin = found.end()
        if found["color"]:
            style.apply(found["color"][2:-1])
        else:
            yield style.wrap("\n" if found.group() == "\r\n" else visible_symbol(found.group()))
    yield style.wrap(text[begin:])


class _TextStyle:
    """The colours and styles in effect. Styles that hide text are ignored."""

    def __init__(self) -> None:
        self._fore = self._back = ""
        self._styles: set[str] = set()

    def wrap(self, text: str) -> Markup:
        classes = sorted(filter(None, {self._fore, self._back, *self._styles}))
        if not (text and classes):
            return escape(text)
        return Markup('<span class="{}">{}</span>').format(" ".join(classes), text)

    def apply(self, parameters: str) -> None:
        """Apply the parameters of one SGR sequence (ECMA-48, and xterm's ctlseqs)."""
        numbers = iter(parameters.split(";"))
        for number in numbers:
            # a number with colons has its own arguments, for example 4:3 and 38:5:1
            code = int(number.partition(":")[0] or 0)
            if code in _PALETTE and ":" not in number:
                for _ in range(_ARGUMENTS.get(next(numbers, ""), 0)):
                    next(numbers, "")
            self._set(code)

    def _set(self, code: int) -> None:
        if code == _RESET:
            self._fore = self._back = ""
            self._styles.clear()
        elif code in _STYLES:
            self._styles.add(_STYLES[code])
        elif code in _NO_STYLES:
            self._styles -= _NO_STYLES[code]
        elif code in _FORES:
            self._fore = _FORES[code]
        elif code in _BACKS:
            self._back = _BACKS[code]


_SEQUENCE = re.compile(rf"(?P<color>\x1b\[[0-9;:]{{0,64}}m)|\r\n|[{CONTROL}{BIDI_CONTROL}]")
_RESET = 0
_STYLES = {1: "bold", 2: "dim", 3: "italic", 4: "underlined"}
_NO_STYLES = {22: {"bold", "dim"}, 23: {"italic"}, 24: {"underlined"}}
# normal and bright ones look the same; the last of each means none
_FORES = {first + number: f"fore{number}" for first in (30, 90) for number in range(8)} | {39: ""}
_BACKS = {first + number: f"back{number}" for first in (40, 100) for number in range(8)} | {49: ""}
_PALETTE = {38, 48, 58}  # followed by 5 and an index, or by 2 and three components
_ARGUMENTS = {"5": 1, "2": 3}
