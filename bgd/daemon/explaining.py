"""Why a job waits, and when it will likely start."""

from __future__ import annotations

import time
from collections.abc import Mapping

from msgspec.structs import replace

from bgd.core.explain import Cause, Explanation, likely_start
from bgd.core.job import JobId, State
from bgd.daemon.storage import summaries
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.storage.summaries import OldestQueued
from bgd.daemon.supervisor import Supervisor
from bgd.wire.views import JobView, QueueView


def with_reasons(views: list[JobView], supervisor: Supervisor) -> list[JobView]:
    """Return the views of a list, those of queued jobs with what they wait for."""
    reasons = supervisor.explain_queued(JobId(view.id) for view in views if view.state is State.QUEUED)
    return [
        replace(view, why_waiting=why) if (why := reasons.get(JobId(view.id))) else view for view in views
    ]


def with_reasons_of_oldest(
    views: list[QueueView], oldest: Mapping[str, OldestQueued], supervisor: Supervisor
) -> list[QueueView]:
    """Return the views of queues with what the oldest queued job of each waits for."""
    reasons = supervisor.explain_queued(JobId(each.job) for each in oldest.values())
    found = {queue: why for queue, each in oldest.items() if (why := reasons.get(JobId(each.job)))}
    return [replace(view, why_waiting=found[view.name]) if view.name in found else view for view in views]


async def explanation_of(view: JobView, supervisor: Supervisor, store: StoreReader) -> Explanation:
    """Return why a job does not run; no reasons if it does not wait for anything."""
    found = supervisor.explain(JobId(view.id))
    reasons = tuple(
        replace(each, at=view.due_at) if each.cause is Cause.TIME else supervisor.scheduler.with_holders(each)
        for each in found
    )
    at = time.time()
    if likely_start(reasons, [], 0.0, at) is None and not any(each.slots for each in reasons):
        return Explanation(reasons=reasons)
    # the queue whose slots the job waits for; None: it waits for those of all
    queue = next((each.subject for each in reasons if each.cause is Cause.QUEUE_SLOTS), None)
    seconds, running = await store.search(summaries.likely_ends, view.name, queue)
    return Explanation(reasons=reasons, likely_start_at=likely_start(reasons, running, seconds, at))
