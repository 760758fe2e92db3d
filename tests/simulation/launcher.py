"""A launcher without processes: it keeps R1 to R8, and sees that nothing is started that must not be."""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec import Struct

from bgd.core.job import Outcome
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    ContinueProcesses,
    Declined,
    FromLauncher,
    Goodbye,
    Greeting,
    Launch,
    Ready,
    RenewWorkers,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
    ToLauncher,
    WatchLog,
    Welcome,
)
from tests.end_to_end.truth import Truth
from tests.simulation.agenda import Agenda, Entry

SLOTS = 3  # that there ever are
LANES = ("lane-0", "lane-1")  # queues with room for some only
MOST_IN_LANE = 2  # slots
NO_PROGRAM = "/missing"
KILLED = 255  # in place of a code: the job ends by a signal


class Run(Struct):
    """An attempt that runs: `left` seconds of it when it last stood still or went on."""

    launch: Launch
    started_at: float
    left: float
    since: float
    end: Entry | None = None
    suspended: bool = False
    stopped: bool = False


class Journal(Struct):
    """What outlives a launcher: `synced` are the ends that even a power cut leaves."""

    boot: str
    instance: str = ""
    covers: list[str] = []
    generation: int = 0
    position: int = 0
    runs: dict[AttemptKey, Run] = {}
    ended: dict[AttemptKey, AttemptEnded] = {}
    synced: set[AttemptKey] = set()


class Launcher:
    """One life of it. `say` brings a message to its master, if it has one."""

    def __init__(
        self, agenda: Agenda, dice: random.Random, journal: Journal, instance: str, truth: Truth
    ) -> None:
        self._agenda = agenda
        self._dice = dice
        self._journal = journal
        self._truth = truth
        self._master: Callable[[FromLauncher], None] | None = None
        self._is_dead = False
        self._take_over(instance)

    def hear(self, message: ToLauncher, speaker: Callable[[FromLauncher], None]) -> None:
        """Take what comes over a connection; what an older one still brings is dropped (R1)."""
        if self._is_dead:
            return
        if isinstance(message, Greeting):
            self._greet(message, speaker)
        elif speaker == self._master:
            self._obey(message)

    def lose(self, speaker: Callable[[FromLauncher], None]) -> None:
        """Take note that a connection is gone."""
        if speaker == self._master and not self._is_dead:
            self._master = None
            self._journal.synced |= self._journal.ended.keys()

    def die(self) -> None:
        """See nothing more; what runs does so until the next launcher comes."""
        self._is_dead = True
        for run in self._journal.runs.values():
            if run.end is not None:
                run.end.cancel()

    # --- beginning --------------------------------------------------------------------------------------

    def _take_over(self, instance: str) -> None:
        """End what the one before has left, and only then answer anyone (R5)."""
        journal = self._journal
        is_same_boot = journal.instance.startswith(journal.boot + ":")
        journal.covers = [*journal.covers, journal.instance] if is_same_boot else []
        for key, run in journal.runs.items():
            journal.ended[key] = AttemptEnded(
                key=key,
                outcome=Outcome.UNKNOWN if is_same_boot else Outcome.INTERRUPTED,
                started_at=run.started_at,
                finished_at=self._agenda.now().wall,
            )
        journal.runs.clear()
        journal.instance = instance
        journal.synced |= journal.ended.keys()

    def _greet(self, greeting: Greeting, speaker: Callable[[FromLauncher], None]) -> None:
        if greeting.generation < self._journal.generation:
            speaker(Declined("a younger one has taken over"))
            return
        self._journal.generation = greeting.generation
        position = self._pass(greeting.position)
        self._master = speaker
        speaker(Welcome(LAUNCHING_PROTOCOL, self._journal.instance, 1, self._journal.covers, None, position))
        for key, run in self._journal.runs.items():
            speaker(AttemptStarted(key, 1, run.started_at, run.suspended))
        for ended in self._journal.ended.values():
            speaker(ended)
        speaker(Ready())

    # --- attempts ---------------------------------------------------------------------------------------

    def _obey(self, message: ToLauncher) -> None:
        match message:
            case Launch():
                self._pass(message.position)
                self._launch(message)
            case StopProcesses(key, grace) if key in self._journal.runs:
                self._stop(self._journal.runs[key], grace)
            case SignalProcesses(key) if key in self._journal.runs:
                self._end_in(self._journal.runs[key], 0.0, Outcome.SIGNAL)
            case SuspendProcesses(key) if key in self._journal.runs:
                self._stand_still(self._journal.runs[key])
            case ContinueProcesses(key) if key in self._journal.runs:
                self._go_on(self._journal.runs[key])
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
                | Goodbye()
                | Greeting()
            ):
                pass

    def _pass(self, position: int) -> int:
        self._journal.position = max(self._journal.position, position)
        return self._journal.position

    def _launch(self, launch: Launch) -> None:
        key, runs = launch.key, self._journal.runs
        if key in runs:
            self._say(AttemptStarted(key, 1, runs[key].started_at, runs[key].suspended))
            return
        if key in self._journal.ended:
            self._say(self._journal.ended[key])
            return
        attempt = key.job, key.attempt
        self._truth.starts[attempt] += 1
        assert self._truth.starts[attempt] == 1, f"attempt {attempt} was started twice"
        assert key.job not in {other.job for other in runs}, f"two attempts of job {key.job} at one time"
        slot, queue = launch.env["BGD_SLOT"], launch.env["BGD_QUEUE"]
        assert int(slot) <= SLOTS, f"attempt {attempt} has a slot that there is not"
        assert slot not in {run.launch.env["BGD_SLOT"] for run in runs.values()}, f"slot {slot} is taken"
        beside = sum(run.launch.env["BGD_QUEUE"] == queue for run in runs.values())
        assert queue not in LANES or beside < MOST_IN_LANE, f"attempt {attempt} is too much for {queue}"
        program, seconds, *_ = launch.argv
        if program == NO_PROGRAM:
            self._finish(key, Outcome.NOT_STARTED, None, None)
            return
        now = self._agenda.now()
        run = runs[key] = Run(launch, now.wall, float(seconds), self._agenda.time)
        self._say(AttemptStarted(key, 1, run.started_at))
        self._go_on(run)

    def _stop(self, run: Run, grace: float) -> None:
        """Ask it to end, and see that it does in time; some end well by themselves before (R8)."""
        if run.stopped:
            return
        run.stopped = True
        if self._dice.random() < 0.2:
            self._end_in(run, 0.0, None)
        else:
            self._end_in(run, self._dice.choice([0.0, 0.01, grace]), Outcome.CANCELLED)

    def _stand_still(self, run: Run) -> None:
        if not run.suspended and not run.stopped and run.end is not None:
            run.end.cancel()
            run.left -= self._agenda.time - run.since
            run.suspended = True

    def _go_on(self, run: Run) -> None:
        run.suspended = False
        if not run.stopped:
            timeout = run.launch.timeout
            run.since = self._agenda.time
            is_late = timeout is not None and timeout < run.left
            self._end_in(run, min(run.left, timeout or run.left), Outcome.TIMEOUT if is_late else None)

    def _end_in(self, run: Run, delay: float, outcome: Outcome | None) -> None:
        """Let it end so; None: by itself, with its code."""
        if run.end is not None:
            run.end.cancel()
        run.end = self._agenda.after(delay, lambda: self._ended(run, outcome))

    def _ended(self, run: Run, outcome: Outcome | None) -> None:
        key = run.launch.key
        del self._journal.runs[key]
        if outcome is not None:
            self._finish(key, outcome, None, run.started_at)
            return
        code = int(run.launch.argv[1 + min(key.attempt, len(run.launch.argv) - 2)])
        if code == KILLED:
            self._finish(key, Outcome.SIGNAL, None, run.started_at)
            return
        self._truth.codes[key.job, key.attempt] = code
        self._finish(key, Outcome.EXIT if code else Outcome.SUCCEEDED, code, run.started_at)

    def _finish(self, key: AttemptKey, outcome: Outcome, code: int | None, started_at: float | None) -> None:
        """Keep an end until it is acknowledged, and tell it (R4)."""
        self._journal.ended[key] = ended = AttemptEnded(
            key=key,
            outcome=outcome,
            exit_code=code,
            signal=9 if outcome is Outcome.SIGNAL else None,
            started_at=started_at,
            finished_at=self._agenda.now().wall,
        )
        if self._master is None:
            self._journal.synced.add(key)
        self._say(ended)

    def _say(self, message: FromLauncher) -> None:
        if self._master is not None:
            self._master(message)
