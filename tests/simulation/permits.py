"""Many short jobs, so that most of them begin by permit, and much that goes wrong meanwhile."""

from __future__ import annotations

import random

from msgspec.structs import replace

from bgd.core.spec import JobSpec
from bgd.wire.requests import Pause, Request, Resume

SHORTER = {"20.0": "0.01", "3.0": "0.1"}  # how long jobs run
FAULT = 0.25  # share of all steps
MOST = 16  # jobs of a request
PAUSES = 0.1  # share of all requests


def with_short_run(spec: JobSpec) -> JobSpec:
    """Return a spec that may have a permit."""
    program, seconds, *codes = spec.argv or ()
    argv = (program, SHORTER.get(seconds, seconds), *codes)
    return replace(spec, argv=argv, resources=None, slots=min(spec.slots, 2))


def pause_or_resume(dice: random.Random, queue: str) -> Request | None:
    """Return such a request, more often than other histories have them; mostly None."""
    if dice.random() >= PAUSES:
        return None
    return Pause(0, queue) if dice.random() < 0.5 else Resume(0, queue)
