"""A story: one history from its seed to its end, and the judgement on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise

import msgspec

from bgd.core.job import FINAL, State
from bgd.daemon.storage import read, write
from bgd.wire.requests import Continue, Release, Request, Resume, SetQueue, SetSlots
from bgd.wire.views import EventView
from tests.end_to_end.history import History
from tests.simulation.launcher import LANES, MOST_IN_LANE
from tests.simulation.machine import Machine, simulated
from tests.simulation.people import ASKS, PEOPLE, Person

STEPS = (5, 45)  # how many things are asked or happen, at least and at most
PAUSES = (0.0, 0.0, 0.001, 0.02, 0.3, 3.0, 12.0)  # seconds between them

# What may be lost, and how often; each at any moment, between two things that happen
FAULTS: dict[Callable[[Machine], None], int] = {
    Machine.kill_supervisor: 8,
    Machine.kill_launcher: 3,
    Machine.kill_both: 3,
    Machine.lose_records: 1,
    Machine.cut_power: 1,
    Machine.shut_down: 1,
}
FAULT = 0.12  # of all that happens
JUMP = 0.2  # of all histories have a wall clock that is set
ALL = 10**9  # events of a history


class Story:
    """Tells one history; `tell` says of each step what it was."""

    def __init__(self, seed: int, tell: Callable[[str], None] = lambda _: None) -> None:
        self._machine = Machine(seed)
        self._submitted: list[int] = []
        self._people = [Person(number, self._machine, self._submitted) for number in range(PEOPLE)]
        self._is_set = self._machine.dice.random() < JUMP
        self._tell = tell

    def run(self) -> Counter[str]:
        """Live it and judge it; return what there was in it.

        Raises:
            AssertionError: something happened that must not.
        """
        with closing(self._machine.disk):
            with simulated(self._machine):
                try:
                    for _ in range(self._machine.dice.randint(*STEPS)):
                        self._happen()
                    rest_at = self._come_to_rest()
                finally:
                    self._machine.clear_away()
            return self._judge(rest_at)

    # --- living ---------------------------------------------------------------------------------------------

    def _happen(self) -> None:
        machine, dice = self._machine, self._machine.dice
        if dice.random() < FAULT:
            [fault] = dice.choices(list(FAULTS), list(FAULTS.values()))
            for _ in range(dice.randrange(30)):
                machine.agenda.step()
            self._look()
            self._say(fault.__name__)
            fault(machine)
            self._look()
        elif self._is_set and dice.random() < 0.1:
            jump = dice.choice([-1e8, -20.0, 20.0, 1e5])
            self._say(f"the wall clock is set by {jump}")
            machine.set_wall_clock(jump)
        else:
            person = dice.choice(self._people)
            if person.is_waiting:
                self._say(f"person {person.number} is cut off")
                person.lose_answer()
            else:
                request = person.wish()
                self._say(f"person {person.number}: {msgspec.json.encode(request).decode()}")
                person.ask(request)
        self._pass(dice.choice(PAUSES))

    def _pass(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due by then."""
        agenda = self._machine.agenda
        until = agenda.time + seconds
        while agenda.step_before(until):
            pass
        self._look()

    def _look(self) -> None:
        self._machine.check_alive()
        for person in self._people:
            person.hang_up()

    def _come_to_rest(self) -> float:
        """Let no more faults happen, release what is held, wait until nothing happens any more."""
        self._say("rest")
        self._run_out()
        rest_at = self._machine.agenda.now().wall
        caretaker = Person(PEOPLE, self._machine, self._submitted)
        wishes: list[Request] = [SetSlots(ASKS, None), Resume(ASKS), *(Resume(ASKS, lane) for lane in LANES)]
        for wish in [*wishes, *(SetQueue(ASKS, lane, MOST_IN_LANE) for lane in LANES)]:
            caretaker.ask(wish)
            self._run_out()
        verbs: list[tuple[Callable[..., Request], State]] = [(Release, State.HELD), (Continue, State.RUNNING)]
        for verb, state in verbs:
            if ids := self._ids(state):
                caretaker.ask(verb(ASKS, ids))
                self._run_out()
        return rest_at

    def _run_out(self) -> None:
        is_over = False
        while not is_over:
            while self._machine.agenda.step():
                pass
            self._look()  # somebody may ask again
            is_over = not self._machine.agenda.step()

    def _ids(self, state: State) -> list[int]:
        return [job for (job,) in self._machine.disk.execute("SELECT id FROM jobs WHERE state = ?", (state,))]

    def _say(self, what: str) -> None:
        self._tell(f"{self._machine.agenda.time:10.4f}  {what}")

    # --- judging --------------------------------------------------------------------------------------------

    def _judge(self, rest_at: float) -> Counter[str]:
        disk = self._machine.disk
        stream = write.read_events(disk, 0, ALL)
        for event in stream:
            self._tell(f"{event}")
        jobs = {job: read.view(disk, job) for (job,) in disk.execute("SELECT id FROM jobs").fetchall()}
        views = {job: view for job, view in jobs.items() if view is not None}
        stuck = {job: view.state for job, view in views.items() if view.state not in FINAL}
        assert not stuck, f"nothing happens any more, and these have not finished: {stuck}"
        journal = self._machine.journal
        assert not journal.runs, f"nobody knows that these run: {journal.runs.keys()}"
        assert not journal.ended, f"these ends were never acknowledged: {journal.ended.keys()}"
        assert not any(person.is_waiting for person in self._people), "somebody was never answered"
        actions = [action for person in self._people for action in person.actions]
        history = History(actions, stream, views, rest_at, has_times=not self._is_set)
        found = history.check(self._machine.truth)
        unknown = {event.job for event in stream} - history.specs.keys()
        assert not unknown, f"nobody asked for these jobs: {unknown}"
        _check_turns(history, stream)
        self._check_attempts()
        counted = {state: count for state, count in read.counts(disk).items() if count}
        assert counted == Counter(view.state.value for view in views.values()), "it has counted wrong"
        return found

    def _check_attempts(self) -> None:
        """Every attempt has an end, and they are numbered without a gap."""
        query = "SELECT job, attempt, outcome FROM attempts ORDER BY job, attempt"
        rows = self._machine.disk.execute(query).fetchall()
        assert all(row["outcome"] for row in rows), "an attempt has no end"
        for before, after in pairwise(rows):
            is_first = after["job"] != before["job"]
            assert after["attempt"] == (1 if is_first else before["attempt"] + 1), "attempts are missing"


def _check_turns(history: History, stream: list[EventView]) -> None:
    """Nobody starts while one of the same queue is queued that is more urgent, or as urgent and older."""
    edited = history.edited_jobs()
    queued: dict[int, tuple[str, int]] = {}
    for event in stream:
        spec = history.specs.get(event.job)
        if spec is None or event.job in edited:
            continue
        rank = -(spec.priority or 0)
        if event.what == "start":
            lane = spec.queue or "default"
            ahead = [
                job
                for job, (queue, other) in queued.items()
                if queue == lane and (other, job) < (rank, event.job)
            ]
            assert not ahead, f"job {event.job} started, and it was the turn of {ahead}"
        if event.state is State.QUEUED:
            queued[event.job] = spec.queue or "default", rank
        else:
            queued.pop(event.job, None)
