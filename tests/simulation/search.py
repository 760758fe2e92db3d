"""Search for a history that shows a fault that was made on purpose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.simulation.run import SimulationRun

ENOUGH = 450  # histories in which each fault shows up


def run_all(seeds: Iterable[int], **options: Any) -> None:
    for seed in seeds:
        SimulationRun(seed, **options).run()


def search(found: str, start: int = 0, **options: Any) -> None:
    """Check that one of the histories from seed `start` on fails with an error that matches `found`."""
    with pytest.raises(AssertionError, match=found):
        run_all(range(start, start + ENOUGH), **options)
