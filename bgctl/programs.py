"""Programs: whether what somebody wants to run is there, asked before it is queued."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def problem_with_program(name: str, env: Mapping[str, str], folder: Path) -> str | None:
    """Say why a program cannot be run with this environment in this folder; None if it can.

    The search is the kernel's and execvp's: a name with a slash is a path from the folder, any other is
    looked for on the PATH of the job.
    """
    if "/" in name:
        return _problem_with_file(folder / name)
    path = env.get("PATH", os.defpath)
    found = [place for entry in path.split(":") if (place := folder / entry / name).is_file()]
    if not found:
        return f"no program {name!r} on its PATH ({path})"
    if any(os.access(place, os.X_OK) for place in found):
        return None
    return _problem_with_file(found[0])


def _problem_with_file(path: Path) -> str | None:
    try:
        is_file = path.is_file()
    except OSError as error:  # as in a folder that may not be entered
        return f"{path}: {error.strerror}"
    if not is_file:
        return f"{path} is no program: {'it is a folder' if path.is_dir() else 'there is no such file'}"
    return None if os.access(path, os.X_OK) else f"{path} is not executable (chmod +x makes it so)"
