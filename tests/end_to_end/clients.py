"""Clients that do everything to their jobs and queues at once, and remember each request and its answer."""

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
    Act,
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
from tests.end_to_end.chaos import Caller, ClientThreads, Gone, Rig
from tests.end_to_end.load import SCRIPT

CLIENTS = 8
QUEUES = 3  # queues; each is changed by one client only
MAX_QUEUE_SLOTS = 2  # most slots that a queue ever has
MAX_SLOTS = 12  # in all queues together
KEYS = 6
EXPIRES = 0.4  # seconds
RECENT = 8  # number of their latest jobs that clients act on

# Requests for jobs, with their weights
VERBS: dict[type[Act | Retry], int] = {
    Hold: 4,
    Release: 5,
    Suspend: 2,
    Continue: 3,
    Cancel: 2,
    Retry: 2,
    Remove: 2,
}

ALL_VERBS: tuple[type, ...] = (*VERBS, Submit, Edit, SetSlots, SetQueue, Pause, Resume)

# Only one attempt at a time may have a slot's number, or one of a queue's places. The kernel releases these
# locks whenever their holder dies.
CROWD = f"""
exec 8>"$1/slot.$BGD_SLOT"
flock -n 8 || echo "overlap $BGD_JOB_ID slot-$BGD_SLOT" >> "$1/truth"
[ "$BGD_SLOT" -le {MAX_SLOTS} ] || echo "overlap $BGD_JOB_ID slot-$BGD_SLOT" >> "$1/truth"
if [ "$BGD_QUEUE" != default ]; then
    exec 7>"$1/$BGD_QUEUE.1"
    flock -n 7 || exec 7>"$1/$BGD_QUEUE.{MAX_QUEUE_SLOTS}"
    flock -n 7 || echo "overlap $BGD_JOB_ID $BGD_QUEUE" >> "$1/truth"
fi
"""


class Action(Struct, frozen=True):
    """A request and its answer; `reply` is None if the daemon died first, so that the outcome is unknown."""

    client: int
    request: Request
    asked_at: float
    answered_at: float
    reply: Reply | None


class Clients:
    """Clients that act on their own jobs all the time."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.actions: list[Action] = []
        self._rig = rig
        self._submitted: list[int] = []  # by all clients
        self._suspended: dict[int, list[int]] = {}  # by client: jobs of which at least one was suspended
        self.threads = ClientThreads(
            partial(self._live, client, random.Random(f"{seed} {client}")) for client in range(CLIENTS)
        )

    @property
    def undone(self) -> set[str]:
        """The verbs that have not had any effect yet."""
        done = {type(action.request).__name__ for action in list(self.actions) if is_done(action)}
        return {verb.__name__ for verb in ALL_VERBS} - done

    def _live(self, client: int, dice: random.Random, stop: threading.Event) -> None:
        caller: Caller | None = None
        own: list[int] = []
        while not stop.wait(0.03):
            request = self._next_request(client, own, dice)
            asked_at = time.time()
            reply: Reply | None = None
            try:
                caller = caller or Caller(self._rig.socket)
                reply = caller.ask(request)
            except Gone:
                caller = None
            action = Action(client, request, asked_at, time.time(), reply)
            self.actions.append(action)
            if isinstance(request, Suspend) and is_done(action):
                self._suspended[client] = request.jobs
            if isinstance(reply, Submitted) and reply.created:
                own.append(reply.jobs[0])
                self._submitted.append(reply.jobs[0])
        if caller is not None:
            caller.close()

    def _next_request(self, client: int, own: list[int], dice: random.Random) -> Request:
        """Return a random request of this client: for a new job, a job or a queue."""
        if len(own) < RECENT or dice.random() < 0.3:
            return Submit(1, self._spec(dice))
        if client < QUEUES and dice.random() < 0.2:
            return _queue_request(f"queue-{client}", dice)
        if client == QUEUES and dice.random() < 0.05:
            return SetSlots(1, dice.choice([MAX_SLOTS // 2, MAX_SLOTS]))
        job = dice.choice(own[-RECENT:])
        if dice.random() < 0.15:
            return Edit(1, [job], self._changes(job, dice))
        [verb] = dice.choices(list(VERBS), list(VERBS.values()))
        several: dict[object, list[int]] = {
            Suspend: own[-RECENT:],
            Continue: self._suspended.get(client, [job]),
        }
        jobs = several.get(verb, [job])
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
            queue="default" if dice.random() < 0.5 else f"queue-{dice.randrange(QUEUES)}",
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


def _queue_request(queue: str, dice: random.Random) -> Request:
    decisions: list[Request] = [
        SetQueue(1, queue, dice.randint(1, MAX_QUEUE_SLOTS)),
        Pause(1, queue),
        Resume(1, queue),
    ]
    return dice.choices(decisions, [1, 1, 2])[0]


def is_done(action: Action, job: int | None = None) -> bool:
    """Tell whether a request was acknowledged as done: for this job, or if that is None, for any."""
    if isinstance(action.reply, Acted):
        return any(result.code is None for result in action.reply.results if job in {None, result.job})
    return action.reply is not None and not isinstance(action.reply, Failed)
