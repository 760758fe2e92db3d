"""Follow-ups: the job that on_failure or on_success names, and the event of a notification."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from bgd.core.job import State
from bgd.core.notifications import NotifyEvent
from bgd.core.scheduler import CommandAttempt, Effect, SaveJob, StartAttempt
from bgd.core.spec import FOLLOW_UPS, NOTIFICATION_QUEUE, JobCause, JobSpec, is_target


def event_after(save: SaveJob) -> str | None:
    """Return the option that names the follow-up for the end of a job; None: a person cancelled the job."""
    if save.job.state is State.SUCCEEDED:
        return "on_success"
    return "on_failure" if save.is_failure else None


def follow_ups(spec: JobSpec) -> Iterator[tuple[str, JobSpec]]:
    """Yield the follow-up jobs of a job, each with the option that names it.

    They go to its queue with its priority, and belong to its trace and session. A command starts in its
    folder.
    """
    for event in FOLLOW_UPS:
        words = getattr(spec, event)
        if words is None:
            continue
        own = JobSpec(queue=spec.queue, priority=spec.priority, trace=spec.trace, session=spec.session)
        if is_target(words):
            yield event, replace(own, target=words[0])
        else:
            yield event, replace(own, argv=words, cwd=spec.cwd, umask=spec.umask)


def follow_up(spec: JobSpec, cause: JobCause) -> JobSpec | None:
    """Return the job that follows this end of a job; None: its spec names none."""
    following = dict(follow_ups(spec)).get(cause.event)
    return None if following is None else replace(following, cause=cause)


def notify_event(effect: Effect) -> NotifyEvent | None:
    """Return the event that an effect notifies about; None: nothing.

    Cancelled jobs send no notifications.
    """
    job = effect.job
    if job.queue == NOTIFICATION_QUEUE:
        return None
    if isinstance(effect, StartAttempt):
        return NotifyEvent.STARTED if job.attempt == 1 else None
    if isinstance(effect, CommandAttempt):
        return None
    if job.state is State.SUCCEEDED:
        return NotifyEvent.SUCCEEDED
    return NotifyEvent.FAILED if effect.is_failure else None
