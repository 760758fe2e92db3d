"""Keys in the simulation: limits by key, and how long jobs have their keys; and the laws that they keep."""

from __future__ import annotations

from collections import Counter, defaultdict

from msgspec.structs import replace

from bgd.core.job import ACTIVE, Move
from bgd.core.scheduler import SKIPPED
from bgd.core.spec import JobSpec, KeyUntil, OnLimit
from tests.end_to_end.history import History

KEY_FOR = {"blue": 100.0, "violet": 20.0}  # seconds
LIMITS = (None, ("one", 1), ("two", 2))


def with_limit(spec: JobSpec) -> JobSpec:
    """Return the spec with a limit that its other options choose: what each seed does stays as it was."""
    skips = spec.retries == 3 or None
    return replace(spec, limit=LIMITS[(spec.priority or 0) % len(LIMITS)], on_limit=skips and OnLimit.SKIP)


def with_times_of_key(spec: JobSpec) -> JobSpec:
    """Return the spec with a key more often; the name of a key says how long a job has it."""
    key = "violet" if spec.timeout else spec.key
    until = KeyUntil.START if key == "green" else None
    return replace(spec, key=key, key_until=until, key_for=KEY_FOR.get(key or ""))


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
