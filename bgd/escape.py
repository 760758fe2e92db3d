"""Escape untrusted text, so that control characters are visible and have no effect."""

from __future__ import annotations

import codecs

CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and newline, DEL, C1; for a character class
BIDI_CONTROL = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"  # and Unicode's line ends

_SPECIAL = f"[{CONTROL}\t\n{BIDI_CONTROL}]"
_SYMBOLS = 0x2400  # Unicode's pictures of the C0 characters
_DELETE = "\x7f"


def one_line(text: str) -> str:
    """Return a text, for example a name or an argument, on one line with its special characters visible."""
    if text.isprintable():  # special characters are not
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
