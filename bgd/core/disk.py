"""The last part of a disk: it is kept for what the database has to write though the disk is full."""

from __future__ import annotations

BALLAST = 8 << 20  # bytes
_SHARE = 16  # of a small disk a sixteenth


def ballast_on(size: int) -> int:
    """Return how many bytes that is on a disk of `size` bytes; logs leave as many free."""
    return min(BALLAST, size // _SHARE)
