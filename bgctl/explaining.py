"""Why a job waits, for users.

This module imports little, because `bgctl explain ID` starts with it.
"""

from __future__ import annotations

from bgctl.columns import excerpt
from bgctl.tables import local_time
from bgd.core.explain import Explanation, holders_in_words, in_words
from bgd.text.brief import command_line
from bgd.text.escape import one_line

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgd.wire.views import JobView

_SHORT = 50  # characters of a name or command


def title_of(job: JobView) -> str:
    """Return the id of a job with its name or command."""
    return f"Job {job.id} ({excerpt(job.name or command_line(job, _SHORT + 1), _SHORT)})"


def waiting_lines(job: JobView, state: str, explanation: Explanation, now: float) -> Iterator[str]:
    """Yield all that a job waits for, and when it will likely start."""
    yield f"{title_of(job)}: {state}, and waits"
    for reason in explanation.reasons:
        yield f"  {one_line(in_words(reason, lambda at: local_time(at, now)))}"
        if reason.holders:
            yield f"    {one_line(holders_in_words(reason))}"
    yield f"Likely start: {_likely_start(explanation, now)}"


def _likely_start(explanation: Explanation, now: float) -> str:
    at = explanation.likely_start_at
    if at is None:
        return "not known"
    return "at any moment" if at <= now else local_time(at, now)
