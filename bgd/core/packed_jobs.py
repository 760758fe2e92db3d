"""Unfinished jobs by id. Those that wait and differ by nothing but their ids take almost no memory.

A batch of a million lines makes a million such jobs. Ids are divided into blocks of consecutive ones. A block
keeps one job of each of a few kinds and, for each kind, a bit for each of its ids. A job of a kind that has no
place there, or that has run or waits for something of its own, is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from bgd.core.job import Job, JobId, State

_BITS = 8  # of an id: its place in its block; a block of 256 takes some 200 bytes for each kind
_PLACE = (1 << _BITS) - 1
_MAX_KINDS = 4  # in a block; if all jobs differ, packing them would take more memory than it saves
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
    """Unfinished jobs by id. Getting, putting and removing one takes the same time however many there are."""

    def __init__(self) -> None:
        self._single: dict[JobId, Job] = {}
        self._blocks: dict[int, list[_Alike]] = {}
        self._packed = 0

    def get(self, job_id: JobId) -> Job | None:
        """Return the job with an id, None if there is none."""
        job = self._single.get(job_id)
        if job is None and (kinds := self._blocks.get(job_id >> _BITS)) is not None:
            for alike in kinds:
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
        """Keep a job in place of the one with its id; return that, None if there was none."""
        old = self._single.get(job.id)
        if old is None and job.id >> _BITS in self._blocks:
            old = self._unpack(job.id)
        if job.state in _PACKED_STATES and not job.attempt and job.due is None and self._pack(job):
            if old is not None:
                self._single.pop(job.id, None)
        else:
            self._single[job.id] = job
        return old

    def pop(self, job_id: JobId) -> Job:
        """Remove the job with an id and return it.

        Raises:
            KeyError: there is none.
        """
        job = self._single.pop(job_id, None) or self._unpack(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

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

    def _pack(self, job: Job) -> bool:
        """Keep a job as one bit; return False, and keep nothing, if its block has no place for its kind."""
        kinds = self._blocks.get(job.id >> _BITS)
        if kinds is None:
            kinds = self._blocks[job.id >> _BITS] = []
        for alike in kinds:
            sample = alike.sample
            if (
                job.policy is sample.policy
                and job.conditions is sample.conditions
                and job.priority == sample.priority
                and job.state is sample.state
                and job.queue == sample.queue
            ):
                break
        else:
            if len(kinds) == _MAX_KINDS:
                return False
            alike = _Alike(job)
            kinds.append(alike)
        alike.places |= 1 << (job.id & _PLACE)
        self._packed += 1
        return True

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
