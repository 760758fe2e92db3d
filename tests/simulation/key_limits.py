"""Limits by key in the simulation, and the laws that they keep."""

from __future__ import annotations

from collections import Counter, defaultdict

from msgspec.structs import replace

from bgd.core.job import ACTIVE, Move
from bgd.core.scheduler import SKIPPED
from bgd.core.spec import JobSpec, OnLimit
from tests.end_to_end.history import History

LIMITS = (None, ("one", 1), ("two", 2))


def with_limit(spec: JobSpec) -> JobSpec:
    """Return the spec with a limit that its other options choose: what each seed does stays as it was."""
    skips = spec.retries == 3 or None
    return replace(spec, limit=LIMITS[(spec.priority or 0) % len(LIMITS)], on_limit=skips and OnLimit.SKIP)


def check_key_limits(history: History) -> Counter[str]:
    """Check that no more attempts run than a key has places, and that jobs are skipped only while it is full.

    Return how often each key was full.
    """
    running: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    full: Counter[str] = Counter()
    for event in history.events:
        spec = history.specs.get(event.job) or history.jobs.get(event.job)
        if spec is None or spec.limit is None:
            continue
        (key, places), holders = spec.limit, running[spec.limit[0], spec.limit[1]]
        if event.state in ACTIVE:
            holders.add(event.job)
        else:
            holders.discard(event.job)
        assert len(holders) <= places, f"{key} has {places} places, and these run: {sorted(holders)}"
        full[f"full {key}"] += event.what == Move.START and len(holders) == places
        if str(event.reason).startswith(SKIPPED) and event.what == Move.CANCEL:
            assert spec.on_limit is OnLimit.SKIP, f"job {event.job} was skipped, and wants to wait"
            assert len(holders) == places, f"job {event.job} was skipped while {key} had a free place"
            full["skipped"] += 1
    return full
