"""Reasons: why a job does not run, as one can tell from outside."""

from __future__ import annotations

import time

from bgctl.common import local_time, say
from bgd import Client, Job, State
from bgd.wire.replies import Queues

_MOST_NAMED = 20  # jobs that another one waits for
_NEXT = "for its turn"  # which may be now


def say_if_waiting(daemon: Client, job_id: int) -> None:
    """Tell a person who would else look at nothing that it may take a while."""
    job = daemon.job(job_id)
    reason = why_waiting(daemon, job)
    if reason not in {"", _NEXT}:
        say(f"job {job_id} is {job.state}: it waits {reason}")


def why_waiting(daemon: Client, job: Job) -> str:
    """Say for what a job waits, as "until ..." or "for ..."; empty if it runs or has finished."""
    match job.state:
        case State.HELD:
            return f"until `bgctl release {job.id}`"
        case State.BLOCKED:
            named = ", ".join(map(str, job.waits_for[:_MOST_NAMED]))
            more = len(job.waits_for) - _MOST_NAMED
            jobs = "job" if len(job.waits_for) == 1 else "jobs"
            return f"for {jobs} {named}" + (f" and {more} more" if more > 0 else "")
        case State.SCHEDULED:
            return f"until {local_time(job.due_at, time.time())}"
        case State.QUEUED:
            return _why_queued(daemon.queues(), job)
        case State.RUNNING if job.suspended:
            return f"until `bgctl continue {job.id}`: it is suspended"
        case State.RUNNING | State.STOPPING | State.SUCCEEDED | State.FAILED | State.CANCELLED:
            return ""


def _why_queued(queues: Queues, job: Job) -> str:
    own = next((queue for queue in queues.queues if queue.name == job.queue), None)
    if queues.obstacle is not None:
        return f"for a launcher: {queues.obstacle}"
    if queues.paused:
        return "until `bgctl resume`: all queues are paused"
    if own is not None and own.paused:
        return f"until `bgctl resume {job.queue}`: its queue is paused"
    if own is not None and own.slots is not None and own.counts.get(State.RUNNING, 0) >= own.slots:
        return f"for a slot of queue {job.queue}: {own.slots} of {own.slots} are taken"
    wanted = min(job.slots, queues.slots)  # one that asks for more than there are gets all
    if queues.taken + wanted > queues.slots:
        return f"for {wanted} of {queues.slots} slots: {queues.taken} are taken"
    return _NEXT
