"""The present, on both of the daemon's clocks."""

from __future__ import annotations

import time

from bgd import clock
from bgd.core.job import Now


def now() -> Now:
    return Now(clock.elapsed(), time.time())
