"""Why a command could not start here and now: a mistake that is cheaper to tell before it is queued."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bgd.client.specs import Caller
from bgd.errors import Refused
from bgd.paths import find_program

if TYPE_CHECKING:
    from bgd.client.options import JobOptions


def check_command(argv: list[str], options: JobOptions, caller: Caller) -> None:
    """Refuse a command whose program, folder or input is missing, for the caller with these options."""
    if not argv:
        raise Refused("argv is empty: it is a program and its arguments, such as ['ls', '-l']")
    if problem := _problem_with_command(argv, options, caller):
        raise Refused(f"{problem}; use --no-check (check=False) to queue it anyway")


def _problem_with_command(argv: list[str], options: JobOptions, caller: Caller) -> str | None:
    given, extra = options.get("cwd"), options.get("env") or {}
    folder = caller.folder if given is None else str(caller.absolute(given))
    passed = caller.chosen_environment(options.get("env_pass") or "all")
    source = options.get("stdin")
    try:
        if given is not None and not Path(folder).is_dir():
            return f"folder {folder} does not exist"
        problem = problem_with_program(argv[0], extra.get("PATH", passed.get("PATH")), folder)
    except OSError as error:  # for example a folder without search permission
        return f"{error.filename}: {error.strerror}"
    if problem and len(argv) == 1 and " " in argv[0].strip():
        return f"{problem}: quote each word separately, or use --shell"
    return problem or (_problem_with_input(caller.absolute(source)) if source else None)


def problem_with_program(name: str, path: str | None, folder: str) -> str | None:
    """Return why a program cannot be run with this $PATH in this folder; None if it can."""
    try:
        _find(name, path, folder)
    except FileNotFoundError:
        if "/" not in name:
            return f"no program {name!r} on its PATH"
        return f"{Path(folder, name)} does not exist"
    except PermissionError as error:
        return _problem_with_file(Path(error.filename))
    return None


@lru_cache(maxsize=100)
def _find(name: str, path: str | None, folder: str) -> None:
    """Find a program; only successes are kept, and a program that goes away fails when it is started."""
    find_program(name, {} if path is None else {"PATH": path}, folder)


def _problem_with_file(path: Path) -> str:
    try:
        is_folder = path.is_dir()
    except PermissionError as error:
        return f"{path} cannot be inspected: {error.strerror}"
    if is_folder:
        return f"{path} is a folder, not a program"
    return f"{path} is not executable (try chmod +x)"


def _problem_with_input(path: Path) -> str | None:
    """Return why a command cannot read this file; None if it can."""
    if not path.exists():
        return f"file {path} does not exist"
    if path.is_dir():
        return f"{path} is a folder, not a file"
    return None if os.access(path, os.R_OK) else f"you may not read {path}"
