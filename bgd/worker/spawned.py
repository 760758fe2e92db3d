"""A job in an interpreter that was started for it alone."""

from __future__ import annotations

import os

from .job import carry_out, read
from .streams import point_to_nothing


def main() -> int:
    """Run the job that standard input describes, and return the exit code.

    Raises:
        SystemExit: the job chose its own.
    """
    result_fd = int(os.environ.pop("BGD_RESULT_FD"))
    os.set_inheritable(result_fd, False)
    with os.fdopen(0, "rb", closefd=False) as stdin:
        text = stdin.read()
    point_to_nothing(os.O_RDONLY, 0)
    return carry_out(read(text), result_fd)
