"""A terminal obeys what is written to it; this makes the words of strangers harmless."""

from __future__ import annotations

import codecs
import re

from bgd.escape import BIDI_CONTROL, CONTROL, visible_symbol

# ESC [ ... m sets colours and is let through; any other sequence could move, hide, retitle or answer
_COLOR = r"\x1b\[[0-9;:]{0,64}m"
_BEGUN = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")
_SPECIAL = re.compile(rf"{_COLOR}|\r\n|[{CONTROL}{BIDI_CONTROL}]")


class HarmlessText:
    """Turns output into text that a terminal of this encoding may be given, whatever pieces it comes in."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._begun = ""

    def feed(self, data: bytes, *, is_last: bool = False) -> str:
        """Return what can be shown by now; what may be the beginning of a sequence waits for its end."""
        text = self._begun + self._decoder.decode(data, is_last)
        self._begun = ""
        if not is_last and (begun := _BEGUN.search(text)):
            self._begun = begun.group()
            text = text[: begun.start()]
        return _SPECIAL.sub(_shown, text)


def without_colors(text: str) -> str:
    """Return harmless text as it is seen in black and white."""
    return re.sub(_COLOR, "", text)


def _shown(match: re.Match[str]) -> str:
    found = match.group()
    if found == "\r\n":
        return "\n"
    if len(found) > 1 and not _conceals(found):
        return found  # a colour
    return visible_symbol(found[0]) + found[1:]


def _conceals(sequence: str) -> bool:
    """Whether a colour sequence makes what follows invisible (8), not counting the numbers of colours.

    Those come after 38, 48 or 58: 5 and an index, or 2 and three shares (ECMA-48, and xterm's ctlseqs).
    """
    numbers = iter(sequence[2:-1].split(";"))
    for number in numbers:
        if number in {"38", "48", "58"}:
            for _ in range({"5": 1, "2": 3}.get(next(numbers, ""), 0)):
                next(numbers, "")
        elif number.partition(":")[0].lstrip("0") == "8":
            return True
    return False
