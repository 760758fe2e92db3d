"""Words for errors about options."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from bgd.errors import nearest


def no_option(name: str, allowed: AbstractSet[str]) -> str:
    """Return the error message for an unknown option; it suggests the allowed one that is probably meant."""
    known = _ELSEWHERE.get(name)
    told = f"write {known}" if known in allowed else nearest(name, allowed)
    return f"no option {name!r}: {told}"


_ELSEWHERE = {
    "countdown": "delay",
    "depends_on": "after",
    "eta": "at",
    "job_timeout": "timeout",
    "link": "on_success",
    "link_error": "on_failure",
    "max_attempts": "retries",
    "max_retries": "retries",
    "queue_name": "queue",
    "run_after": "at",
    "scheduled_at": "at",
    "time_limit": "timeout",
    "tries": "retries",
    "ttl": "expires",
    "unique": "key",
    "unique_for": "key_for",
}
"""bgd's names for options of Celery, RQ, Laravel, Oban and Django."""
