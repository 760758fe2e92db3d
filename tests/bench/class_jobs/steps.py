"""A job that does nothing but record steps."""

from __future__ import annotations

import time

import bgd_job


def record(count: int) -> tuple[float, float]:
    """Record this many steps; return when it began and ended."""
    began = time.time()
    for number in range(count):
        bgd_job.step("nothing", int, number)
    return began, time.time()
