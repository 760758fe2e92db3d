"""Unfinished jobs by id. Waiting jobs that differ only by their ids take almost no memory.

A batch of a million lines makes a million such jobs. Ids are divided into blocks of consecutive ones. A block
keeps one job of each of a few kinds and, for each kind, a bit for each of its ids. Jobs of other kinds, and
jobs that have run or wait for something of their own, are stored unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from bgd.core.job import Job, JobId, State

_BITS = 8  # of an id: its place in its block; a block of 256 takes some 200 bytes for each kind
_PLACE = (1 << _BITS) - 1
_MAX_KINDS = 4  # in a block; if all jobs differ, packing them would take more memory than it saves
_FEW = 64  # jobs stored unpacked: packing them would save little and delay those that start at once
_PACKED_STATES = frozenset({State.QUEUED, State.HELD})


class _Alike:
    """Jobs of a block that differ only by their ids: one of them, and a bit for each of their places."""

    __slots__ = ("places", "sample")

    def __init__(self, sample: Job) -> None:
        self.sample = sample
        self.places = 0

    def job(self, job_id: JobId) -> Job:
        """Return one of these jobs."""
        sample = self.sample
        return Job(
            job_id, sample.state, sample.queue, sample.priority, sample.policy, conditions=sample.conditions
        )


class PackedJobs:
    """Unfinished jobs by id. Getting, putting and removing take constant time."""

    def __init__(self) -> None:
        self._single: dict[JobId, Job] = {}
        self._blocks: dict[int, list[_Alike]] = {}
        self._packed = 0
        self._highest = JobId(0)  # id ever stored

    def get(self, job_id: JobId) -> Job | None:
        """Return the job with an id, None if there is none."""
        job = self._single.get(job_id)
        if job is None and self._packed:
            for alike in self._blocks.get(job_id >> _BITS, ()):
                if alike.places >> (job_id & _PLACE) & 1:
                    return alike.job(job_id)
        return job

    def __getitem__(self, job_id: JobId) -> Job:
        """Return the job with an id.

        Raises:
            KeyError: there is none.
        """
        job = self.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def put(self, job: Job) -> Job | None:
        """Store a job, replacing the one with its id; return the old one, None if there was none."""
        if job.id > self._highest:
            self._highest, old = job.id, None
        elif (old := self._single.get(job.id)) is None and self._packed:
            old = self._unpack(job.id)
        if len(self._single) < _FEW or (alike := self._alike(job, job.id >> _BITS)) is None:
            self._single[job.id] = job
            return old
        if old is not None:
            self._single.pop(job.id, None)
        alike.places |= 1 << (job.id & _PLACE)
        self._packed += 1
        return old

    def add(self, job: Job, count: int) -> None:
        """Store `count` new jobs: this one, and the same job with each of the next ids."""
        first, end = job.id, job.id + count
        while first < end:
            stop = min(end, (first | _PLACE) + 1)  # of this block
            alike = self._alike(job, first >> _BITS)
            if alike is None:
                self._single.update((JobId(each), replace(job, id=each)) for each in range(first, stop))
            else:
                alike.places |= ((1 << (stop - first)) - 1) << (first & _PLACE)
                self._packed += stop - first
            first = JobId(stop)
        self._highest = max(self._highest, JobId(end - 1))

    def pop(self, job_id: JobId) -> Job:
        """Remove the job with an id and return it.

        Raises:
            KeyError: there is none.
        """
        job = self._single.pop(job_id, None) or self._unpack(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def alike_from(self, job_id: JobId) -> int:
        """Return how many jobs with consecutive ids, from this one on, are packed as alike; at least 1."""
        for alike in self._blocks.get(job_id >> _BITS, ()):
            if (following := alike.places >> (job_id & _PLACE)) & 1:
                return (following ^ (following + 1)).bit_length() - 1
        return 1

    def __iter__(self) -> Iterator[Job]:
        """Yield all jobs, in no order."""
        yield from self._single.values()
        for block, kinds in self._blocks.items():
            for alike in kinds:
                for place in range(_PLACE + 1):
                    if alike.places >> place & 1:
                        yield alike.job(JobId((block << _BITS) + place))

    def __len__(self) -> int:
        return len(self._single) + self._packed

    def _alike(self, job: Job, block: int) -> _Alike | None:
        """Return the jobs of a block that this one can be packed with; None: it must stay unpacked."""
        if job.state not in _PACKED_STATES or job.attempt or job.due is not None:
            return None
        kinds = self._blocks.get(block)
        if kinds is None:
            kinds = self._blocks[block] = []
        for alike in kinds:
            sample = alike.sample
            if (
                job.policy is sample.policy
                and job.conditions is sample.conditions
                and job.priority == sample.priority
                and job.state is sample.state
                and job.queue == sample.queue
            ):
                return alike
        if len(kinds) == _MAX_KINDS:
            return None
        kinds.append(_Alike(job))
        return kinds[-1]

    def _unpack(self, job_id: JobId) -> Job | None:
        """Remove a packed job and return it; None if there is none with this id."""
        block, bit = job_id >> _BITS, 1 << (job_id & _PLACE)
        kinds = self._blocks.get(block, [])
        for alike in kinds:
            if alike.places & bit:
                alike.places ^= bit
                if not alike.places:
                    kinds.remove(alike)
                    if not kinds:
                        del self._blocks[block]
                self._packed -= 1
                return alike.job(job_id)
        return None
