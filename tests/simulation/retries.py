"""Retries in the simulation: pipelines that fail and are retried, and the laws for what comes along."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Collection
from math import inf

from msgspec.structs import replace

from bgd.core.conditions import BECAUSE_OF, WHILE_HELD
from bgd.core.job import FINAL, JobId, State
from bgd.core.spec import JobSpec
from bgd.daemon.storage import read
from bgd.wire.replies import Acted
from bgd.wire.requests import Request, Retry, Selection, Submit, SubmitMany
from bgd.wire.views import EventView
from tests.end_to_end.clients import Action
from tests.simulation.clients import UNSENT, SimulatedClient

SHARE = 0.4  # of all steps in histories with retries
NEWEST = 8  # jobs that others wait for, and that are retried
NOT_ENOUGH = {State.FAILED, State.CANCELLED}


class Retrier:
    """Draws the requests of a client that submits pipelines, which often fail, and retries them."""

    def __init__(self, client: SimulatedClient, seed: int) -> None:
        self.client = client
        self._dice = random.Random(~seed)  # its own, so that other histories stay as they were

    def next_request(self) -> Request:
        """Draw a request: jobs that wait for the newest ones, or a retry of some of these."""
        dice, newest = self._dice, self.client.own[-NEWEST:]
        if len(newest) < NEWEST // 2 or dice.random() < 0.4:
            specs = [self._spec(newest) for _ in range(dice.choice([1, 1, 3]))]
            return Submit(UNSENT, specs[0]) if len(specs) == 1 else SubmitMany(id=UNSENT, specs=specs)
        if dice.random() < 0.2:
            return Retry(UNSENT, where=Selection(states=[State.FAILED]), alone=dice.random() < 0.2)
        return Retry(UNSENT, dice.sample(newest, dice.choice([1, 1, 2, 4])), alone=dice.random() < 0.2)

    def _spec(self, newest: list[int]) -> JobSpec:
        dice = self._dice
        others = tuple(dice.sample(newest, min(len(newest), dice.choice([0, 1, 1, 2]))))
        delay = dice.choice([0.0, 0.0, 0.0, 2.0])
        spec = JobSpec(
            argv=(
                "/job",
                str(dice.choice([0.01, 0.5, 3.0])),
                str(dice.choice([0, 3])),
                str(dice.choice([0, 3])),
            ),
            env={},
            cwd="/",
            retries=0,
            delay=delay,
            hold=dice.random() < 0.1,
            expires=dice.choice([0.4, 9.0]) if dice.random() < 0.2 and not delay else None,
        )
        return replace(spec, **{dice.choice(["after", "after", "after_any"]): others})


def check_retries(disk: sqlite3.Connection, stream: list[EventView], actions: list[Action]) -> Counter[str]:
    """Check that what was cancelled because of a job comes along with its retry, in the same transaction.

    It may stay cancelled if another job that it waits for did not succeed or was removed, or for its key. The
    answers name what came along. Nobody has set the clock. Return how often something did, and did not.
    """
    specs = read.plain_specs(disk, [JobId(job) for job in {event.job for event in stream}])
    found: Counter[str] = Counter()
    states: dict[int, State] = {}
    reasons: dict[int, str] = {}
    for place, event in enumerate(stream):
        if states.get(event.job) in NOT_ENOUGH and event.state not in FINAL:
            because = BECAUSE_OF.format(event.job, "")
            due = {
                job
                for job, state in states.items()
                if job in specs and state is State.CANCELLED and reasons[job].startswith(because)
            }
            left = due - _revived_with(stream, place)
            found["came along"] += len(due - left)
            after = states | {each.job: each.state for each in _at_once(stream, place)}
            stuck = {job for job in left if not _has_excuse(specs[JobId(job)], after, specs)}
            held = {job for job in due - left if reasons[job].endswith(WHILE_HELD)}
            free = {job for job in held if after[job] is not State.HELD and not _may_be_asked(actions, job)}
            assert not free, f"{free} was held, and is not held again after the retry of job {event.job}"
            is_alone = any(_may_be_alone(action, event) for action in actions)
            assert is_alone or not stuck, f"{stuck} stays cancelled, and job {event.job} is retried: {event}"
            found["left alone" if is_alone else "stayed cancelled"] += len(left)
        states[event.job], reasons[event.job] = event.state, event.reason or ""
    _check_answers(stream, actions)
    return found


def _at_once(stream: list[EventView], place: int) -> list[EventView]:
    """Return what happened at the time of an event, and after it: all of its transaction is among that."""
    return [event for event in stream[place:] if event.at == stream[place].at]


def _revived_with(stream: list[EventView], place: int) -> set[int]:
    return {event.job for event in _at_once(stream, place) if event.state not in FINAL}


def _has_excuse(spec: JobSpec, states: dict[int, State], known: Collection[int]) -> bool:
    """Return whether a job cannot come along."""
    others = [other for other in spec.after if other not in known or states.get(other) in NOT_ENOUGH]
    return bool(others) or spec.key is not None


def _may_be_alone(action: Action, event: EventView) -> bool:
    """Return whether a request to retry jobs alone may have led to an event."""
    until = inf if action.reply is None else action.answered_at
    is_alone = isinstance(action.request, Retry) and action.request.alone
    is_whole = is_alone and action.request.where is not None  # type: ignore[attr-defined]  # of a Retry
    return is_alone and action.asked_at <= event.at <= (inf if is_whole else until)


def _may_be_asked(actions: list[Action], job: int) -> bool:
    """Return whether somebody may have retried a job itself."""
    return any(job in getattr(action.request, "jobs", ()) for action in actions)


def _check_answers(stream: list[EventView], actions: list[Action]) -> None:
    revived: dict[int, list[float]] = {}
    for event in stream:
        if event.state not in FINAL:
            revived.setdefault(event.job, []).append(event.at)
    for action in actions:
        for result in action.reply.results if isinstance(action.reply, Acted) else ():
            for job in result.along:
                times = [at for at in revived[job] if action.asked_at <= at <= action.answered_at]
                assert times, f"job {job} is said to have come along with {result.job}"
