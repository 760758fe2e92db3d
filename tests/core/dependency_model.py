"""Which jobs wait for which others, in the simplest way: look at every pair, every time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bgd.core.job import FINAL, Job, JobId, State
from bgd.core.spec import JobSpec


class DependencyModel:
    """Jobs and the jobs they wait for. `doomed`: jobs that wait for a success that did not come."""

    def __init__(self) -> None:
        self.doomed: set[JobId] = set()
        self._after: dict[JobId, frozenset[int]] = {}
        self._after_any: dict[JobId, frozenset[int]] = {}

    def __copy__(self) -> DependencyModel:
        twin = DependencyModel()
        twin.doomed |= self.doomed
        twin._after |= self._after
        twin._after_any |= self._after_any
        return twin

    def of(self, job_id: JobId) -> frozenset[int]:
        return self._after[job_id] | self._after_any[job_id]

    def ask(self, job_id: JobId, spec: JobSpec, changed: Collection[str], jobs: Mapping[JobId, Job]) -> None:
        """Let a job wait for the jobs in its spec, where these have changed."""
        if "after" in changed:
            self._after[job_id] = frozenset(spec.after)
            self.doomed.discard(job_id)
        if "after_any" in changed:
            self._after_any[job_id] = frozenset(spec.after_any)
        for other in self.of(job_id):
            state = jobs[JobId(other)].state
            if state in FINAL:
                self._tell(job_id, JobId(other), state)

    def saw_finish(self, job_id: JobId, state: State) -> None:
        self.doomed.discard(job_id)
        self._after[job_id] = self._after_any[job_id] = frozenset()
        for dependent in self._after:
            self._tell(dependent, job_id, state)

    def closes_cycle(self, job_id: JobId, others: Collection[int]) -> bool:
        """Tell whether one of the others is the job itself, or waits for it."""
        reached: set[int] = set()
        ahead = set(others)
        while ahead - reached:
            reached |= ahead
            ahead = set().union(*(self.of(JobId(other)) for other in reached))
        return job_id in reached

    def _tell(self, dependent: JobId, job_id: JobId, state: State) -> None:
        self._after_any[dependent] -= {job_id}
        if state is State.SUCCEEDED:
            self._after[dependent] -= {job_id}
        elif job_id in self._after[dependent]:
            self.doomed.add(dependent)
