"""Escape untrusted output for a terminal, which would obey control sequences in it."""

from __future__ import annotations

import codecs
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
