"""Escape text that others wrote, so that control characters are shown and do nothing."""

from __future__ import annotations

import re

CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1; for a class of characters
CONTROL_OF_ORDER = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"  # bidi marks, odd line ends

_SPECIAL = re.compile(f"[{CONTROL}\t\n{CONTROL_OF_ORDER}]")
_SYMBOLS = 0x2400  # Unicode's pictures of the C0 characters
_DELETE = "\x7f"


def one_line(text: str) -> str:
    """Return a text, as a name or an argument, on one line and with all that is special in it visible."""
    return _SPECIAL.sub(lambda found: symbol_of(found.group()), text)


def as_utf8(path: str) -> str:
    """Return the path of a file with each byte of it that is not UTF-8 escaped, as messages need it."""
    return path.encode(errors="backslashreplace").decode()


def symbol_of(character: str) -> str:
    """Return what stands for a special character."""
    if character < " ":
        return chr(_SYMBOLS + ord(character))
    return "\N{SYMBOL FOR DELETE}" if character == _DELETE else f"<U+{ord(character):04X}>"
