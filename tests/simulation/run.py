"""A run: one history from its seed to its end, and the check of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from contextlib import closing, nullcontext
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from bgd.core.job import FINAL, JobId, Move, State
from bgd.core.notifications import Message, NotifyEvent
from bgd.core.scheduler import REASONS_OF_CANCEL, SKIPPED
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec
from bgd.daemon.storage import change_stream, read, records, summaries
from bgd.wire.requests import Continue, Release, Request, Resume, SetQueue, SetSlots, Suspend
from bgd.wire.schedules import RemoveSchedule
from bgd.wire.views import EventView, JobView
from tests.end_to_end.history import History
from tests.simulation.batches import SHARE as BATCHES
from tests.simulation.batches import Batcher, check_batches, check_beginnings, jobs_of_batches
from tests.simulation.calls import calls, check_breaker, check_follow_ups, followers, is_call
from tests.simulation.clients import CLIENTS, UNSENT, SimulatedClient
from tests.simulation.inboxes import SHARE as INBOXES
from tests.simulation.inboxes import Readers, check_inboxes
from tests.simulation.key_limits import check_key_limits
from tests.simulation.launcher import MAX_QUEUE_SLOTS, QUEUES
from tests.simulation.limits import ShareWatch, check_rates, watched_shares
from tests.simulation.machine import Machine, simulated
from tests.simulation.permits import FAULT as FAULT_OF_PERMITS
from tests.simulation.references import ReferenceLaws
from tests.simulation.retries import SHARE as RETRIES
from tests.simulation.retries import Retrier, check_retries
from tests.simulation.schedules import ScheduleLaws
from tests.simulation.stops import adopted_among, check_order

STEPS = (5, 45)  # requests and faults of a history, at least and at most
PAUSES = (0.0, 0.0, 0.001, 0.02, 0.3, 3.0, 12.0)  # seconds between them

# Faults and their weights; each may come at any moment between two events
FAULTS: dict[Callable[[Machine], None], int] = {
    Machine.kill_supervisor: 8,
    Machine.kill_launcher: 3,
    Machine.kill_both: 3,
    Machine.lose_records: 1,
    Machine.cut_power: 1,
    Machine.shut_down: 1,
}
FAULT = 0.12  # share of all steps
JUMP = 0.2  # share of histories in which the wall clock is set
MAX_REMOVALS = 100  # requests that remove schedules, and waits for those that are being stored
ALL = 10**9  # more events than any history has


class SimulationRun:
    """Runs one history; `tell` is called with a line for each step.

    `has_schedules`: whether there are schedules in it; None leaves that to the seed. `has_limits`: whether
    queues have rates and weights. `has_batches`: whether there are batches. `has_inboxes`: whether jobs have
    sessions, whose inboxes are read. `has_retries`: whether pipelines fail and are retried. `has_calls`,
    `has_references`, `has_permits`: as of a Machine.
    """

    def __init__(  # noqa: PLR0913 - what a history has in addition
        self,
        seed: int,
        tell: Callable[[str], None] = lambda _: None,
        *,
        has_schedules: bool | None = None,
        has_limits: bool | None = None,
        has_batches: bool = False,
        has_inboxes: bool = False,
        has_retries: bool = False,
        has_calls: bool = False,
        has_references: bool = False,
        has_permits: bool = False,
    ) -> None:
        if has_calls:  # the model of shares does not know which calls are paused
            has_limits = False
        self._machine = Machine(
            seed,
            has_schedules=has_schedules,
            has_limits=has_limits,
            has_calls=has_calls,
            has_references=has_references,
            has_permits=has_permits,
        )
        self._fault = FAULT_OF_PERMITS if has_permits else FAULT
        self._has_weights = any(each.weight for each in self._machine.config.queues.values())
        self._submitted: list[int] = []
        self._clients = [SimulatedClient(number, self._machine, self._submitted) for number in range(CLIENTS)]
        self._is_set = self._machine.dice.random() < JUMP
        self._tell = tell
        self._batcher = Batcher(self._machine, seed) if has_batches else None
        self._readers = Readers(self._machine, seed) if has_inboxes else None
        self._machine.has_inboxes = has_inboxes
        self._retrier: Retrier | None = None
        if has_retries:
            self._retrier = Retrier(SimulatedClient(CLIENTS + 2, self._machine, self._submitted), seed)
            self._clients.append(self._retrier.client)

    def run(self) -> Counter[str]:
        """Run the history and check it; return how often each operation and event occurred.

        Raises:
            AssertionError: something happened that must not happen.
        """
        with closing(self._machine.disk):
            watched = watched_shares() if self._has_weights else nullcontext(ShareWatch())
            called = calls() if self._machine.has_calls else nullcontext()
            with simulated(self._machine), called, watched as shares:
                try:
                    for _ in range(self._machine.dice.randint(*STEPS)):
                        self._step()
                    rest_at = self._come_to_rest()
                finally:
                    self._machine.clear_away()
            assert not shares.problems, shares.problems[0]
            return self._verify(rest_at) + Counter({"passed over": shares.passed})

    # --- run ------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        machine, dice = self._machine, self._machine.dice
        if dice.random() < self._fault:
            [fault] = dice.choices(list(FAULTS), list(FAULTS.values()))
            for _ in range(dice.randrange(90 if machine.has_permits else 30)):
                machine.event_queue.step()
            self._check()
            self._say(fault.__name__)
            fault(machine)
            self._check()
        elif self._is_set and dice.random() < 0.1:
            jump = dice.choice([-1e8, -20.0, 20.0, 1e5])
            self._say(f"the wall clock is set by {jump}")
            machine.set_wall_clock(jump)
        elif self._batcher is not None and dice.random() < BATCHES:
            self._say(self._batcher.step())
        elif self._readers is not None and dice.random() < INBOXES:
            self._say(self._readers.step())
        elif self._retrier is not None and not self._retrier.client.is_waiting and dice.random() < RETRIES:
            self._ask(self._retrier.client, self._retrier.next_request())
        else:
            client = dice.choice(self._clients)
            if client.is_waiting:
                self._say(f"client {client.number} loses its connection")
                client.resend()
            else:
                request = client.next_request()
                self._ask(client, request)
                if isinstance(request, Continue | Suspend):
                    self._contradict(request)
        self._pass(dice.choice(PAUSES))

    def _ask(self, client: SimulatedClient, request: Request) -> None:
        self._say(f"client {client.number}: {msgspec.json.encode(request).decode()}")
        client.ask(request)

    def _contradict(self, request: Continue | Suspend) -> None:
        """Ask for the contrary, at nearly the same time as another client has asked for this."""
        idle = [client for client in self._clients if not client.is_waiting]
        if idle:
            self._pass(self._machine.dice.choice([0.0, 0.001]))
            contrary = Suspend if isinstance(request, Continue) else Continue
            self._ask(self._machine.dice.choice(idle), contrary(UNSENT, request.jobs))

    def _pass(self, seconds: float) -> None:
        """Let time pass and run all events that are due by then."""
        event_queue = self._machine.event_queue
        until = event_queue.time + seconds
        while event_queue.step_before(until):
            pass
        self._check()

    def _check(self) -> None:
        self._machine.check_alive()
        for client in self._clients:
            client.reconnect()
        assert not self._machine.stops.unstopped, self._machine.stops.unstopped

    def _come_to_rest(self) -> float:
        """Cause no more faults, release all jobs, and run until nothing happens any more."""
        self._say("rest")
        self._remove_schedules()
        self._run_out()
        self._check_suspended()
        rest_at = self._machine.event_queue.now().wall
        releaser = SimulatedClient(CLIENTS, self._machine, self._submitted)
        releases: list[Request] = [SetSlots(UNSENT, None), Resume(UNSENT)]
        for queue in QUEUES:
            releases += [Resume(UNSENT, queue), SetQueue(UNSENT, queue, MAX_QUEUE_SLOTS)]
        for request in releases:
            releaser.ask(request)
            self._run_out()
        verbs: list[tuple[Callable[..., Request], State]] = [(Release, State.HELD), (Continue, State.RUNNING)]
        for verb, state in verbs:
            if ids := self._ids(state):
                releaser.ask(verb(UNSENT, ids))
                self._run_out()
        if self._readers is not None:
            self._readers.read_all(self._run_out)
        return rest_at

    def _remove_schedules(self) -> None:
        """Remove all schedules, which would never come to rest."""
        client = SimulatedClient(CLIENTS + 1, self._machine, self._submitted)
        self._clients.append(client)
        for _ in range(MAX_REMOVALS):
            self._pass(1.0)  # one may be about to be stored
            if names := self._machine.disk.execute("SELECT name FROM schedules").fetchall():
                client.ask(RemoveSchedule(UNSENT, names[0]["name"]))
            elif not any(client.is_waiting for client in self._clients):
                return
        raise AssertionError("schedules cannot be removed")

    def _run_out(self) -> None:
        is_over = False
        while not is_over:
            while self._machine.event_queue.step():
                pass
            self._check()  # a client may send its request again
            is_over = not self._machine.event_queue.step()

    def _ids(self, state: State) -> list[int]:
        return [job for (job,) in self._machine.disk.execute("SELECT id FROM jobs WHERE state = ?", (state,))]

    def _say(self, what: str) -> None:
        self._tell(f"{self._machine.event_queue.time:10.4f}  {what}")

    # --- check ----------------------------------------------------------------------------------------------

    def _verify(self, rest_at: float) -> Counter[str]:
        disk = self._machine.disk
        told = change_stream.read_events(disk, 0, ALL)
        for event in told:
            self._tell(f"{event}")
        askers = [client.schedules for client in self._clients]
        laws = ScheduleLaws(disk, told, askers, self._machine.lives, has_times=not self._is_set)
        of_schedules = laws.check()
        stream = self._at_true_times([event for event in told if isinstance(event, EventView)])
        jobs = {job: read.view(disk, job) for (job,) in disk.execute("SELECT id FROM jobs").fetchall()}
        views = {job: view for job, view in jobs.items() if view is not None}
        self._check_told(stream, views, laws.jobs.keys())
        stuck = {job: view.state for job, view in views.items() if view.state not in FINAL}
        assert not stuck, f"nothing happens any more, but these have not finished: {stuck}"
        journal = self._machine.journal
        assert not journal.runs, f"these still run, unknown to anybody: {journal.runs.keys()}"
        assert not journal.ended, f"these ends were never acknowledged: {journal.ended.keys()}"
        assert not any(client.is_waiting for client in self._clients), "a client got no answer"
        counted = {state: count for state, count in summaries.counts(disk).items() if count}
        assert counted == Counter(view.state.value for view in views.values()), "counts by state are wrong"
        self._check_attempts()
        actions = [action for client in self._clients for action in client.actions]
        tellers = {job for job, view in views.items() if view.queue == NOTIFICATION_QUEUE}
        of_batches = check_batches(disk, views, stream, [] if self._batcher is None else self._batcher.said)
        of_batches += check_beginnings(stream, self._machine.records)
        of_inboxes = Counter[str]() if self._readers is None else check_inboxes(disk, self._readers, stream)
        of_retries = Counter[str]()
        if self._retrier is not None and not self._is_set:
            of_retries += check_retries(disk, stream, actions)
        following = followers(disk)
        # nobody asked for these
        apart = laws.jobs.keys() | tellers | jobs_of_batches(views.values()) | following.keys()
        stream = [event for event in stream if event.job not in apart]
        views = {job: view for job, view in views.items() if job not in apart}
        history = History(actions, stream, views, rest_at, has_times=not self._is_set)
        found = history.check(self._machine.records.without(apart)) + of_schedules + of_batches
        found += of_inboxes + of_retries
        unknown = {event.job for event in stream} - history.specs.keys()
        assert not unknown, f"nobody asked for these jobs: {unknown}"
        _check_turns(history, stream, self._adopted, has_calls=self._machine.has_calls)
        found += check_key_limits(history)
        by_permit = sum(begin.permit_at is not None for begin in self._machine.stops.begun)
        found += Counter({"by permit": by_permit, "adopted": len(self._adopted)})
        if self._machine.has_calls:
            found += check_follow_ups(history, following)
            if not self._is_set:
                found += check_breaker(history)
        if self._machine.has_references:
            found += ReferenceLaws(history, self._machine.records.given).check()
        if not self._is_set:
            starts = [life.started_at for life in self._machine.lives]
            found += check_rates(history, self._machine.config.queues, starts)
        return found

    def _at_true_times(self, stream: list[EventView]) -> list[EventView]:
        """Check the order of starts; return the events with the times when adopted attempts began."""
        first_events = [life.first_event for life in self._machine.lives]
        begun = self._machine.stops.begun
        check_order(begun, stream, first_events)
        began_at = adopted_among(begun, stream, first_events)
        self._adopted = {(*attempt, Move.START) for attempt in began_at}
        return [
            replace(event, at=began_at[event.job, event.attempt])
            if (event.job, event.attempt, event.what) in self._adopted
            else event
            for event in stream
        ]

    def _check_told(
        self, stream: list[EventView], views: dict[int, JobView], together: Collection[int]
    ) -> None:
        """Check that the ends of all jobs are told as they must be: nothing is lost or told twice.

        `together`: jobs of schedules, whose failures count in a row, so that not each of them is told.
        """
        query = "SELECT job, spec FROM specs JOIN jobs ON id = job WHERE queue = ?"
        rows = dict(self._machine.disk.execute(query, (NOTIFICATION_QUEUE,)).fetchall())
        inputs = [records.unpack_spec(packed).input or b"" for packed in rows.values()]
        messages = [msgspec.json.decode(each, type=Message) for each in inputs]
        assert bool(messages) <= bool(self._machine.config.notify)
        assert len({message.id for message in messages}) == len(messages), "two jobs tell the same"
        if not self._machine.config.notify:
            return
        ends: defaultdict[int, list[State]] = defaultdict(list)
        for event in stream:
            is_asked = event.reason in REASONS_OF_CANCEL or str(event.reason).startswith(SKIPPED)
            is_known = is_asked and event.state is State.CANCELLED
            if event.state in FINAL and event.what != "remove" and not is_known:
                ends[event.job].append(event.state)
        of_jobs = [message for message in messages if message.job is not None]  # not of calls
        told = Counter((message.job, message.event is NotifyEvent.FAILED) for message in of_jobs)
        assert {job for job, _ in told} <= ends.keys() - rows.keys(), "what did not happen is told"
        for job in ends.keys() - rows.keys() - set(together):
            succeeded, failed = ends[job].count(State.SUCCEEDED), _first_failures(ends[job])
            assert told[job, False] == succeeded, f"job {job} succeeded {succeeded} times: {told[job, False]}"
            has_one_name = job in views and views[job].name is None  # else it may have had several
            most = failed if has_one_name else len(ends[job]) - succeeded
            assert failed <= told[job, True] <= most, f"job {job} failed {ends[job]}: {told[job, True]}"

    def _check_suspended(self) -> None:
        """Check that nothing runs any more except what is suspended, by the launcher's word and by bgd's."""
        views = [read.view(self._machine.disk, JobId(job)) for job in self._ids(State.RUNNING)]
        told = {view.id: view.suspended for view in views if view is not None}
        true = {} if self._machine.launcher is None else self._machine.launcher.suspended()
        assert told == true, f"these are suspended by bgd's word: {told}; and in truth: {true}"

    def _check_attempts(self) -> None:
        """Check that every attempt has an end, and that attempts are numbered without a gap."""
        query = "SELECT job, attempt, outcome FROM attempts ORDER BY job, attempt"
        rows = self._machine.disk.execute(query).fetchall()
        assert all(row["outcome"] for row in rows), "an attempt has no end"
        for before, after in pairwise(rows):
            is_first = after["job"] != before["job"]
            assert after["attempt"] == (1 if is_first else before["attempt"] + 1), "attempts are missing"


def _first_failures(ends: list[State]) -> int:
    """Return how many failures follow a success, or nothing: the others in a row are not told."""
    before = [State.SUCCEEDED, *ends]
    return sum(
        last is State.SUCCEEDED and end is not State.SUCCEEDED
        for last, end in zip(before, ends, strict=False)
    )


def _check_turns(
    history: History, stream: list[EventView], adopted: Collection[tuple[int, int, str]], *, has_calls: bool
) -> None:
    """Check that no job starts while a more urgent one, or an older one as urgent, waits in the same lane.

    Such a job is in the same queue and asks for the same tokens and key, and both or neither are calls. A
    start of `adopted` was decided earlier than its event says.
    """
    edited = history.edited_jobs()
    queued: dict[int, tuple[object, int]] = {}
    for event in stream:
        spec = history.specs.get(event.job)
        if spec is None or event.job in edited:
            continue
        rank = -(spec.priority or 0)
        if event.what == "start" and (event.job, event.attempt, event.what) not in adopted:
            own = _lane_of(spec), has_calls and is_call(spec)
            ahead = [
                job
                for job, (lane, other) in queued.items()
                if lane == own and (other, job) < (rank, event.job)
            ]
            assert not ahead, f"job {event.job} started, but it was the turn of {ahead}"
        if event.state is State.QUEUED:
            queued[event.job] = (_lane_of(spec), has_calls and is_call(spec)), rank
        else:
            queued.pop(event.job, None)


def _lane_of(spec: JobSpec) -> tuple[object, ...]:
    return spec.queue or "default", spec.resources, spec.limit
