"""People who do everything at once to their jobs and queues, and remember what they asked and were told."""

from __future__ import annotations

import os
import random
import threading
import time
from functools import partial

from msgspec import Struct

from bgd.core.spec import JobSpec
from bgd.wire.replies import Acted, Failed, Reply, Submitted
from bgd.wire.requests import (
    Cancel,
    Changes,
    Continue,
    Edit,
    Hold,
    Pause,
    Release,
    Remove,
    Request,
    Resume,
    Retry,
    SetQueue,
    SetSlots,
    Submit,
    Suspend,
)
from tests.end_to_end.chaos import Caller, Crowd, Gone, Rig
from tests.end_to_end.load import SCRIPT

PEOPLE = 8
LANES = 3  # queues; each belongs to one person, who alone changes it
MOST_IN_LANE = 2  # slots that a queue ever has
MOST_SLOTS = 12  # that there ever are
KEYS = 6
EXPIRES = 0.4  # seconds
MEMORY = 8  # of their latest jobs that people do something to

# What is done to a job, and how often
VERBS: dict[type[Hold | Release | Suspend | Continue | Cancel | Retry | Remove], int] = {
    Hold: 4,
    Release: 5,
    Suspend: 2,
    Continue: 3,
    Cancel: 2,
    Retry: 2,
    Remove: 2,
}

ALL_VERBS = (*VERBS, Submit, Edit, SetSlots, SetQueue, Pause, Resume)

# A slot's number belongs to one attempt at a time, and so do the places of a queue. These locks are let go by
# the death of whoever has them, however it comes.
CROWD = f"""
exec 8>"$1/slot.$BGD_SLOT"
flock -n 8 || echo "overlap $BGD_JOB_ID slot-$BGD_SLOT" >> "$1/truth"
[ "$BGD_SLOT" -le {MOST_SLOTS} ] || echo "overlap $BGD_JOB_ID slot-$BGD_SLOT" >> "$1/truth"
if [ "$BGD_QUEUE" != default ]; then
    exec 7>"$1/$BGD_QUEUE.1"
    flock -n 7 || exec 7>"$1/$BGD_QUEUE.{MOST_IN_LANE}"
    flock -n 7 || echo "overlap $BGD_JOB_ID $BGD_QUEUE" >> "$1/truth"
fi
"""


class Deed(Struct, frozen=True):
    """What somebody asked for, and the answer; `reply` None: the daemon died first, so nobody knows."""

    person: int
    request: Request
    asked_at: float
    answered_at: float
    reply: Reply | None


class People:
    """Some clients, each with jobs of its own, that do something to them all the time."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.deeds: list[Deed] = []
        self._rig = rig
        self._submitted: list[int] = []  # by all of them
        self._suspended: dict[int, list[int]] = {}  # by person, those among which there is one
        self.crowd = Crowd(
            partial(self._live, person, random.Random(f"{seed} {person}")) for person in range(PEOPLE)
        )

    @property
    def undone(self) -> set[str]:
        """The verbs with which nobody has done anything yet."""
        done = {type(deed.request).__name__ for deed in list(self.deeds) if is_done(deed)}
        return {verb.__name__ for verb in ALL_VERBS} - done

    def _live(self, person: int, dice: random.Random, stop: threading.Event) -> None:
        caller: Caller | None = None
        own: list[int] = []
        while not stop.wait(0.03):
            request = self._wish(person, own, dice)
            asked_at = time.time()
            reply: Reply | None = None
            try:
                caller = caller or Caller(self._rig.socket)
                reply = caller.ask(request)
            except Gone:
                caller = None
            deed = Deed(person, request, asked_at, time.time(), reply)
            self.deeds.append(deed)
            if isinstance(request, Suspend) and is_done(deed):
                self._suspended[person] = request.jobs
            if isinstance(reply, Submitted) and reply.created:
                own.append(reply.jobs[0])
                self._submitted.append(reply.jobs[0])
        if caller is not None:
            caller.close()

    def _wish(self, person: int, own: list[int], dice: random.Random) -> Request:
        """Draw what this person wants next: a job, something done to a job, or to a queue."""
        if len(own) < MEMORY or dice.random() < 0.3:
            return Submit(1, self._spec(dice))
        if person < LANES and dice.random() < 0.2:
            return _wish_for_queue(f"lane-{person}", dice)
        if person == LANES and dice.random() < 0.05:
            return SetSlots(1, dice.choice([MOST_SLOTS // 2, MOST_SLOTS]))
        job = dice.choice(own[-MEMORY:])
        if dice.random() < 0.15:
            return Edit(1, [job], self._changes(job, dice))
        [verb] = dice.choices(list(VERBS), list(VERBS.values()))
        jobs = {Suspend: own[-MEMORY:], Continue: self._suspended.get(person, [job])}.get(verb, [job])
        request: Request = verb(1, jobs)
        return request

    def _spec(self, dice: random.Random) -> JobSpec:
        code = dice.choice([0, 0, 0, 0, 3])
        others = dice.sample(self._submitted[-20:], k=min(len(self._submitted), dice.choice([0, 0, 1, 2])))
        succeed = dice.random() < 0.5
        return JobSpec(
            argv=("/bin/sh", "-c", CROWD + SCRIPT, "busy", str(self._rig.folder),
                  f"{dice.choice([0.0, 0.0, 0.05, 1.0]):.2f}", str(code), str(code)),
            cwd="/",
            env={"PATH": os.environ["PATH"]},
            retries=dice.choice([0, 0, 2]),
            priority=dice.randint(-2, 2),
            queue="default" if dice.random() < 0.5 else f"lane-{dice.randrange(LANES)}",
            after=tuple(others) if succeed else (),
            after_any=() if succeed else tuple(others),
            key=f"key {dice.randrange(KEYS)}" if dice.random() < 0.1 else None,
            hold=dice.random() < 0.1,
            expires=EXPIRES if dice.random() < 0.1 else None,
            slots=2 if dice.random() < 0.1 else 1,
            delay=0.3 if dice.random() < 0.1 else 0.0,
        )  # fmt: skip

    def _changes(self, job: int, dice: random.Random) -> Changes:
        name = f"name {dice.randrange(10**6)}"
        if dice.random() < 0.3:
            return Changes(name=name, after_any=tuple(set(self._submitted[-3:]) - {job}))
        return Changes(name=name, priority=dice.randint(-2, 2))


def _wish_for_queue(lane: str, dice: random.Random) -> Request:
    decisions: list[Request] = [
        SetQueue(1, lane, dice.randint(1, MOST_IN_LANE)),
        Pause(1, lane),
        Resume(1, lane),
    ]
    return dice.choices(decisions, [1, 1, 2])[0]


def is_done(deed: Deed, job: int | None = None) -> bool:
    """Tell whether what was asked has been done, and said so: to this job, None: to one at least."""
    if isinstance(deed.reply, Acted):
        return any(result.code is None for result in deed.reply.results if job in {None, result.job})
    return deed.reply is not None and not isinstance(deed.reply, Failed)
