"""Packed jobs are compared with a dict, which does the same in more memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec.structs import replace

from bgd.core.job import NO_CONDITIONS, Conditions, Job, JobId, RetryPolicy, State
from bgd.core.packed_jobs import PackedJobs
from tests.core.scheduling import NO_RETRIES, NOW, THREE_RETRIES, make_scheduler, submit

POLICIES = [NO_RETRIES, THREE_RETRIES]
CONDITIONS = [NO_CONDITIONS, Conditions(slots=2)]

# of two blocks and the border between them; many at once: otherwise no block would ever be full of kinds
crowds = st.one_of(
    st.builds(range, st.integers(200, 300), st.integers(260, 520)),
    st.builds(range, st.integers(600, 700), st.integers(660, 1100)),
)
kinds = st.builds(
    Job,
    st.just(JobId(0)),
    st.sampled_from([State.QUEUED, State.QUEUED, State.QUEUED, State.HELD, State.SCHEDULED, State.RUNNING]),
    st.sampled_from(["default", "other"]),
    st.integers(0, 1),
    st.sampled_from(POLICIES),
    attempt=st.sampled_from([0, 0, 0, 1]),
    due=st.sampled_from([None, None, 5.0]),
    conditions=st.sampled_from(CONDITIONS),
)


class Packing(RuleBasedStateMachine):
    """Jobs of some kinds that come, change and go."""

    def __init__(self):
        super().__init__()
        self.packed = PackedJobs()
        self.plain: dict[JobId, Job] = {}

    @rule(ids=crowds, kind=kinds)
    def put(self, ids, kind):
        for job_id in map(JobId, ids):
            job = replace(kind, id=job_id)

            assert self.packed.put(job) == self.plain.get(job_id)
            self.plain[job_id] = job

    @rule(first=st.integers(600, 800), count=st.integers(1, 300), kind=kinds)
    def add(self, first, count, kind):
        if not self.plain.keys() & range(first, first + count):
            self.packed.add(replace(kind, id=JobId(first)), count)
            for job_id in map(JobId, range(first, first + count)):
                self.plain[job_id] = replace(kind, id=job_id)

    @precondition(lambda self: self.plain)
    @rule(ids=crowds)
    def remove(self, ids):
        for job_id in self.plain.keys() & ids:
            assert self.packed.pop(job_id) == self.plain.pop(job_id)

    @rule(ids=crowds)
    def look(self, ids):
        for job_id in map(JobId, ids):
            assert self.packed.get(job_id) == self.plain.get(job_id)
            alike = range(job_id, job_id + self.packed.alike_from(job_id))
            expected = self.plain.get(job_id)
            for each in alike[1:]:
                assert expected is not None
                assert self.plain.get(JobId(each)) == replace(expected, id=JobId(each))

    @rule()
    def look_at_all(self):
        assert {job.id: job for job in self.packed} == self.plain
        assert len(self.packed) == len(self.plain)

    def teardown(self):
        for job_id in list(self.plain):
            self.packed.pop(job_id)
        assert list(self.packed) == []
        assert not self.packed._blocks


TestPacking = Packing.TestCase


@pytest.mark.parametrize("others", [[], [1, 2]])
def test_a_job_that_is_not_there_is_not_found(others):
    jobs = PackedJobs()
    for number in others:
        jobs.put(Job(JobId(number), State.QUEUED, "default", 0, NO_RETRIES))

    with pytest.raises(KeyError):
        jobs[JobId(3)]
    with pytest.raises(KeyError):
        jobs.pop(JobId(3))


def test_more_queued_jobs_that_are_alike_take_almost_no_memory():
    scheduler = make_scheduler(slots=0)
    tracemalloc.start()
    try:
        taken = []
        for _ in range(2):
            for _ in range(4_000):
                submit(scheduler)
            scheduler.take_effects()
            taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert taken[1] - taken[0] < 2 * 4_000  # bytes; a job of its own takes almost 200


def test_jobs_that_are_all_different_are_not_packed():
    jobs = PackedJobs()
    for number in range(256):
        jobs.put(Job(JobId(number), State.QUEUED, "default", number, RetryPolicy(retries=number)))

    assert jobs._packed == 4
    assert len(jobs) == 256


def test_packed_jobs_start_in_their_order():
    scheduler = make_scheduler(slots=0)
    ids = [submit(scheduler) for _ in range(600)]
    for job_id in ids[100:300]:
        scheduler.cancel(job_id, NOW)
    scheduler.take_effects()

    scheduler.resize(1000, {}, NOW)

    assert [job.id for job in scheduler.active_jobs()] == ids[:100] + ids[300:]
