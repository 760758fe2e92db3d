"""Follow-ups: submits a job after the end of another one, in the transaction that stores this end."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from bgd.core.followups import event_after, follow_up, follow_ups
from bgd.core.job import JobId, Outcome, State
from bgd.core.scheduler import SaveJob
from bgd.core.spec import JobCause, JobSpec
from bgd.daemon.access import check_may_run
from bgd.daemon.storage import read
from bgd.daemon.storage.records import AttemptEnd, StoredSpec, Submission
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Refused
from bgd.settings.config import Config
from bgd.text.formatting import outcome_in_words
from bgd.wire.views import JobView

MAX_ERROR = 2_000  # characters


async def follow(
    supervisor: Supervisor,
    store: StoreReader,
    submit: Callable[[list[JobSpec], int, dict[str, str] | None], Submission],
    causes: list[SaveJob],
) -> None:
    """Submit the follow-ups of jobs that have ended, as their users; they were checked at the submit.

    `submit`: JobActions.submit.
    """
    specs = await _specs_of([save.job.id for save in causes], supervisor, store)
    ends = {end.job: end for end in supervisor.transaction.ends}
    for save in causes:
        event, stored = event_after(save), specs[save.job.id]
        if event is None:
            continue
        end: AttemptEnd | JobView | None = ends.get(save.job.id)
        if end is None and save.job.state is State.FAILED:  # while it waited for a retry
            end = await store.read(read.view, save.job.id)
        spec = follow_up(stored.spec, _cause(save, event, stored.spec.name, end))
        if spec is not None:
            env = None if stored.spec.target is not None else stored.env
            [job_id] = submit([spec], stored.uid, env).jobs
            supervisor.transaction.follow_ups.append((save.job.id, JobId(job_id)))


def check_follow_ups(spec: JobSpec, config: Config) -> None:
    """Refuse a job if the configuration does not allow what may follow it.

    Raises:
        Refused, NotAllowed: as from `check_may_run`, with the option in front.
    """
    for event, following in follow_ups(spec):
        try:
            check_may_run(following, config)
        except Refused as error:
            raise type(error)(f"{event}: {error}") from error


async def _specs_of(
    job_ids: list[JobId], supervisor: Supervisor, store: StoreReader
) -> dict[JobId, StoredSpec]:
    """Return the specs of jobs, which the transaction may have submitted or changed."""
    specs = await store.read(read.read_specs, job_ids)
    transaction = supervisor.transaction
    for job_id in job_ids:
        stored = transaction.specs.get(job_id) or specs[job_id]
        if (changed := transaction.edited.get(job_id)) is not None:
            stored = StoredSpec.of(changed, stored.uid, stored.created_at)
        specs[job_id] = stored
    return specs


def _cause(save: SaveJob, event: str, name: str | None, end: AttemptEnd | JobView | None) -> JobCause:
    job = save.job
    cause = JobCause(id=job.id, event=event, outcome=Outcome.SUCCEEDED, name=name, attempt=job.attempt)
    if job.state is State.SUCCEEDED:
        return cause
    if end is None or end.outcome is None or job.state is State.CANCELLED:
        return replace(cause, outcome=Outcome.CANCELLED, error=save.reason)
    error = save.reason or outcome_in_words(end)
    if isinstance(end, AttemptEnd) and end.error is not None:
        error = end.error.in_words(end.outcome)
    return replace(cause, outcome=end.outcome, error=error[:MAX_ERROR])
