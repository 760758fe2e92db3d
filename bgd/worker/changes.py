"""Whether the interpreter and the files that modules were loaded from are still the same."""

from __future__ import annotations

import os
import sys
import time

_SHARE = 20  # of the time, one part at most goes into looking: a thousand files take milliseconds


class Sources:
    """Looks when it is asked, but not again before looking would take more than its share of the time."""

    def __init__(self) -> None:
        self._library = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120  pathlib is slow to import
        self._own = os.path.dirname(__file__) + os.sep  # noqa: PTH120
        # with another interpreter comes another library, of which this one has only a part in its memory
        self._seen = {file: _state_of(file) for file in [sys.executable or ""]}
        self._modules = 0
        self._next_look_at = 0.0
        self.note_new()

    def note_new(self) -> None:
        """Keep in mind what was loaded since."""
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file not in self._seen and self._is_looked_at(file):
                self._seen[file] = _state_of(file)

    def changed(self) -> str | None:
        """Return a file that has changed since it was loaded, None if there is none."""
        began = time.monotonic()
        if began < self._next_look_at:
            return None
        for file, state in self._seen.items():
            if _state_of(file) != state:
                return file
        ended = time.monotonic()
        self._next_look_at = ended + (ended - began) * _SHARE
        return None

    def _is_looked_at(self, file: str) -> bool:
        """Whether it may change, and that would matter.

        What came with the interpreter changes only with that; and the worker itself speaks with the launcher
        that started it, which another one might not.
        """
        if file.startswith(self._library):
            return file.startswith(f"{self._library}site-packages")
        return not file.startswith(self._own)


def _state_of(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116  called too often for a Path
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
