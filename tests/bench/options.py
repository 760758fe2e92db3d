"""Reads the command line of a benchmark, and measures peers that may fail.

`compare.py` copies this file to older revisions, so it imports nothing of bgd.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def arguments(about: str | None, rounds: int, name: str = "rounds") -> argparse.Namespace:
    """Read the command line of a benchmark: how often, whether quickly, and whether beside the peers."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "rounds", metavar=name, type=int, nargs="?", default=rounds, help=f"default: {rounds}"
    )
    parser.add_argument("--quick", action="store_true", help="only try: small numbers, useless figures")
    parser.add_argument("--no-peers", action="store_true", help="measure bgd only")
    return parser.parse_args()


class Peers:
    """Run peers for their figures; say which of them failed, and why, instead of giving up."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}

    def ask(self, name: str, measure: Callable[[], T]) -> T | None:
        """Return what `measure` returns; None if this peer fails now or has failed before."""
        if name in self.missing:
            return None
        try:
            return measure()
        except (OSError, RuntimeError, subprocess.SubprocessError, TimeoutError, SystemExit) as error:
            self.missing[name] = str(error).strip().splitlines()[-1]
            print(f"{name} is left out: {error}", file=sys.stderr)
            return None
