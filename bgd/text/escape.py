"""Escape untrusted text, so that control and invisible characters are visible and have no effect."""

from __future__ import annotations

import codecs

CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and newline, DEL, C1; for a character class
# For a character class: format characters (Unicode's Cf), characters that are not drawn
# (Default_Ignorable_Code_Point), and line ends. They could hide from people what a program or an agent reads.
# The selectors of a symbol's style, U+FE0E and U+FE0F, stay: many emoji end with one.
INVISIBLE = (
    "\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)

_SPECIAL = f"[{CONTROL}\t\n{INVISIBLE}]"
_SYMBOLS = 0x2400  # Unicode's pictures of the C0 characters
_DELETE = "\x7f"


def one_line(text: str) -> str:
    """Return a text, for example a name or an argument, on one line with its special characters visible."""
    if text.isascii() and text.isprintable():  # control characters are not
        return text
    import re  # noqa: PLC0415 - few texts need it, and it takes half as long to import as Python to start

    return re.sub(_SPECIAL, lambda found: visible_symbol(found.group()), text)


def visible(text: str) -> str:
    """Return a text of several lines with its other special characters visible."""
    return "\n".join(one_line(line.expandtabs()) for line in text.split("\n"))


def visible_symbol(character: str) -> str:
    """Return what is shown in place of a special character."""
    if character < " ":
        return chr(_SYMBOLS + ord(character))
    return "\N{SYMBOL FOR DELETE}" if character == _DELETE else f"<U+{ord(character):04X}>"


def is_text(name: str) -> bool:
    """Return whether UTF-8 can encode a string: names and values of Linux are bytes, not always text."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def begun_at_end(data: bytes | bytearray) -> int:
    """Return how many bytes at the end are the beginning of a character in UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-_LONGEST_CHARACTER:])
    return len(decoder.getstate()[0])


def ended_at_begin(data: bytes) -> int:
    """Return how many bytes at the beginning are the end of a character in UTF-8."""
    beginning = data[: _LONGEST_CHARACTER - 1]
    return len(beginning) - len(beginning.lstrip(_LATER_BYTES))


_LONGEST_CHARACTER = 4  # bytes
_LATER_BYTES = bytes(range(0x80, 0xC0))  # the second to fourth of a character


def as_utf8(path: str) -> str:
    """Return the path of a file with each byte that is not UTF-8 escaped, as messages need it."""
    return path.encode(errors="backslashreplace").decode()
