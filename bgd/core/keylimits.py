"""Limits by key: the attempts that hold a key, and the queued jobs that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from msgspec import Struct

from bgd.core.explain import Cause, Reason
from bgd.core.heaps import ReadyHeap
from bgd.core.job import Job, JobId, KeyLimit


class _Use(Struct, gc=False):
    """How a key is used: `places` attempts may hold it at once, which job `newest` has set.

    `waiting`: the jobs that wait for it, by the lane that they left.
    """

    places: int
    newest: JobId
    holders: dict[JobId, None]
    waiting: dict[Hashable, ReadyHeap]


class KeyLimits:
    """The keys that active jobs hold or queued ones wait for; other keys cost nothing.

    If jobs give different limits for a key, the newest one counts, among jobs that run with the key and
    those that were queued or came to the top of their lane while another one ran.

    Jobs wait in the order of their lanes, so each lane has a heap. As long as a key has a free place, one of
    its jobs from each of these lanes is back in its lane. Otherwise a job whose queue is paused would keep
    the jobs of other queues waiting for a place that it does not take.

    Args:
        job_of, alike_from: as in ReadyQueues.
        push: puts a job, or alike ones with consecutive ids, back into its lane.
    """

    def __init__(
        self,
        job_of: Callable[[JobId], Job | None],
        alike_from: Callable[[JobId], int],
        push: Callable[[Job, int], None],
    ) -> None:
        self._uses: dict[str, _Use] = {}
        self._job_of = job_of
        self._alike_from = alike_from
        self._push = push

    def __bool__(self) -> bool:
        """Return whether any key is in use."""
        return bool(self._uses)

    # --- questions ------------------------------------------------------------------------------------

    def is_full(self, job: Job) -> bool:
        """Return whether a job has a limit by key, and attempts hold all places of the key."""
        use = None if job.conditions.limit is None else self._uses.get(job.conditions.limit.key)
        return use is not None and len(use.holders) >= use.places

    def must_wait(self, job: Job) -> bool:
        """Return whether a job cannot start before an attempt gives its key back."""
        return job.conditions.limit is not None and not job.conditions.limit.skips and self.is_full(job)

    def is_skipped(self, job: Job) -> bool:
        """Return whether a job is to be cancelled at its turn, because its key has no free place."""
        return job.conditions.limit is not None and job.conditions.limit.skips and self.is_full(job)

    def has_key(self, job_id: JobId, key: str) -> bool:
        """Return whether an unfinished job has a limit by this key."""
        job = self._job_of(job_id)
        return job is not None and job.conditions.limit is not None and job.conditions.limit.key == key

    def holders(self, key: str) -> dict[JobId, str]:
        """Return the active jobs that hold a key, the earliest start first."""
        use = self._uses.get(key)
        return {} if use is None else dict.fromkeys(use.holders, "")

    def reason(self, limit: KeyLimit) -> Reason:
        """Return why a job waits for its key, which has no free place."""
        use = self._uses[limit.key]
        return Reason(cause=Cause.LIMIT, subject=limit.key, slots=use.places, taken=len(use.holders))

    def waiting_before(self, job: Job, most: int) -> set[JobId]:
        """Return up to `most` jobs of each lane that wait for the key of a job and come before it."""
        use = None if job.conditions.limit is None else self._uses.get(job.conditions.limit.key)
        heaps = () if use is None else use.waiting.values()
        return {each for heap in heaps for each in heap.first_before(job.id, job.priority, most) or ()}

    # --- facts ----------------------------------------------------------------------------------------

    def define(self, job: Job, count: int = 1) -> bool:
        """Take the number of places from a queued job if it is the newest; return whether it has changed.

        `count`: how many alike ones there are with consecutive ids.
        """
        limit, last = job.conditions.limit, JobId(job.id + count - 1)
        use = None if limit is None else self._uses.get(limit.key)
        if limit is None or use is None or last < use.newest:
            return False
        before, use.places, use.newest = use.places, limit.places, last
        if before == use.places:
            return False
        self._wake(limit.key)
        return True

    def take(self, job: Job, limit: KeyLimit) -> None:
        """Give a job that starts, or that was active before a restart, a place of its key."""
        use = self._uses.setdefault(limit.key, _Use(limit.places, job.id, {}, {}))
        use.holders[job.id] = None
        if not self.define(job):
            self._wake(limit.key)

    def give_back(self, job: Job, limit: KeyLimit) -> None:
        """Free the place of a job whose attempt has ended."""
        del self._uses[limit.key].holders[job.id]
        self._wake(limit.key)

    def park(self, job: Job, limit: KeyLimit, lane: Hashable, heap: ReadyHeap) -> None:
        """Let the top of a lane's heap, a job that must wait, and alike ones behind it wait for their key."""
        use, count = self._uses[limit.key], heap.pop(self._alike_from(job.id))
        use.newest = max(use.newest, JobId(job.id + count - 1))
        if lane not in use.waiting:
            use.waiting[lane] = ReadyHeap(partial(self._waits, limit.key, heap.is_live))
        use.waiting[lane].push(job.id, job.priority, count)

    def forget(self, job: Job) -> None:
        """Record that a job, which may wait for its key, left the queue without starting."""
        if job.conditions.limit is not None and (use := self._uses.get(job.conditions.limit.key)) is not None:
            for heap in use.waiting.values():
                heap.forget()
            self._wake(job.conditions.limit.key)

    def wake_all(self) -> None:
        """Put all waiting jobs back, because some now belong to other lanes."""
        for use in list(self._uses.values()):
            heaps, use.waiting = list(use.waiting.values()), {}
            woken: list[tuple[JobId, int]] = []
            for heap in heaps:
                while (top := heap.top()) is not None:
                    woken.append((top[1], heap.pop(self._alike_from(top[1]))))
            self._push_back(woken)

    def _wake(self, key: str) -> None:
        """If a key has a free place, put the first job of each lane that waited for it back."""
        use = self._uses[key]
        if len(use.holders) >= use.places:
            return
        woken: list[tuple[JobId, int]] = []
        for lane, heap in list(use.waiting.items()):
            if (top := heap.top()) is not None:
                woken.append((top[1], heap.pop()))
            if heap.top() is None:
                del use.waiting[lane]
        if not use.holders and not use.waiting:
            del self._uses[key]
        self._push_back(woken)

    def _push_back(self, woken: list[tuple[JobId, int]]) -> None:
        found = [(job, count) for job_id, count in woken if (job := self._job_of(job_id)) is not None]
        for job, count in found:
            self._push(job, count)

    def _waits(self, key: str, is_live: Callable[[JobId, int], bool], job_id: JobId, priority: int) -> bool:
        """Return whether an entry still stands for a queued job that waits for this key."""
        return is_live(job_id, priority) and self.has_key(job_id, key)
