"""Where a program is found, by the rules of execvp(3): for bgctl before it queues, for the launcher after."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping


def find_program(name: str, env: Mapping[str, str], folder: str) -> str:
    """Return the file that a process with this environment in this folder would run.

    A name with a slash is a path from the folder; any other is looked for in each folder of PATH. What may
    not be run, and a folder that may not be searched, are passed over, and named if nothing else is found.

    Raises:
        PermissionError: `filename` may not be run, or not even be looked at.
        FileNotFoundError: there is no such file.
    """
    refused: str | None = None
    for entry in [""] if "/" in name else os.get_exec_path(env):
        path = os.path.join(folder, entry, name)  # noqa: PTH118  plain strings here
        try:
            is_file = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
        except PermissionError:
            refused = refused or path
            continue
        except OSError:  # it is not there
            continue
        if is_file and os.access(path, os.X_OK):
            return path
        refused = refused or path
    if refused is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), refused)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
