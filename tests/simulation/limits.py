"""Rates and weights of queues in the simulation, and the laws that they keep."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from msgspec.structs import replace

from bgd.core.job import NO_CONDITIONS, Conditions, Job, JobId, Move, Now, Rate, State
from bgd.core.queues import ReadyQueues
from bgd.core.scheduler import Scheduler
from bgd.settings.config import Config, QueueConfig
from bgd.wire.views import EventView
from tests.core.slot_model import SlotModel, TakenSlot
from tests.end_to_end.history import History
from tests.simulation.launcher import GPUS

LIMITED = 0.3  # of all histories; in others no queue has a rate or a weight
RATES = (None, None, Rate(1, 2.0, "1/2s"), Rate(2, 15.0, "2/15s"), Rate(4, 40.0, "4/40s"))
WEIGHTS = (None, 1, 2, 3)
TINY = 1e-9  # differences of sums of fractions
SLACK = 0.001  # seconds: a rate is kept on the elapsed clock, and events have the time of the wall clock


def with_limits(config: Config, seed: int) -> Config:
    """Return the configuration of a history with rates and weights, and often so few slots that jobs wait."""
    dice = random.Random(~seed)
    queues = {
        queue: replace(each, rate=dice.choice(RATES), weight=dice.choice(WEIGHTS))
        for queue, each in config.queues.items()
    }
    daemon = replace(config.daemon, slots=dice.choice([1, 1, config.daemon.slots]))
    return replace(config, queues=queues, daemon=daemon)


# --- no rate is exceeded ----------------------------------------------------------------------------------


def check_rates(history: History, queues: Mapping[str, QueueConfig], lives: list[float]) -> Counter[str]:
    """Check that no queue starts more jobs within any time than its rate says; retries count, over restarts.

    The starts of a job that was removed are forgotten by the next supervisor; `lives`: when each has started.
    Jobs that were edited may have been in another queue. Return how often each queue with a rate was full.
    """
    full: Counter[str] = Counter()
    edited = history.edited_jobs()
    removed = {event.job: event.at for event in history.events if event.what == "remove"}
    starts: defaultdict[str, list[EventView]] = defaultdict(list)
    for event in history.events:
        spec = history.specs.get(event.job)
        if event.what != Move.START or spec is None or event.job in edited:
            continue
        queue = spec.queue or "default"
        rate = queues[queue].rate if queue in queues else None
        if rate is None:
            continue
        starts[queue].append(event)
        within = [each for each in starts[queue] if event.at - each.at < rate.seconds - SLACK]
        known = [
            each
            for each in within
            if not any(removed.get(each.job, event.at) <= life <= event.at for life in lives)
        ]
        full["full rate"] += len(known) == rate.count
        assert len(known) <= rate.count, (
            f"the rate of {queue} is {rate}, and these started: {[(each.job, each.at) for each in known]}"
        )
    return full


# --- nobody waits for ever --------------------------------------------------------------------------------


class ShareWatch:
    """Checks that queues with weights take turns.

    While a queue has a job that only waits for slots, no other one that is not more urgent gets more than its
    share: by its weight as many slots as the latest job of the queue that waits has had by its own, and one
    job more.

    Attributes:
        passed: how often a queue was passed over.
        problems: what is wrong.
    """

    def __init__(self) -> None:
        self.passed = 0
        self.problems: list[str] = []
        self._queues: ReadyQueues | None = None
        self._weights: dict[str, int] = {}
        self._latest: dict[str | None, float] = {}  # slots of the latest job, by the weight of its queue
        self._given: defaultdict[str | None, Counter[str | None]] = defaultdict(Counter)  # while it waits

    def saw_start(self, scheduler: Scheduler, job: Job, now: Now) -> None:
        """Check a start that the Scheduler has decided on, and that does not count yet."""
        queues = scheduler.table.queues
        weights = {queue: rule.weight or 1 for queue, rule in queues._rules.items()}
        if queues is not self._queues or weights != self._weights:  # what everybody had is forgotten
            self._queues, self._weights = queues, weights
            self._latest.clear()
            self._given.clear()
        model = _model_of(queues)
        if model._is_outside(job.queue):
            return
        share, size = model._share(job), model._size(job)
        queued = [each for each in scheduler.table.jobs if each.state is State.QUEUED]
        ready = [each for each in model._ready([*queued, job], now.elapsed) if each.priority >= job.priority]
        waiting = {model._share(each) for each in ready} - {share}
        for other in self._given.keys() - waiting:
            del self._given[other]
        for other in waiting:
            given, due = self._given[other][share] / self._weight_of(share), self._latest.get(other, 0.0)
            if given > due + TINY:
                self.problems.append(
                    f"job {job.id} of {share} starts, but it is the turn of {other}: {given} and not {due}"
                )
            self._given[other][share] += size
        self.passed += len(waiting)
        self._latest[share] = size / self._weight_of(share)
        self._given.pop(share, None)

    def _weight_of(self, share: str | None) -> int:
        return 1 if share is None else self._weights[share]


def _model_of(queues: ReadyQueues) -> SlotModel:
    """Return a model of what is taken, which finds out who is ready by looking at all jobs."""
    model = SlotModel(queues.slots.total, queues._rules, {"gpu": GPUS})
    model.taken = {
        job_id: TakenSlot(
            held.number,
            held.size,
            held.queue,
            _conditions_of(queues, job_id).target,
            held.tokens,
            held.urgency,
            _conditions_of(queues, job_id).limit,
        )
        for job_id, held in queues.active.items()
    }
    model.starts = [(queue, at) for queue, starts in queues.starts._starts.items() for at in starts]
    return model


def _conditions_of(queues: ReadyQueues, job_id: JobId) -> Conditions:
    job = queues._job_of(job_id)
    return NO_CONDITIONS if job is None else job.conditions


@contextmanager
def watched_shares() -> Iterator[ShareWatch]:
    """Watch each start that a Scheduler decides on."""
    watch = ShareWatch()
    move = Scheduler._move

    def moved(self: Scheduler, job: Job, what: Move, now: Now, *rest: Any, **changes: Any) -> Job:
        if what is Move.START and not self.is_frozen:  # then an attempt has begun already
            watch.saw_start(self, job, now)
        return move(self, job, what, now, *rest, **changes)

    with mock.patch.object(Scheduler, "_move", moved):
        yield watch
