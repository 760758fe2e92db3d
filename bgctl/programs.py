"""Programs: whether what somebody wants to run is there, asked before it is queued."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bgd.paths import find_program


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
    """Say why a program cannot be run; None if it can."""
    try:
        find_program(name, env, str(folder))
    except FileNotFoundError:
        if "/" not in name:
            return f"no program {name!r} on its PATH"
        return f"{folder / name} is no program: there is no such file"
    except PermissionError as error:
        return _problem_with_file(Path(error.filename))
    return None


def _problem_with_file(path: Path) -> str:
    try:
        is_folder = path.is_dir()
    except PermissionError as error:
        return f"{path} may not be looked at: {error.strerror}"
    if is_folder:
        return f"{path} is no program: it is a folder"
    return f"{path} is not executable (chmod +x makes it so)"
