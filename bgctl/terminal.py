"""What a terminal needs: untrusted text escaped, and the size of the screen and of text on it."""

from __future__ import annotations

import codecs
import os
import re

from bgd.escape import BIDI_CONTROL, CONTROL, visible_symbol

# ESC [ ... m sets colors and passes. Other sequences could move the cursor, hide text, set the title or make
# the terminal send an answer.
_COLOR = r"\x1b\[[0-9;:]{0,64}m"
_INCOMPLETE = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")
_SPECIAL = re.compile(rf"{_COLOR}|\r\n|[{CONTROL}{BIDI_CONTROL}]")


class TerminalEscaper:
    """Turns bytes, in pieces of any size, into text that is safe on a terminal of this encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._incomplete = ""

    def feed(self, data: bytes, *, is_last: bool = False) -> str:
        """Return the text that can be shown now; keep an incomplete sequence for the next call."""
        text = self._incomplete + self._decoder.decode(data, is_last)
        self._incomplete = ""
        if not is_last and (incomplete := _INCOMPLETE.search(text)):
            self._incomplete = incomplete.group()
            text = text[: incomplete.start()]
        return _SPECIAL.sub(_replacement, text)


def without_colors(text: str) -> str:
    """Return escaped text without its color sequences."""
    return re.sub(_COLOR, "", text)


def _replacement(match: re.Match[str]) -> str:
    found = match.group()
    if found == "\r\n":
        return "\n"
    if len(found) > 1 and not _hides_text(found):
        return found  # a color
    return visible_symbol(found[0]) + found[1:]


def _hides_text(sequence: str) -> bool:
    """Return whether a color sequence contains attribute 8, which makes the following text invisible.

    Skip the parameters of colors: after 38, 48 or 58 come 5 and an index, or 2 and three components (ECMA-48,
    xterm's ctlseqs).
    """
    numbers = iter(sequence[2:-1].split(";"))
    for number in numbers:
        if number in {"38", "48", "58"}:
            for _ in range({"5": 1, "2": 3}.get(next(numbers, ""), 0)):
                next(numbers, "")
        elif number.partition(":")[0].lstrip("0") == "8":
            return True
    return False


def screen_size() -> tuple[int, int]:
    """Return the columns and lines of the terminal; $COLUMNS and $LINES win, as in other programs."""
    columns, lines = (os.environ.get(name, "") for name in ("COLUMNS", "LINES"))
    measured = next(filter(None, map(_size_of, (1, 2))), _USUAL_SIZE)  # stdout may be a pipe to `less -R`
    return (
        _size_in(columns) or measured[0],
        _size_in(lines) or measured[1],
    )


_USUAL_SIZE = (80, 24)
_MAX_SIZE = 10_000  # columns or lines


def _size_of(descriptor: int) -> tuple[int, int] | None:
    try:
        columns, lines = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (columns, lines) if columns and lines else None


def _size_in(text: str) -> int | None:
    return min(int(text), _MAX_SIZE) or None if text.isascii() and text.isdigit() and len(text) < 10 else None  # noqa: PLR2004


def cells_of(text: str) -> int:
    """Return how many cells of a terminal line a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of_character, text))


def _cells_of_character(character: str) -> int:
    import unicodedata  # noqa: PLC0415 - most texts are ASCII

    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def fitted(text: str, cells: int) -> str:
    """Return the text, or its beginning and an ellipsis, in at most this many cells."""
    if len(text) <= cells and cells_of(text) <= cells:
        return text
    kept, left = [], cells - 1
    for character in text[:_MAX_SIZE]:
        left -= _cells_of_character(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + _ELLIPSIS


_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
