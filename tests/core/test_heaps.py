"""Each heap is compared with the simplest thing that does the same: sort everything, every time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from bgd.core.heaps import DueHeap, ReadyHeap
from bgd.core.job import JobId

MANY = 2_000
FEW = 200  # dead entries that may remain when nothing lives

# Many at once: otherwise there would never be enough dead entries to sweep
crowds = st.builds(
    lambda first, count: {JobId(first + number) for number in range(count)},
    st.integers(1, 100),
    st.integers(1, 150),
)


class ReadyHeaps(RuleBasedStateMachine):
    """Jobs that are queued, leave and come back, perhaps with another priority, as cancelled jobs do."""

    def __init__(self):
        super().__init__()
        self.queued: dict[JobId, int] = {}
        self.heap = ReadyHeap(lambda job_id, priority: self.queued.get(job_id) == priority)

    @rule(job_ids=crowds, priority=st.integers(-2, 2))
    def queue(self, job_ids, priority):
        for job_id in job_ids - self.queued.keys():
            self.queued[job_id] = priority
            self.heap.push(job_id, priority)

    @rule(first=st.integers(1, 300), count=st.integers(1, 100), priority=st.integers(-2, 2))
    def queue_many(self, first, count, priority):
        ids = list(map(JobId, range(first, first + count)))
        if self.queued.keys().isdisjoint(ids):  # their entries from before may still be there
            self.heap.push(ids[0], priority, count)
            self.queued.update(dict.fromkeys(ids, priority))

    @rule(job_ids=crowds)
    def leave(self, job_ids):
        for job_id in job_ids & self.queued.keys():
            del self.queued[job_id]
            self.heap.forget()

    @rule()
    def look(self):
        assert self.heap.top() == min(
            ((-priority, job_id) for job_id, priority in self.queued.items()), default=None
        )

    @precondition(lambda self: self.queued)
    @rule(data=st.data(), most=st.sampled_from([1, 20, MANY]))
    def count(self, data, most):
        job_id, priority = data.draw(st.sampled_from(sorted(self.queued.items())))
        before = {each for each, other in self.queued.items() if (-other, each) < (-priority, job_id)}
        found = self.heap.first_before(job_id, priority, most)
        if found is None:
            assert self.heap._entries >= 4 * most
        else:
            assert found <= before
            assert len(found) == min(len(before), most)

    @rule(priority=st.integers(-2, 2))
    def look_at_one_priority(self, priority):
        of_priority = [job_id for job_id, other in self.queued.items() if other == priority]
        assert self.heap.first_of(priority) == min(of_priority, default=None)

    @precondition(lambda self: self.queued)
    @rule()
    def take(self):
        self.look()
        _, job_id = self.heap.top() or pytest.fail("nothing to take")
        self.heap.pop()
        del self.queued[job_id]

    @precondition(lambda self: self.queued)
    @rule(most=st.integers(1, 100))
    def take_many(self, most):
        self.look()
        priority, first = self.heap.top() or pytest.fail("nothing to take")
        following = itertools.takewhile(
            lambda each: self.queued.get(each) == -priority, map(JobId, itertools.count(first))
        )
        wanted = list(itertools.islice(following, most))
        for job_id in wanted[: self.heap.pop(len(wanted))]:
            del self.queued[job_id]

    def teardown(self):
        while self.queued:
            self.take()
        assert self.heap.top() is None
        assert len(self.heap) == 0


TestReadyHeaps = ReadyHeaps.TestCase


def test_many_dead_entries_are_not_counted_through():
    living = {JobId(999)}
    heap = ReadyHeap(lambda job_id, _: job_id in living)
    for number in range(1, 1000):
        heap.push(JobId(number), 0)

    assert heap.first_before(JobId(999), 0, 10) is None
    assert heap.first_before(JobId(999), 0, 1000) == set()


class DueHeaps(RuleBasedStateMachine):
    """Jobs that wait for a time, stop waiting, and wait again for the same time or another."""

    def __init__(self):
        super().__init__()
        self.due: dict[JobId, float] = {}
        self.heap = DueHeap[JobId](lambda job_id, due: self.due.get(job_id) == due)

    @rule(job_ids=crowds, due=st.integers(0, 20))
    def wait(self, job_ids, due):
        for job_id in job_ids - self.due.keys():
            self.due[job_id] = due
            self.heap.push(job_id, due)

    @rule(job_ids=crowds)
    def leave(self, job_ids):
        for job_id in job_ids & self.due.keys():
            del self.due[job_id]
            self.heap.forget()

    @rule()
    def look(self):
        assert self.heap.next_at() == min(self.due.values(), default=None)

    @rule(elapsed=st.integers(0, 20))
    def come_due(self, elapsed):
        expected = min(((due, job_id) for job_id, due in self.due.items()), default=None)
        if expected is None or expected[0] > elapsed:
            assert self.heap.pop_due(elapsed) is None
        else:
            assert self.heap.pop_due(elapsed) == expected[1]
            del self.due[expected[1]]

    def teardown(self):
        while self.due:
            self.come_due(20)
        assert self.heap.next_at() is None
        assert len(self.heap) == 0


TestDueHeaps = DueHeaps.TestCase


# --- what was forgotten does not pile up ---------------------------------------------------------------


def test_jobs_that_left_the_queue_do_not_pile_up():
    heap = ReadyHeap(lambda _id, _priority: False)

    for job_id in map(JobId, range(MANY)):
        heap.push(job_id, job_id % 5)
        heap.forget()

    assert len(heap) < FEW
    assert heap.top() is None


def test_a_job_that_leaves_and_comes_back_does_not_pile_up():
    heap = ReadyHeap(lambda _id, _priority: True)
    heap.push(JobId(1), 0)

    for _ in range(MANY):
        heap.forget()
        heap.push(JobId(1), 0)

    assert len(heap) < FEW
    assert heap.top() == (0, 1)


def test_jobs_that_stopped_waiting_for_a_time_do_not_pile_up():
    heap = DueHeap[JobId](lambda _id, _due: False)

    for job_id in map(JobId, range(MANY)):
        heap.push(job_id, float(job_id))
        heap.forget()

    assert len(heap) < FEW
    assert heap.next_at() is None


def test_dead_entries_of_a_batch_do_not_cause_a_sweep_because_they_take_no_memory():
    asked = []

    def is_live(job_id, _priority):
        asked.append(job_id)
        return True

    heap = ReadyHeap(is_live)
    for job_id in map(JobId, range(MANY)):
        heap.push(job_id, 0)

    for _ in range(MANY):
        heap.forget()

    assert asked == []


def test_jobs_that_follow_one_another_take_the_memory_of_one():
    heap = ReadyHeap(lambda _id, _priority: True)
    for job_id in map(JobId, range(MANY)):
        heap.push(job_id, 0)
    for _ in range(10):
        heap.pop()
    heap.push(JobId(MANY), 0)

    assert [runs.firsts for runs in heap._runs.values()] == [[10]]
    assert heap.top() == (0, 10)


@given(st.lists(st.tuples(st.integers(1, 200).map(JobId), st.integers(-3, 3)), unique_by=lambda job: job[0]))
def test_jobs_come_by_priority_and_then_in_order_of_submission(jobs):
    waiting = dict(jobs)
    heap = ReadyHeap(lambda job_id, _priority: job_id in waiting)
    for job_id, priority in jobs:
        heap.push(job_id, priority)

    order = []
    while (top := heap.top()) is not None:
        order.append(top)
        heap.pop()
        del waiting[top[1]]

    assert order == sorted((-priority, job_id) for job_id, priority in jobs)


@pytest.mark.parametrize("due", [0.0, 5.0])
def test_a_job_is_due_at_its_time_and_not_before(due):
    heap = DueHeap[JobId](lambda _id, _due: True)
    heap.push(JobId(1), due)

    assert heap.pop_due(due - 0.001) is None
    assert heap.pop_due(due) == 1
