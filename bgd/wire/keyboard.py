"""The packets between a keyboard and the terminal of a job, over a socket pair (SOCK_SEQPACKET).

A packet is one byte, which says what it is, and its content. A keyboard that sends its window size gets in
line to type: the first in line types, the others look on until it leaves.
"""

from __future__ import annotations

MAX_PACKET = 4096  # bytes
MAX_KEYBOARDS = 16  # of one terminal

# from a keyboard
KEYS = b"k"  # what was typed; ignored unless this keyboard is the one that types
TEXT = b"t"  # text of any keyboard, also of one that is not in line
SIZE = b"s"  # the columns and lines of its window, each in two bytes, most significant first

# to a keyboard
YOURS = b"k"  # it types from now on
LOOK = b"l"  # another one types
WRITTEN = b"t"  # the terminal has taken the text of one packet


def size_packet(columns: int, lines: int) -> bytes:
    """Return the packet for the size of a window."""
    return SIZE + columns.to_bytes(2) + lines.to_bytes(2)


def size_in(content: bytes) -> tuple[int, int] | None:
    """Return columns and lines from the content of a packet; None if it has no size."""
    columns, lines = int.from_bytes(content[:2]), int.from_bytes(content[2:])
    return (columns, lines) if columns and lines and len(content) == 4 else None  # noqa: PLR2004
