"""A launcher without processes: it keeps R1 to R8 and asserts that nothing starts that must not start."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from math import inf
from signal import SIGCONT

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    CheckAttempt,
    Checked,
    ContinueProcesses,
    Declined,
    FromLauncher,
    Goodbye,
    Greeting,
    KeepAlive,
    Launch,
    Measured,
    MeasureUsage,
    OpenKeyboard,
    OutputStored,
    Ready,
    RenewWorkers,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
    ToLauncher,
    TradeSockets,
    WatchLog,
    Welcome,
)
from tests.end_to_end.records import AttemptRecords
from tests.simulation.event_queue import EventQueue, QueuedEvent
from tests.simulation.references import result_of

SLOTS = 3  # at most, at any time
QUEUES = ("queue-0", "queue-1")  # the queues with a limit
MAX_QUEUE_SLOTS = 2
GPUS = ("0", "1")
NO_PROGRAM = "/missing"
SETTLING = 0.004  # seconds until processes are stopped, or some more
KILLED = 255  # in place of an exit code: the job ends by a signal


class RunningAttempt(Struct):
    """An attempt that runs; `left`: seconds to its end when it was last started, suspended or continued.

    `suspended`: it is to be; `is_frozen`: its processes are. `began`, `frozen_at`: when it started, and when
    its processes last were stopped, by the event queue.
    """

    launch: Launch
    started_at: float
    left: float
    since: float
    began: float
    end: QueuedEvent | None = None
    suspended: bool = False
    is_frozen: bool = False
    frozen_at: float = -inf
    stopped: bool = False


class Journal(Struct):
    """The journal, which outlives a launcher; the ends in `synced` survive a power cut, too."""

    boot: str
    instance: str = ""
    covers: list[str] = []
    generation: int = 0
    position: int = 0
    runs: dict[AttemptKey, RunningAttempt] = {}
    ended: dict[AttemptKey, AttemptEnded] = {}
    synced: set[AttemptKey] = set()


class SimulatedLauncher:
    """One launcher, from its start to its death. `begins` checks that an attempt may begin."""

    def __init__(
        self,
        event_queue: EventQueue,
        dice: random.Random,
        journal: Journal,
        instance: str,
        records: AttemptRecords,
        begins: Callable[[str, Launch], None],
    ) -> None:
        self._event_queue = event_queue
        self._dice = dice
        self._journal = journal
        self._records = records
        self._begins = begins
        self._supervisor: Callable[[FromLauncher], None] | None = None
        self._is_dead = False
        self._take_over(instance)

    def receive(self, message: ToLauncher, connection: Callable[[FromLauncher], None]) -> None:
        """Handle a message; drop messages from connections of older supervisors (R1)."""
        if self._is_dead:
            return
        if isinstance(message, Greeting):
            self._greet(message, connection)
        elif connection == self._supervisor:
            self._obey(message)

    def lose(self, connection: Callable[[FromLauncher], None]) -> None:
        """Note that a connection is lost."""
        if connection == self._supervisor and not self._is_dead:
            self._supervisor = None
            self._journal.synced |= self._journal.ended.keys()

    def die(self) -> None:
        """Die; attempts run on until the next launcher starts."""
        self._is_dead = True
        for run in self._journal.runs.values():
            if run.end is not None:
                run.end.cancel()

    def suspended(self) -> dict[int, bool]:
        """Return whether each job that has not ended is suspended."""
        return {key.job: run.suspended for key, run in self._journal.runs.items()}

    def runs_since(self, job: int, since: float) -> bool:
        """Return whether an attempt has run all the time since then."""
        runs = [run for key, run in self._journal.runs.items() if key.job == job and run.began <= since]
        return any(not (run.is_frozen or run.stopped) and run.frozen_at < since for run in runs)

    # --- start ------------------------------------------------------------------------------------------

    def _take_over(self, instance: str) -> None:
        """End what the launcher before has left; only then greet supervisors (R5)."""
        journal = self._journal
        is_same_boot = journal.instance.startswith(journal.boot + ":")
        journal.covers = [*journal.covers, journal.instance] if is_same_boot else []
        for key, run in journal.runs.items():
            journal.ended[key] = AttemptEnded(
                key=key,
                outcome=Outcome.UNKNOWN if is_same_boot else Outcome.INTERRUPTED,
                started_at=run.started_at,
                finished_at=self._event_queue.now().wall,
            )
        journal.runs.clear()
        journal.instance = instance
        journal.synced |= journal.ended.keys()

    def _greet(self, greeting: Greeting, connection: Callable[[FromLauncher], None]) -> None:
        if greeting.generation < self._journal.generation:
            connection(Declined("a newer supervisor has taken over"))
            return
        self._journal.generation = greeting.generation
        position = self._pass(greeting.position)
        self._supervisor = connection
        instance, covers = self._journal.instance, self._journal.covers
        connection(Welcome(LAUNCHING_PROTOCOL, instance, 1, covers, None, position))
        for key, run in self._journal.runs.items():
            connection(AttemptStarted(key, 1, run.started_at, run.suspended, slot=run.launch.slot))
        for ended in self._journal.ended.values():
            connection(ended)
        connection(Ready())

    # --- attempts ---------------------------------------------------------------------------------------

    def _obey(self, message: ToLauncher) -> None:  # noqa: C901 - a flat list of cases
        match message:
            case Launch():
                self._pass(message.position)
                self._launch(message)
            case StopProcesses(key, grace) if key in self._journal.runs:
                self._stop(self._journal.runs[key], grace)
            case SignalProcesses(key, number) if key in self._journal.runs:
                self._signal(self._journal.runs[key], number)
            case SuspendProcesses(key) if key in self._journal.runs:
                self._suspend(self._journal.runs[key])
            case ContinueProcesses(key) if key in self._journal.runs:
                self._continue(self._journal.runs[key])
            case MeasureUsage():
                self._say(Measured([]))
            case CheckAttempt(key, settled=True) if self._is_being_stopped(key) and self._supervisor:
                self._event_queue.after(SETTLING, partial(self.receive, message, self._supervisor))
            case CheckAttempt(key, number):
                self._say(Checked(number, key in self._journal.runs))
            case Acknowledge(key, position):
                self._pass(position)
                self._journal.ended.pop(key, None)
                self._journal.synced.discard(key)
            case (
                StopProcesses()
                | SignalProcesses()
                | SuspendProcesses()
                | ContinueProcesses()
                | WatchLog()
                | RenewWorkers()
                | OutputStored()
                | KeepAlive()
                | TradeSockets()
                | OpenKeyboard()
                | Goodbye()
                | Greeting()
            ):
                pass

    def _pass(self, position: int) -> int:
        self._journal.position = max(self._journal.position, position)
        return self._journal.position

    def _launch(self, launch: Launch) -> None:
        if launch.env["BGD_QUEUE"] == NOTIFICATION_QUEUE:
            launch = replace(launch, argv=["/delivery", "0.1", "0"])
        if launch.result:
            argv, *given = json.loads(launch.stdin or b"")["arguments"]["args"]
            launch = replace(launch, argv=argv)
            self._records.given[launch.key.job, launch.key.attempt] = given
        key, runs = launch.key, self._journal.runs
        if key in runs:
            self._say(AttemptStarted(key, 1, runs[key].started_at, runs[key].suspended))
            return
        if key in self._journal.ended:
            self._say(self._journal.ended[key])
            return
        assert key.job not in {other.job for other in runs}, f"{key} overlaps with another"
        self._begins(self._journal.instance, launch)
        attempt = key.job, key.attempt
        self._records.starts[attempt] += 1
        assert self._records.starts[attempt] == 1, f"attempt {attempt} was started twice"
        slot, queue = launch.env["BGD_SLOT"], launch.env["BGD_QUEUE"]
        assert int(slot) <= SLOTS, f"attempt {attempt} has a slot that does not exist"
        assert slot not in {run.launch.env["BGD_SLOT"] for run in runs.values()}, f"slot {slot} is taken"
        beside = sum(run.launch.env["BGD_QUEUE"] == queue for run in runs.values())
        assert queue not in QUEUES or beside < MAX_QUEUE_SLOTS, f"attempt {attempt} is too much for {queue}"
        tokens, held = _tokens_of(launch), [_tokens_of(run.launch) for run in runs.values()]
        assert tokens <= set(GPUS), f"attempt {attempt} has tokens that do not exist: {tokens}"
        assert all(tokens.isdisjoint(each) for each in held), f"a token of {attempt} is held twice"
        program, seconds, *_ = launch.argv
        if program == NO_PROGRAM:
            self._finish(launch, Outcome.NOT_STARTED, None, None)
            return
        now = self._event_queue.now()
        since = self._event_queue.time
        run = runs[key] = RunningAttempt(launch, now.wall, float(seconds), since, since)
        self._say(AttemptStarted(key, 1, run.started_at))
        self._run(run)

    def _stop(self, run: RunningAttempt, grace: float) -> None:
        """Stop an attempt within the grace period; some end by themselves before (R8)."""
        if run.stopped:
            return
        run.stopped = True
        run.suspended = run.is_frozen = False
        if self._dice.random() < 0.2:
            self._end_in(run, 0.0, None)
        else:
            self._end_in(run, self._dice.choice([0.0, 0.01, grace]), Outcome.CANCELLED)

    def _signal(self, run: RunningAttempt, number: int) -> None:
        if number == SIGCONT:  # `continue` of a job that is not suspended: its processes may have stopped
            assert not run.suspended, f"{run.launch.key} is suspended, and its processes were continued"
        else:
            self._end_in(run, 0.0, Outcome.SIGNAL)

    def _suspend(self, run: RunningAttempt) -> None:
        """Stop its processes, which takes a moment, in which it may end."""
        if not run.suspended and not run.stopped:
            run.suspended = True
            self._event_queue.after(SETTLING * (run.launch.key.job % 3), partial(self._freeze, run))

    def _freeze(self, run: RunningAttempt) -> None:
        is_there = not self._is_dead and self._journal.runs.get(run.launch.key) is run
        if is_there and run.suspended and not run.is_frozen and run.end is not None:
            run.end.cancel()
            run.left = max(run.left - (self._event_queue.time - run.since), 0.0)
            run.is_frozen, run.frozen_at = True, self._event_queue.time

    def _is_being_stopped(self, key: AttemptKey) -> bool:
        run = self._journal.runs.get(key)
        return run is not None and run.suspended and not run.is_frozen

    def _continue(self, run: RunningAttempt) -> None:
        if run.is_frozen:
            run.is_frozen, run.frozen_at = False, self._event_queue.time
            self._run(run)
        run.suspended = False

    def _run(self, run: RunningAttempt) -> None:
        timeout = run.launch.timeout
        run.since = self._event_queue.time
        is_late = timeout is not None and timeout < run.left
        self._end_in(run, min(run.left, timeout or run.left), Outcome.TIMEOUT if is_late else None)

    def _end_in(self, run: RunningAttempt, delay: float, outcome: Outcome | None) -> None:
        """Let an attempt end after `delay` with this outcome; None: by itself, with its exit code."""
        if run.end is not None:
            run.end.cancel()
        run.end = self._event_queue.after(delay, lambda: self._ended(run, outcome))

    def _ended(self, run: RunningAttempt, outcome: Outcome | None) -> None:
        key = run.launch.key
        del self._journal.runs[key]
        if outcome is not None:
            self._finish(run.launch, outcome, None, run.started_at)
            return
        code = int(run.launch.argv[1 + min(key.attempt, len(run.launch.argv) - 2)])
        if code == KILLED:
            self._finish(run.launch, Outcome.SIGNAL, None, run.started_at)
            return
        self._records.codes[key.job, key.attempt] = code
        outcome = Outcome.EXIT if code else Outcome.SUCCEEDED
        result = json.dumps({"ok": result_of(key.job, key.attempt)}).encode() if run.launch.result else None
        self._finish(run.launch, outcome, code, run.started_at, None if code else result)

    def _finish(
        self,
        launch: Launch,
        outcome: Outcome,
        code: int | None,
        started_at: float | None,
        result: bytes | None = None,
    ) -> None:
        """Report an end, and keep it until it is acknowledged (R4)."""
        key = launch.key
        self._journal.ended[key] = ended = AttemptEnded(
            key=key,
            outcome=outcome,
            exit_code=code,
            signal=9 if outcome is Outcome.SIGNAL else None,
            result=result,
            started_at=started_at,
            finished_at=self._event_queue.now().wall,
            run_seconds=None if started_at is None else max(self._event_queue.now().wall - started_at, 0.0),
            slot=launch.slot,
        )
        if self._supervisor is None:
            self._journal.synced.add(key)
        self._say(ended)

    def _say(self, message: FromLauncher) -> None:
        if self._supervisor is not None:
            self._supervisor(message)


def _tokens_of(launch: Launch) -> set[str]:
    return set(filter(None, launch.env.get("BGD_RESOURCE_GPU", "").split(",")))
