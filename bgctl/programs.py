"""Programs: whether what somebody wants to run is there, asked before it is queued."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def problem_with_command(argv: Sequence[str], env: Mapping[str, str], folder: Path) -> str | None:
    """Say why a command cannot be run with this environment in this folder; None if it can."""
    try:
        if not folder.is_dir():
            return f"there is no folder {folder}"
        problem = _problem_with_program(argv[0], env, folder)
    except OSError as error:  # as in a folder that may not be entered
        return f"{error.filename}: {error.strerror}"
    if problem and len(argv) == 1 and " " in argv[0].strip():
        return f"{problem}: write the words apart, or put --shell before them"
    return problem


def problem_with_input(path: Path) -> str | None:
    """Say why a command cannot read this file; None if it can."""
    if not path.exists():
        return f"there is no file {path}"
    if path.is_dir():
        return f"{path} is a folder: name a file to read"
    return None if os.access(path, os.R_OK) else f"{path} may not be read by you"


def _problem_with_program(name: str, env: Mapping[str, str], folder: Path) -> str | None:
    """Say why a program cannot be run; None if it can.

    The search is the kernel's and execvp's: a name with a slash is a path from the folder, any other is
    looked for on the PATH of the job.
    """
    if "/" in name:
        return _problem_with_file(folder / name)
    entries = env.get("PATH", os.defpath).split(":")
    found = [place for entry in entries if (place := folder / entry / name).is_file()]
    if not found:
        return f"no program {name!r} on its PATH"
    if any(os.access(place, os.X_OK) for place in found):
        return None
    return _problem_with_file(found[0])


def _problem_with_file(path: Path) -> str | None:
    if not path.is_file():
        return f"{path} is no program: {'it is a folder' if path.is_dir() else 'there is no such file'}"
    return None if os.access(path, os.X_OK) else f"{path} is not executable (chmod +x makes it so)"
