"""Clients of a simulated machine: each sends one request after the other and remembers the answers."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from msgspec.structs import replace

from bgd.core.job import ACTIVE, WAITING, JobId, State
from bgd.core.spec import JobSpec
from bgd.errors import BgdError
from bgd.wire import requests
from bgd.wire.replies import End, ErrorCode, Failed, JobsPart, Reply, Submitted
from bgd.wire.requests import Changes, Request
from tests.end_to_end.clients import Action
from tests.simulation.calls import with_follow_ups
from tests.simulation.inboxes import session_of
from tests.simulation.key_limits import with_limit, with_times_of_key
from tests.simulation.launcher import KILLED, MAX_QUEUE_SLOTS, NO_PROGRAM, QUEUES, SLOTS
from tests.simulation.machine import Machine, SupervisorLife
from tests.simulation.permits import MOST, pause_or_resume, with_short_run
from tests.simulation.references import with_references
from tests.simulation.schedules import ScheduleAsker, is_about_schedules

CLIENTS = 4
KEYS = ("red", "green", "blue")
RECENT = 6  # latest jobs of a client that its requests are about
MAKES_JOBS = (requests.Submit, requests.SubmitMany)
DELAYED_SHARE = 0.1  # of all requests
UNSENT = 0  # the id of a request until it is sent

# Requests that suit a job in each state; None: it has finished, or its state is unknown
SUITABLE: dict[State | None, list[Callable[..., Request]]] = {
    None: [requests.Retry, requests.Retry, requests.Remove],
    State.HELD: [requests.Release, requests.Release, requests.Cancel],
    State.BLOCKED: [requests.Hold, requests.Cancel],
    State.SCHEDULED: [requests.Hold, requests.Cancel],
    State.QUEUED: [requests.Hold, requests.Cancel],
    State.RUNNING: [requests.Suspend, requests.Continue, requests.Cancel],
    State.STOPPING: [requests.Cancel],
}
UNSUITABLE_SHARE = 0.1  # of all requests about jobs
SCHEDULING_SHARE = 0.2  # of all requests in histories with schedules
PRUNING_SHARE = 0.05  # of all requests in histories with results as arguments
SUSPENDING_SHARE = 0.2  # of all requests while jobs run: to suspend or continue all, whoever's they are


class SimulatedClient:
    """Waits for an answer before it sends the next request; gets none if the daemon dies first."""

    def __init__(self, number: int, machine: Machine, submitted: list[int]) -> None:
        self.number = number
        self.own: list[int] = []
        self._machine = machine
        self._submitted = submitted
        self._known = 0  # the newest job when it sent its last request
        self._asked: tuple[Request, float, SupervisorLife] | None = None
        self._asked_at = 0.0  # of the event queue
        self._numbers = itertools.count(1)
        self.actions: list[Action] = []
        self.schedules = ScheduleAsker(number)

    @property
    def is_waiting(self) -> bool:
        return self._asked is not None

    def ask(self, request: Request) -> None:
        """Send a request if the daemon is up; the answer may come later."""
        life = self._machine.life
        if life.handler is None or self.is_waiting:
            return
        request = replace(request, id=next(self._numbers))
        if isinstance(request, MAKES_JOBS):
            assert life.supervisor is not None
            self._known = life.supervisor.newest_id
            request = replace(request, token=self._machine.dice.randbytes(16))
        self._asked = request, self._machine.event_queue.now().wall, life
        self._asked_at = self._machine.event_queue.time
        self._machine.stops.asked(request)
        # bytes of a broken connection may be read after those of the next one
        delay = 0.1 if self._machine.dice.random() < DELAYED_SHARE else 0.0
        self._machine.event_queue.after(delay, lambda: life.loop.run(self._give, life, request))

    def resend(self) -> None:
        """Send a submit again over another connection; nothing more comes over the one before."""
        life = self._machine.life
        if self._asked is not None and isinstance(self._asked[0], MAKES_JOBS) and life.handler is not None:
            request = replace(self._asked[0], id=next(self._numbers), again=self._known)
            self._asked = request, self._asked[1], life
            life.loop.run(self._give, life, request)

    def reconnect(self) -> None:
        """Stop waiting for a daemon that has died; send a submit again to the next one."""
        if self._asked is None or self._asked[2] is self._machine.life:
            return
        if isinstance(self._asked[0], MAKES_JOBS):
            self.resend()
        else:
            self._note(None)

    def next_request(self) -> Request:  # noqa: PLR0911 (one for each kind of history)
        """Draw the next request: a new job, or an action on a job or a queue."""
        dice = self._machine.dice
        if self._machine.has_schedules and dice.random() < SCHEDULING_SHARE:
            return self.schedules.next_request(dice)
        if self._machine.has_references and dice.random() < PRUNING_SHARE:
            return requests.Prune(id=UNSENT, keep=dice.randint(0, 3))
        if self._machine.has_permits and self.number < len(QUEUES):
            request = pause_or_resume(dice, QUEUES[self.number])
            if request is not None:
                return request
        if len(self.own) < RECENT // 2 or dice.random() < 0.3:
            if dice.random() < 0.2 or self._machine.has_permits:
                most = MOST if self._machine.has_permits else 4
                specs = [self._spec() for _ in range(dice.randint(1, most))]
                return requests.SubmitMany(id=UNSENT, specs=specs)
            return requests.Submit(UNSENT, self._spec())
        if dice.random() < 0.2:
            return self._next_queue_request(dice)
        return self._next_job_request(dice)

    def _state_of(self, job: int) -> State | None:
        """Return the state of an unfinished job; None if it has finished or is unknown."""
        supervisor = self._machine.life.supervisor
        found = None if supervisor is None else supervisor.get(JobId(job))
        return None if found is None else found.state

    def _next_job_request(self, dice: random.Random) -> Request:
        running = [job for job in self._submitted[-20:] if self._state_of(job) is State.RUNNING]
        if running and dice.random() < SUSPENDING_SHARE:
            steers: list[Callable[..., Request]] = [requests.Suspend, requests.Continue]
            return dice.choice(steers)(UNSENT, running)
        jobs = dice.sample(self.own[-RECENT:], k=dice.choice([1, 1, 1, 2]))
        state = self._state_of(jobs[0])
        if (state in WAITING and dice.random() < 0.3) or dice.random() < 0.05:
            return requests.Edit(UNSENT, jobs[:1], self._changes(jobs[0]))
        if (state in ACTIVE and dice.random() < 0.15) or dice.random() < 0.02:
            return requests.SendSignal(id=UNSENT, jobs=jobs, signal=9)
        verbs = SUITABLE[state if dice.random() > UNSUITABLE_SHARE else dice.choice([*SUITABLE])]
        return dice.choice(verbs)(UNSENT, jobs)

    def _next_queue_request(self, dice: random.Random) -> Request:
        if self.number >= len(QUEUES):
            asks: list[Request] = [
                requests.SetSlots(UNSENT, dice.randint(1, SLOTS)),
                requests.GetQueues(UNSENT),
                requests.List(id=UNSENT),
                requests.Show(UNSENT, self.own[-1]),
                requests.GetEvents(id=UNSENT, since=0),
                requests.GetStats(UNSENT),
                requests.GetUsage(UNSENT),
            ]
            return dice.choice(asks)
        queue = QUEUES[self.number]  # its own one: no other client changes it
        choices: list[Request] = [
            requests.SetQueue(UNSENT, queue, dice.randint(1, MAX_QUEUE_SLOTS)),
            requests.Pause(UNSENT, queue),
            requests.Resume(UNSENT, queue),
            requests.RemoveQueue(UNSENT, queue),
        ]
        return dice.choices(choices, [2, 1, 3, 1])[0]

    def _spec(self) -> JobSpec:
        dice, now = self._machine.dice, self._machine.event_queue.now()
        others = dice.sample(self._submitted[-20:], k=min(len(self._submitted), dice.choice([0, 0, 0, 1, 2])))
        succeed = dice.random() < 0.5
        codes = [dice.choice([0, 0, 0, 3, KILLED]), dice.choice([0, 0, 3])]
        program = NO_PROGRAM if dice.random() < 0.02 else "/job"
        delay = dice.choice([0.3, 5.0]) if dice.random() < 0.15 else 0.0
        spec = JobSpec(
            argv=(program, str(dice.choice([0.0, 0.01, 0.5, 3.0, 20.0, 20.0])), *map(str, codes)),
            env={},
            cwd="/",
            retries=dice.choice([0, 0, 1, 3]),
            rerun=dice.choice([None, None, True, False]),
            timeout=dice.choice([None, None, None, 1.0]),
            priority=dice.randint(-2, 2),
            queue="default" if dice.random() < 0.5 else dice.choice(QUEUES),
            after=tuple(others) if succeed else (),
            after_any=() if succeed else tuple(others),
            key=dice.choice(KEYS) if dice.random() < 0.15 else None,
            hold=dice.random() < 0.08,
            expires=dice.choice([0.4, 9.0]) if dice.random() < 0.08 and not delay else None,
            slots=dice.choice([2, 9]) if dice.random() < 0.12 else 1,
            delay=delay,
            at=now.wall + 4.0 if dice.random() < 0.05 and not delay else None,
        )
        if self._machine.has_limits:
            spec = with_times_of_key(with_limit(spec))
        if self._machine.has_calls:
            spec = with_follow_ups(spec)
        if self._machine.has_references:
            spec = with_references(spec)
        if self._machine.has_inboxes:
            spec = replace(spec, session=session_of(spec))
        if self._machine.has_permits:
            return with_short_run(spec)
        wanted = 2 if codes[0] else 1  # no dice: what each seed does stays as it was
        return replace(spec, resources={"gpu": wanted}) if (spec.priority or 0) > 0 else spec

    def _changes(self, job: int) -> Changes:
        dice = self._machine.dice
        name = f"name {dice.randrange(10**6)}"
        if dice.random() < 0.3:
            return Changes(name=name, after_any=tuple(set(self._submitted[-3:]) - {job}))
        if dice.random() < 0.3:
            return Changes(name=name, delay=dice.choice([0.0, 2.0]))
        return Changes(name=name, priority=dice.randint(-2, 2), queue=dice.choice(["default", *QUEUES]))

    # --- sending ---------------------------------------------------------------------------------------

    def _give(self, life: SupervisorLife, request: Request) -> None:
        assert life.handler is not None
        receiver: Any = Receiver(self._heard)  # in place of a connection
        may_be_duplicate = life.handler.may_be_duplicate
        try:
            match request:
                case requests.Submit(spec=spec) if not (
                    spec.after or spec.after_any or may_be_duplicate(request)
                ):
                    life.handler.submit(request, receiver.uid, receiver.send)
                case requests.SubmitMany(specs=specs) if may_be_duplicate(request) or any(
                    spec.after or spec.after_any for spec in specs
                ):
                    work = partial(life.handler.submit_once, [request], receiver.uid)
                    life.loop.create_task(self._await(request, work, receiver))
                case requests.SubmitMany():
                    life.handler.submit_many([request], receiver.uid, receiver.send)
                case _:
                    life.loop.create_task(
                        self._await(request, partial(life.handler.answer, request, receiver), receiver)
                    )
        except BgdError as error:
            receiver.send(Failed(request.id, ErrorCode.REFUSED, str(error)))

    async def _await(
        self, request: Request, work: Callable[[], Awaitable[Reply | None]], receiver: Receiver
    ) -> None:
        try:
            reply = await work()
        except BgdError as error:
            reply = Failed(request.id, ErrorCode.REFUSED, str(error))
        receiver.send(reply or End(request.id))

    def _heard(self, reply: Reply) -> None:
        if self._asked is not None and reply.id == self._asked[0].id:  # else a late part of a stream
            self._note(reply)

    def _note(self, reply: Reply | None) -> None:
        assert self._asked is not None
        request, asked_at, _ = self._asked
        self._asked = None
        self._machine.stops.answered(request, self._asked_at, reply, self._machine.event_queue.time)
        actions = self.schedules.actions if is_about_schedules(request) else self.actions
        actions.append(Action(self.number, request, asked_at, self._machine.event_queue.now().wall, reply))
        if isinstance(reply, Submitted) and isinstance(request, MAKES_JOBS):
            new = [job for job in reply.jobs if job not in reply.found]
            self.own += new
            self._submitted += new


class Receiver:
    """Receives the replies to one request; of a list it waits for the end."""

    def __init__(self, heard: Callable[[Reply], None]) -> None:
        self._heard = heard
        self.pid = self.uid = 0

    def send(self, reply: Reply) -> None:
        if not isinstance(reply, JobsPart):
            self._heard(reply)

    async def send_and_drain(self, reply: Reply) -> None:
        self.send(reply)

    def send_descriptor(self, reply: Reply, descriptor: int) -> None:
        raise NotImplementedError("no simulated client types")

    @asynccontextmanager
    async def in_turn(self) -> AsyncGenerator[None, None]:
        yield
