"""Ends programs that start others. Standard library only: the peers' Python imports it, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def end_tree(program: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kill a program, unless it has ended, with all that it started, in whatever sessions."""
    if program.poll() is not None:
        return
    family = [program.pid]
    for pid in family:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        family += [int(child) for child in (children.read_text().split() if children.exists() else [])]
    for pid in family:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
    program.wait()
