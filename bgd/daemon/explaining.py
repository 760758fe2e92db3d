"""Why a job waits, and when it will likely start."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from bgd.core.explain import Cause, Explanation, likely_start, without_slots_of_today
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


async def explanation_of(
    view: JobView, supervisor: Supervisor, store: StoreReader, asker: int | None = None
) -> Explanation:
    """Return why a job does not run; no reasons if it does not wait for anything.

    `asker`: the process of a client that is about to wait for the job.
    """
    job_id = JobId(view.id)
    awaited = await _awaited_jobs(supervisor, store.store_id, [] if asker is None else [(asker, {job_id})])
    reasons = tuple(
        replace(each, at=view.due_at) if each.cause is Cause.TIME else supervisor.scheduler.with_holders(each)
        for each in without_slots_of_today(supervisor.explain(job_id, awaited))
    )
    at = time.time()
    if likely_start(reasons, [], 0.0, at) is None and not any(each.slots for each in reasons):
        return Explanation(reasons=reasons)
    # the queue whose slots the job waits for; None: it waits for those of all
    queue = next((each.subject for each in reasons if each.cause is Cause.QUEUE_SLOTS), None)
    seconds, running = await store.search(summaries.likely_ends, view.name, queue)
    return Explanation(reasons=reasons, likely_start_at=likely_start(reasons, running, seconds, at))


async def _awaited_jobs(
    supervisor: Supervisor, store_id: str, more: list[tuple[int, set[JobId]]]
) -> dict[JobId, set[JobId]]:
    """Return the unfinished jobs that processes of running jobs wait for; `more`: further processes."""
    waiting = [*supervisor.subscriptions.awaited.values(), *more]
    if not waiting:
        return {}
    job_of = await asyncio.to_thread(_jobs_of_processes, {pid for pid, _ in waiting}, store_id)
    awaited: dict[JobId, set[JobId]] = {}
    for pid, ids in waiting:
        if (job := job_of.get(pid)) is not None and len(ids) <= _MANY:
            awaited.setdefault(job, set()).update(each for each in ids if supervisor.is_unfinished(each))
    return {job: ids for job, ids in awaited.items() if ids}


_MANY = 100  # jobs for which one process waits; with more it is not worth the time to look at each


def _jobs_of_processes(pids: set[int], store_id: str) -> dict[int, JobId]:
    """Return which of these processes belong to jobs, as far as their environment says so."""
    mark = re.compile(rb"(?:^|\0)BGD_RUN=%s\.(\d{1,19})\.\d+" % re.escape(store_id.encode()))
    jobs: dict[int, JobId] = {}
    for pid in pids:
        with suppress(OSError):  # it has ended, or is another user's
            if found := mark.search(Path(f"/proc/{pid}/environ").read_bytes()):
                jobs[pid] = JobId(int(found[1]))
    return jobs
