from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bgd.core.breakers import BreakerRule
from bgd.core.explain import Cause
from bgd.core.job import SHORT_RUN, JobId, Outcome, Rate, RetryPolicy, State
from bgd.core.limits import QueueRule
from bgd.core.scheduler import CommandAttempt, Scheduler, StartAttempt
from bgd.core.slots import MAX_PREFETCHED, Recall, Slots
from tests.core.scheduling import NOW, at, limits, make_scheduler, started, submit

LONG = 2 * SHORT_RUN


class SlotHistories(RuleBasedStateMachine):
    """Jobs take slots, some several, and give them back soon or late; some were restored."""

    def __init__(self):
        super().__init__()
        self.slots = Slots()
        self.slots.prefetches = True
        self.slots.total = 3
        self.held: list[tuple[int, int]] = []

    @rule(size=st.integers(1, 2))
    def take(self, size):
        if self.slots.total - self.slots.taken < size:
            return
        free = min({1, 2, 3, 4, 5, 6} - {number for number, _ in self.held})
        assert self.slots.take(size, (0, 1)) == free
        self.held.append((free, size))

    @rule()
    def prefetch(self):
        if self.slots.short and self.slots.may_prefetch(0.0):
            users = Counter(number for number, _ in self.held)
            number = self.slots.take(1, (0, 1))
            assert 0 < users[number] <= MAX_PREFETCHED
            assert all(size == 1 for held, size in self.held if held == number)
            self.held.append((number, 1))

    @rule(number=st.integers(1, 6), size=st.integers(1, 2))
    def restore(self, number, size):
        if size == 1 or (number, size) not in self.held:
            self.slots.retake(number, size, (0, 1))
            self.held.append((number, size))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, SHORT_RUN / 3, SHORT_RUN / 3, LONG, None]))
    def give_back(self, data, seconds):
        number, size = data.draw(st.sampled_from(sorted(self.held)))
        self.held.remove((number, size))
        self.slots.give_back(number, size, seconds, 0.0)

    @rule(total=st.integers(1, 5))
    def resize(self, total):
        self.slots.total = total

    @invariant()
    def count(self):
        sizes = dict(sorted(self.held))  # the largest of each number
        assert self.slots.taken == sum(sizes.values())
        assert self.slots.prefetched == len(self.held) - len(sizes)


TestSlotHistories = SlotHistories.TestCase


def test_a_free_number_that_is_restored_is_not_taken_again():
    slots = Slots()
    slots.total = 3
    first, second = slots.take(1, (0, 1)), slots.take(1, (0, 2))
    slots.give_back(first, 1, None, 0.0)
    slots.retake(first, 1, (0, 1))

    assert (first, second, slots.take(1, (0, 3))) == (1, 2, 3)


def test_nothing_is_prefetched_behind_a_larger_job():
    slots = Slots()
    slots.prefetches, slots.total = True, 2
    slots.retake(1, 1, (0, 1))
    slots.retake(1, 2, (0, 2))

    slots.give_back(1, 1, 0.0, 0.0)

    assert (slots.taken, slots.may_prefetch(0.0)) == (2, False)


# --- what the Scheduler does with it --------------------------------------------------------------------


@pytest.fixture
def scheduler():
    scheduler = Scheduler(1, limits(narrow=1), 0, lambda: 0.5, {"gpu": ("0",)})
    scheduler.table.queues.slots.prefetches = True
    return scheduler


def end(scheduler, job_id, seconds=0.0):
    """Let the attempt of a job succeed; return what starts, as (job, attempt, slot)."""
    scheduler.take_effects()
    assert scheduler.ended(job_id, scheduler.get(job_id).attempt, Outcome.SUCCEEDED, NOW, seconds=seconds)
    return started(scheduler)


def recalls(scheduler):
    """Return whether prefetched attempts are recalled since the last effects."""
    return Recall() in scheduler.take_effects()


def test_after_short_jobs_more_and_more_start_ahead(scheduler):
    jobs = [submit(scheduler) for _ in range(20)]

    ahead = [len(end(scheduler, job)) for job in jobs[:4]]

    # the next one in the free slot, then twice as many and one behind it, for each that has begun there
    assert ahead == [2, 3, 5, 1]
    assert (scheduler.running, len(scheduler.active_jobs())) == (1, 1 + MAX_PREFETCHED)
    assert scheduler.taken == 1


def test_a_prefetched_job_has_the_slot_of_the_one_before_it(scheduler):
    first, second, third = (submit(scheduler) for _ in range(3))

    assert end(scheduler, first) == [(second, 1, 1), (third, 1, 1)]


def test_nothing_is_prefetched_after_a_long_job(scheduler):
    first, second, _ = (submit(scheduler) for _ in range(3))

    assert end(scheduler, first, LONG) == [(second, 1, 1)]


def test_nothing_is_prefetched_if_the_launcher_cannot_hold_it_back():
    scheduler = make_scheduler(slots=1)
    first, second, _ = (submit(scheduler) for _ in range(3))

    assert end(scheduler, first) == [(second, 1, 1)]


@pytest.mark.parametrize(
    "options",
    [{"slots": 2}, {"queue": "narrow"}, {"expires": 60.0}, {"key": "k"}, {"resources": {"gpu": 1}}],
    ids=lambda options: next(iter(options)),
)
def test_only_what_waits_for_nothing_but_a_slot_is_prefetched(scheduler, options):
    first, second = submit(scheduler), submit(scheduler)
    submit(scheduler, **options)
    behind = submit(scheduler, priority=-1)

    assert end(scheduler, first) == [(second, 1, 1)]
    assert scheduler.get(behind).state is State.QUEUED


def test_a_job_with_a_breaker_is_not_prefetched(scheduler):
    scheduler.breakers.rules = {"app.*": BreakerRule(failures=Rate(2, 60.0, "2/minute"), pause_for=60.0)}
    first, second = submit(scheduler), submit(scheduler)
    submit(scheduler, RetryPolicy(breaker="app.*"))

    assert end(scheduler, first) == [(second, 1, 1)]


def test_nothing_is_prefetched_while_queues_have_weights():
    scheduler = Scheduler(1, {"heavy": QueueRule(weight=3)}, last_id=0, roll=lambda: 0.5)
    scheduler.table.queues.slots.prefetches = True
    first, second, _ = (submit(scheduler) for _ in range(3))

    assert end(scheduler, first) == [(second, 1, 1)]


def test_a_more_urgent_job_recalls_the_prefetched_ones(scheduler):
    first, _, prefetched = (submit(scheduler) for _ in range(3))
    end(scheduler, first)

    submit(scheduler)
    assert not recalls(scheduler)
    urgent = submit(scheduler, priority=1)
    assert recalls(scheduler)
    scheduler.returned(prefetched, NOW)

    assert started(scheduler) == []
    returned = scheduler.get(prefetched)
    assert (returned.state, returned.attempt) == (State.QUEUED, 0)
    assert [job for job, *_ in end(scheduler, JobId(2))] == [urgent, prefetched]


def test_an_earlier_job_that_is_released_recalls_later_ones(scheduler):
    held = submit(scheduler, hold=True)
    first, *_ = (submit(scheduler) for _ in range(3))
    end(scheduler, first)

    scheduler.release(held, NOW)

    assert recalls(scheduler)


def test_a_job_that_comes_back_recalls_no_later_ones_of_its_priority(scheduler):
    scheduler.resize(2, {}, NOW)
    one, other, third, back, fifth, later = (submit(scheduler) for _ in range(6))
    assert end(scheduler, one) == [(third, 1, 1), (back, 1, 1)]
    assert end(scheduler, other) == [(fifth, 1, 2), (later, 1, 2)]

    scheduler.returned(back, NOW)

    assert not recalls(scheduler)


def test_a_more_urgent_job_recalls_once_its_rate_lets_it_start():
    scheduler = Scheduler(1, {"api": QueueRule(rate=Rate(1, 10.0, "1/10s"))}, 0, lambda: 0.5)
    scheduler.table.queues.slots.prefetches = True
    first = submit(scheduler, queue="api", priority=1)
    submit(scheduler, queue="api", priority=1)
    second, *_ = (submit(scheduler) for _ in range(3))
    end(scheduler, first)
    end(scheduler, second)
    assert not recalls(scheduler)

    scheduler.advance(at(10.0))

    assert recalls(scheduler)


@pytest.mark.parametrize(
    "why",
    [lambda scheduler: scheduler.pause(Cause.PAUSE), lambda scheduler: scheduler.resize(1, {}, NOW)],
    ids=["pause", "resize"],
)
def test_a_pause_and_new_limits_recall_the_prefetched_ones(scheduler, why):
    first, *_ = (submit(scheduler) for _ in range(3))
    why(scheduler)
    scheduler.resume(Cause.PAUSE, NOW)
    assert not recalls(scheduler)
    end(scheduler, first)

    why(scheduler)

    assert recalls(scheduler)


def test_only_attempts_that_started_before_the_reason_are_recalled(scheduler):
    first, second, *_ = (submit(scheduler) for _ in range(4))
    end(scheduler, first)
    end(scheduler, second)

    urgent = submit(scheduler, priority=1)

    effects = scheduler.take_effects()
    [start] = [effect for effect in effects if isinstance(effect, StartAttempt)]
    assert start.job.id == urgent
    assert effects.index(Recall()) < effects.index(start)


def test_what_is_recalled_is_not_recalled_again(scheduler):
    first, _, low = submit(scheduler), submit(scheduler), submit(scheduler, priority=-1)
    end(scheduler, first)
    submit(scheduler)
    assert recalls(scheduler)
    scheduler.returned(low, NOW)

    submit(scheduler)

    assert not recalls(scheduler)


def test_fewer_slots_get_no_more_jobs_ahead_until_as_few_are_taken(scheduler):
    scheduler.resize(2, {}, NOW)
    jobs = [submit(scheduler) for _ in range(6)]
    end(scheduler, jobs[0], LONG)

    scheduler.resize(1, {}, NOW)

    assert end(scheduler, jobs[1]) == []
    assert end(scheduler, jobs[2]) == [(jobs[3], 1, 1), (jobs[4], 1, 1)]


def test_after_a_return_nothing_is_prefetched_until_a_short_job_has_ended(scheduler):
    first, second, third = (submit(scheduler) for _ in range(3))
    end(scheduler, first)

    scheduler.returned(third, NOW)

    assert started(scheduler) == []
    fourth = submit(scheduler)
    assert end(scheduler, second) == [(third, 1, 1), (fourth, 1, 1)]


def test_a_return_of_a_job_that_does_not_run_is_refused(scheduler):
    first, _, third = (submit(scheduler) for _ in range(3))
    end(scheduler, first)
    scheduler.cancel(third, NOW)
    assert isinstance(scheduler.take_effects()[-1], CommandAttempt)

    with pytest.raises(KeyError):
        scheduler.returned(third, NOW)


def test_restored_jobs_of_one_slot_take_it_once(scheduler):
    first, second, _ = (submit(scheduler) for _ in range(3))
    end(scheduler, first)
    twin = make_scheduler(slots=1)
    for job_id in (second, second + 1):
        twin.restore(scheduler.get(job_id), slot=1)

    assert (len(twin.active_jobs()), twin.running, twin.taken) == (2, 1, 1)
    submit(twin, priority=5)
    assert recalls(twin)
    end(twin, second)
    assert (twin.running, twin.taken) == (1, 1)


def test_a_returned_trial_of_paused_calls_lets_another_one_try():
    scheduler = make_scheduler(slots=1)
    scheduler.breakers.rules = {"app.*": BreakerRule(failures=Rate(1, 60.0, "1/minute"), pause_for=60.0)}
    policy = RetryPolicy(breaker="app.*")
    failed, trial = submit(scheduler, policy), submit(scheduler, policy)
    scheduler.ended(failed, 1, Outcome.EXIT, NOW)
    scheduler.advance(at(60.0))
    assert scheduler.get(trial).state is State.RUNNING

    scheduler.returned(trial, at(60.0))

    assert scheduler.get(trial).state is State.RUNNING
    assert scheduler.get(trial).attempt == 1


def test_a_job_that_is_submitted_while_another_one_runs_is_not_prefetched(scheduler):
    first, second = submit(scheduler), submit(scheduler)
    assert end(scheduler, first) == [(second, 1, 1)]

    late = submit(scheduler, now=at(0.001))

    assert scheduler.get(late).state is State.QUEUED
