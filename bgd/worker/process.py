"""The process that a job was given: what it forks is not the job, and tells no result."""

from __future__ import annotations

import os

from .streams import flush

_job = os.getpid()


def begin() -> None:
    """Say that the job is this process, which was forked for it."""
    global _job  # noqa: PLW0603  a process has one number
    _job = os.getpid()


def leave_if_forked(exit_code: int) -> None:
    """End a child that the job forked and that came back here: there is one result, the parent's."""
    if os.getpid() != _job:
        flush()
        os._exit(exit_code)
